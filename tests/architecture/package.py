"""Measures the source of the package: its modules, classes and words. The package itself is not imported."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
PACKAGE: Final = REPOSITORY / "kontext_pipeline"

RECORD_BASES: Final = {
    *("Enum", "Flag", "IntEnum", "IntFlag", "NamedTuple", "Protocol", "StrEnum", "TypedDict"),
    *("BaseModel", "BaseSettings", "RootModel", "Config", "ConfigurableResource"),
}
"""Bases of records. Their fields describe a document, a table row or a form; methods don't change them."""


@dataclass(frozen=True)
class Class:
    """A class as its source defines it, without what it inherits."""

    name: str
    bases: frozenset[str]
    is_record: bool
    methods: frozenset[str]
    """Functions in the class body. Overloads, and getter and setter of one name, count once."""
    fields: frozenset[str]
    """Names annotated in the class body, except class variables."""
    assigned: frozenset[str]
    """Names assigned on `self` in a method."""


def module_paths(package: Path = PACKAGE) -> list[Path]:
    """Return the Python files of a package, sorted by path."""
    return sorted(package.rglob("*.py"))


def classes_in(source: str) -> Iterator[Class]:
    """Yield each class that a module defines, nested classes too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield _read_class(node)


def methods_of(one: Class, package: Iterable[Class]) -> set[str]:
    """Return the methods of a class with those of its bases in the package: a mixin hides none."""
    return {name for each in _with_bases(one, package) for name in each.methods}


def attributes_of(one: Class, package: Iterable[Class]) -> set[str]:
    """Return the instance attributes of a class with those of its bases in the package.

    Attributes are the names assigned on `self` and the fields declared in the class body. The fields of a record (a
    frozen dataclass, or a class derived from `RECORD_BASES`) don't count: they say how wide a table or a form is,
    not how much state the methods share.
    """
    line = _with_bases(one, package)
    found = {name for each in line for name in each.assigned}
    if not any(each.is_record for each in line):
        found |= {name for each in line for name in each.fields}
    return found


def _with_bases(one: Class, package: Iterable[Class]) -> list[Class]:
    by_name = {each.name: each for each in package}
    found, names = [one], list(one.bases)
    while names:
        base = by_name.get(names.pop())
        if base is not None and base not in found:
            found.append(base)
            names.extend(base.bases)
    return found


def _read_class(node: ast.ClassDef) -> Class:
    functions = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    bases = frozenset(_last_name(base) for base in node.bases)
    return Class(
        name=node.name,
        bases=bases,
        is_record=bool(bases & RECORD_BASES) or any(map(_freezes, node.decorator_list)),
        methods=frozenset(function.name for function in functions),
        fields=frozenset(
            child.target.id
            for child in node.body
            if isinstance(child, ast.AnnAssign)
            and isinstance(child.target, ast.Name)
            and _last_name(child.annotation) != "ClassVar"
        ),
        assigned=frozenset(name for function in functions for name in _assigned_on_self(function)),
    )


def _assigned_on_self(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def _freezes(decorator: ast.expr) -> bool:
    return (
        isinstance(decorator, ast.Call)
        and _last_name(decorator.func) == "dataclass"
        and any(word.arg == "frozen" and ast.unparse(word.value) == "True" for word in decorator.keywords)
    )


def _last_name(expression: ast.expr) -> str:
    """Return `C` of `C`, `a.b.C` and `C[int]`."""
    return re.split(r"[\[(]", ast.unparse(expression), maxsplit=1)[0].rpartition(".")[2]
