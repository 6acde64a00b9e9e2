"""Limits on size and words. `KNOWN` in exceptions.py lists what still breaks one."""

import re
from collections import Counter
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
PACKAGE_LINES: Final = 15_000
RETIRED_WORDS: Final = re.compile(
    r"\b(wish(es)?|desk|undertaker|obituaries|crew|lull|heed|backstage|studio|beat)\b", re.IGNORECASE
)
"""Words that the glossary in docs/architecture.md replaced."""


def path_in(package: Path, path: Path) -> str:
    return path.relative_to(package).as_posix()


def long_modules(package: Path) -> set[str]:
    """Return the modules with more than `MODULE_LINES` lines."""
    return {
        path_in(package, path)
        for path in module_paths(package)
        if len(path.read_text().splitlines()) > MODULE_LINES
    }


def large_classes(package: Path) -> set[str]:
    """Return the classes with more than `CLASS_METHODS` methods or `CLASS_ATTRIBUTES` attributes, as module::class."""
    found: dict[Path, list[Class]] = {path: list(classes_in(path.read_text())) for path in module_paths(package)}
    everything = [one for classes in found.values() for one in classes]
    return {
        f"{path_in(package, path)}::{one.name}"
        for path, classes in found.items()
        for one in classes
        if len(methods_of(one, everything)) > CLASS_METHODS
        or len(attributes_of(one, everything)) > CLASS_ATTRIBUTES
    }


def names_used_twice(package: Path) -> set[str]:
    """Return the file names that several modules have. `__init__.py` is no name."""
    names = Counter(path.name for path in module_paths(package) if path.name != "__init__.py")
    return {name for name, times in names.items() if times > 1}


def modules_in_circles(package: Path) -> set[str]:
    """Return the modules that import themselves by way of others."""
    graph = grimp.build_graph(package.name, cache_dir=None)
    return {
        module.removeprefix(f"{package.name}.")
        for module in graph.modules
        if any(
            graph.chain_exists(imported, module)
            for imported in graph.find_modules_directly_imported_by(module)
        )
    }


def retired_words(package: Path) -> set[str]:
    """Return each use of a retired word in a file of the package, as path: word."""
    return {
        f"{path_in(package, path)}: {found.group().lower()}"
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
        for found in RETIRED_WORDS.finditer(path.read_text())
    }


def too_many_lines(package: Path) -> set[str]:
    """Return the package's name if its Python files have more than `PACKAGE_LINES` lines in all."""
    lines = sum(len(path.read_text().splitlines()) for path in module_paths(package))
    return {package.name} if lines > PACKAGE_LINES else set()


RULES: Final = [
    long_modules,
    large_classes,
    names_used_twice,
    modules_in_circles,
    retired_words,
    too_many_lines,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule) -> None:
    found, known = rule(PACKAGE), KNOWN.get(rule.__name__, set())
    assert found - known == set(), f"these break the rule {rule.__name__}"
    assert known - found == set(), f"these keep the rule {rule.__name__}: remove them from KNOWN"


def test_exceptions_name_rules() -> None:
    assert set(KNOWN) <= {rule.__name__ for rule in RULES}
