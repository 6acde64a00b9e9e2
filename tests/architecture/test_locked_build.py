"""`make install` runs no code that the lock file does not pin: not in the package, and not in what builds it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def normalized(requirement: str) -> str:
    """Return the name in a requirement, as package indexes write it."""
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def pinned() -> dict[str, int]:
    """Return every locked package with the number of its hashes."""
    entries = re.split(r"\n(?=\S)", LOCK)
    found = {}
    for entry in entries:
        if match := re.match(r"([A-Za-z0-9_.-]+)==", entry):
            found[normalized(match[1])] = entry.count("--hash=sha256:")
    return found


def test_what_builds_the_package_is_locked_with_hashes() -> None:
    locked = pinned()
    assert len(locked) > 100
    assert all(locked.values()), "a package without hashes"
    for requirement in PROJECT["build-system"]["requires"]:
        assert normalized(requirement) in locked


@pytest.mark.parametrize("group", ["dev", "build"])
def test_every_package_of_a_group_is_locked(group: str) -> None:
    assert {normalized(one) for one in PROJECT["dependency-groups"][group]} <= pinned().keys()


def test_the_installation_takes_the_locked_packages_alone() -> None:
    installs = re.findall(r"pip install.*", (ROOT / "Makefile").read_text())
    assert len(installs) == 2
    assert all("--no-deps" in install for install in installs)
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-build-isolation" in installs[1]


def test_the_lock_names_no_host() -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", LOCK)
