"""The jinja2 templates of a recipe: compiled once, checked before any is rendered, and always quick to render.

A template has values, `if`, comparisons and the filters of `FILTERS`. Loops, calls, assignments and multiplication are
not allowed, so that no template runs for long or fills the memory, whoever wrote the recipe.
"""

import difflib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

INPUT: Final = "input"
"""Name of the input in a template: `input.stem`."""
FILTERS: Final = (
    *("capitalize", "default", "first", "int", "join", "last", "length", "lower", "replace", "round", "title"),
    *("trim", "truncate", "upper"),
)
LONGEST_TEXT: Final = 10_000
"""Most characters of a template, of a filter's result and of a rendered text."""

_ALLOWED: Final = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.CondExpr, nodes.Const, nodes.Name),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Keyword, nodes.List, nodes.Tuple),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Neg, nodes.Concat),
)


class TemplateProblem(Exception):
    """The template can't be used. The text of the error says why."""


class Template:
    """A compiled template.

    Attributes:
        source: The text in the recipe.
        names: The names that the template uses besides `input`: named lists.
        attributes: The columns of the input that the template uses.
        fields: The fields of a list's values that the template uses: pairs of the list and the field.
    """

    def __init__(self, source: str, *, is_condition: bool = False) -> None:
        """Compile a template, or with `is_condition` an expression, which renders as text if true, else as "".

        Raises:
            TemplateProblem: The template is no valid one, or uses what is not allowed.
        """
        self.source = source
        if len(source) > LONGEST_TEXT:
            raise TemplateProblem(f"has {len(source):,} characters; at most {LONGEST_TEXT:,} are allowed")
        try:
            if is_condition:
                _ENVIRONMENT.compile_expression(source)
                source = f"{{% if {source} %}}true{{% endif %}}"
            tree = _ENVIRONMENT.parse(source)
            _check(tree)
            self.names = frozenset(node.name for node in tree.find_all(nodes.Name)) - {INPUT}
            fields = frozenset(_fields(tree))
            self.attributes = frozenset(field for name, field in fields if name == INPUT)
            self.fields = frozenset(pair for pair in fields if pair[0] != INPUT)
            self._render = _ENVIRONMENT.from_string(tree).render
        except jinja2.TemplateSyntaxError as error:
            lines = self.source.count("\n")
            where = f" (line {error.lineno} of the template)" if lines else ""
            raise TemplateProblem(f"is not a valid jinja2 template: {error.message}{where}") from None
        except ValueError as error:
            raise TemplateProblem(f"is not a valid jinja2 template: {error}") from None
        except (RecursionError, SyntaxError, MemoryError):
            # Of jinja2, or of Python, which compiles what jinja2 makes of the template.
            raise TemplateProblem("is nested too deeply; make the template simpler") from None

    def render(self, lists: Mapping[str, Any], columns: Mapping[str, Any]) -> str:
        """Return the text for one value of each named list and the columns of one input.

        Raises:
            TemplateProblem: The template can't be rendered with these values, or its text is too long.
        """
        try:
            values = {name: _Fields(**value) if isinstance(value, dict) else value for name, value in lists.items()}
            text = self._render(values, input=_Fields(**columns))
        except _RefusedError as error:
            raise TemplateProblem(str(error)) from None
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise TemplateProblem(f"can't be rendered: {error}") from None
        if len(text) > LONGEST_TEXT:
            raise TemplateProblem(f"gives {len(text):,} characters; at most {LONGEST_TEXT:,} are allowed")
        return text


class _RefusedError(Exception):
    """A template does while it is rendered what is not allowed. The text of the error says what."""


class _Fields(SimpleNamespace):
    """Values by name. Unlike a mapping, it has no methods that hide a value."""


def _bounded(filter_: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(filter_)
    def bounded(*arguments: Any, **options: Any) -> Any:
        result = filter_(*arguments, **options)
        if isinstance(result, str) and len(result) > LONGEST_TEXT:
            raise _RefusedError(f"gives more than {LONGEST_TEXT:,} characters, the most that are allowed")
        return result

    return bounded


def _shown(value: Any) -> Any:
    if isinstance(value, _Fields):
        raise _RefusedError(f"shows a value with several fields; name one of them ({', '.join(vars(value))})")
    # A value that isn't given is no text.
    return "" if value is None else value


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        # Constants are not computed while a template is compiled.
        optimized=False,
        finalize=_shown,
    )
    environment.globals.clear()
    environment.filters = {name: _bounded(environment.filters[name]) for name in FILTERS}
    return environment


_ENVIRONMENT: Final = _environment()


def _check(tree: nodes.Template) -> None:
    """Check that a template uses nothing but what is allowed.

    Raises:
        TemplateProblem: The template uses something else.
    """
    whole_inputs = 0
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Call):
            raise TemplateProblem(f"calls a function, which is not allowed; filters are: {', '.join(FILTERS)}")
        if not isinstance(node, _ALLOWED):
            raise TemplateProblem(
                f"uses {type(node).__name__.lower()!r}, which is not allowed; values, if and filters are"
            )
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            raise TemplateProblem(f"uses the filter {node.name!r}; allowed: {', '.join(FILTERS)}")
        whole_inputs += isinstance(node, nodes.Name) and node.name == INPUT
    if whole_inputs > sum(name == INPUT for name, _ in _fields(tree)):
        raise TemplateProblem("uses input as a whole; name one of its columns, as in input.stem")


def _fields(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    """Yield name and field of each `name.field` and `name["field"]` in a template."""
    for getattr_ in tree.find_all(nodes.Getattr):
        if isinstance(getattr_.node, nodes.Name):
            yield getattr_.node.name, getattr_.attr
    for getitem in tree.find_all(nodes.Getitem):
        key = getitem.arg.value if isinstance(getitem.arg, nodes.Const) else None
        if isinstance(getitem.node, nodes.Name) and isinstance(key, str):
            yield getitem.node.name, key


def likely(name: str, known: Collection[str]) -> str:
    """Return a question after the one of the `known` names that `name` resembles, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
