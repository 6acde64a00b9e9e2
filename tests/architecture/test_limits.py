"""Limits on the size of the package, its modules and its classes, and on its names and words.

`KNOWN` in exceptions.py lists what still breaks one. tests/architecture/package.py says how methods and attributes
are counted.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grimp
import pytest

from tests.architecture.exceptions import KNOWN
from tests.architecture.package import (
    PACKAGE,
    Class,
    attributes_of,
    classes_in,
    methods_of,
    module_paths,
)

MODULE_LINES: Final = 400
CLASS_METHODS: Final = 20
CLASS_ATTRIBUTES: Final = 15
PACKAGE_LINES: Final = 38_000
RETIRED_WORDS: Final = re.compile(
    r"\b(wish(es)?|desk|undertaker|obituaries|crew|lull|heed|backstage|studio|beat)\b", re.IGNORECASE
)
"""Words that a standard term has replaced: see the glossary in docs/architecture.md."""


def long_modules(package: Path) -> set[str]:
    """Return the modules with more than `MODULE_LINES` lines."""
    return {_in(package, path) for path in module_paths(package) if _lines(path) > MODULE_LINES}


def large_classes(package: Path) -> set[str]:
    """Return the classes with more than `CLASS_METHODS` methods or `CLASS_ATTRIBUTES` attributes."""
    by_module: dict[Path, list[Class]] = {
        path: list(classes_in(path.read_text(encoding="utf-8"))) for path in module_paths(package)
    }
    everything = [one for classes in by_module.values() for one in classes]
    return {
        f"{_in(package, path)}::{one.name}"
        for path, classes in by_module.items()
        for one in classes
        if len(methods_of(one, everything)) > CLASS_METHODS or len(attributes_of(one, everything)) > CLASS_ATTRIBUTES
    }


def names_used_twice(package: Path) -> set[str]:
    """Return the file names that more than one module has; a package's `__init__.py` has the package's name."""
    names = Counter(path.name for path in module_paths(package) if path.name != "__init__.py")
    return {name for name, times in names.items() if times > 1}


def circles(package: Path) -> set[str]:
    """Return the modules that import themselves by way of others."""
    graph = grimp.build_graph(package.name, cache_dir=None)
    return {
        module
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if graph.chain_exists(importer=imported, imported=module)
    }


def retired_words(package: Path) -> set[str]:
    """Return each retired word beside the file that uses it, templates and data included."""
    return {
        f"{_in(package, path)}: {found.group().lower()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        for found in RETIRED_WORDS.finditer(f"{_in(package, path)}\n{path.read_text(encoding='utf-8')}")
    }


def eager_sandbox_imports(package: Path) -> set[str]:
    """Return the modules outside the sandbox that import it when they are loaded, not in a function."""
    return {
        _in(package, path)
        for path in module_paths(package)
        if path.relative_to(package).parts[0] != "sandbox"
        for node in _run_at_load(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and re.search(rf"\b{package.name}\b.*\bsandbox\b", ast.unparse(node))
    }


def too_many_lines(package: Path) -> set[str]:
    """Return the package's name if its modules have more than `PACKAGE_LINES` lines in all."""
    return {package.name} if sum(map(_lines, module_paths(package))) > PACKAGE_LINES else set()


Rule = Callable[[Path], set[str]]
RULES: Final[list[Rule]] = [
    long_modules,
    large_classes,
    names_used_twice,
    circles,
    retired_words,
    eager_sandbox_imports,
    too_many_lines,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    found, known = rule(PACKAGE), KNOWN.get(rule.__name__, set())
    assert sorted(found - known) == [], f"these break the rule {rule.__name__}"
    assert sorted(known - found) == [], f"these keep the rule {rule.__name__}: remove them from KNOWN"


def test_known_exceptions_belong_to_rules() -> None:
    assert set(KNOWN) <= {rule.__name__ for rule in RULES}


def class_of(name: str, *, methods: int = 0, attributes: int = 0, head: str = "") -> str:
    """Return the source of a class with so many methods, the first of which sets so many attributes."""
    lines = [f"class {name}{head}:", "    fixed: ClassVar[int] = 1"]
    lines += [f"    def method_{name}_{number}(self): pass" for number in range(methods - bool(attributes))]
    lines += ["    def start(self):"] * bool(attributes)
    lines += [f"        self.{name}_{number} = 1" for number in range(attributes)]
    return "\n".join([*lines, ""])


def record_of(fields: int, decorator: str) -> str:
    lines = [decorator, "class Row:", *(f"    field_{number}: int" for number in range(fields))]
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(
    ("source", "large"),
    [
        (class_of("Few", methods=20, attributes=15), set()),
        (class_of("Many", methods=21), {"one.py::Many"}),
        (class_of("Full", methods=1, attributes=16), {"one.py::Full"}),
        (record_of(16, "@dataclass"), {"one.py::Row"}),
        (record_of(16, "@dataclass(frozen=True)"), set()),
        (
            "class Base(BaseModel): pass\nclass Form(Base):\n" + "".join(f"    field_{n}: int\n" for n in range(16)),
            set(),
        ),
        (
            class_of("Mixin", methods=12) + class_of("Whole", methods=12, head="(Mixin)"),
            {"one.py::Whole"},
        ),
        (
            "def outer():\n" + "".join(f"    {line}\n" for line in class_of("Inner", methods=21).splitlines()),
            {"one.py::Inner"},
        ),
    ],
    ids=["at the limit", "methods", "attributes", "dataclass", "frozen", "form", "mixin", "nested"],
)
def test_large_classes_are_found(tmp_path: Path, source: str, large: set[str]) -> None:
    (tmp_path / "one.py").write_text(source)
    assert large_classes(tmp_path) == large


def test_broken_rules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "planted"
    for room in ("", "a", "b"):
        (package / room).mkdir()
        (package / room / "__init__.py").touch()
    (package / "a" / "store.py").write_text("from planted.b import store\n")
    (package / "b" / "store.py").write_text("def late():\n    from planted.a import store\n")
    (package / "a" / "long.py").write_text("x = 1\n" * 401)
    (package / "b" / "short.py").write_text("x = 1\n" * 400)
    (package / "page.html").write_text("<p>Make a Wish, offbeat")
    monkeypatch.syspath_prepend(str(tmp_path))
    (package / "lazy.py").write_text("def late():\n    from planted.sandbox import server\n")
    (package / "eager.py").write_text("if True:\n    from planted.sandbox import server\n")
    assert long_modules(package) == {"a/long.py"}
    assert names_used_twice(package) == {"store.py"}
    assert circles(package) == {"planted.a.store", "planted.b.store"}
    assert retired_words(package) == {"page.html: wish"}
    assert eager_sandbox_imports(package) == {"eager.py"}
    assert too_many_lines(package) == set()
    (package / "many.py").write_text("x = 1\n" * PACKAGE_LINES)
    assert too_many_lines(package) == {"planted"}


def _run_at_load(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a module that run when it is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _run_at_load(child)


def _in(package: Path, path: Path) -> str:
    return path.relative_to(package).as_posix()


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
