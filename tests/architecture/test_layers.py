"""The contracts in pyproject.toml, which `lint-imports` checks, fail when a module breaks one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.package import PACKAGE, REPOSITORY

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, with its contracts beside it."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.html", "*.toml"))
    return tmp_path / PACKAGE.name


def lint(package: Path) -> "subprocess.CompletedProcess[str]":
    """Check the contracts on a copy. The working directory is where the linter finds package and contracts."""
    return subprocess.run(
        [str(LINT_IMPORTS), "--no-cache"], cwd=package.parent, capture_output=True, text=True, check=False
    )


def test_the_copy_keeps_its_contracts(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("planted", "contract"),
    [
        ({"segmind/one.py": "kontext_pipeline.planning"}, "Layers"),
        ({"generation/one.py": "kontext_pipeline.planning"}, "Layers"),
        ({"dataset/one.py": "kontext_pipeline.generation"}, "Layers"),
        ({"planning/one.py": "kontext_pipeline.pipeline"}, "Layers"),
        ({"orchestration/one.py": "kontext_pipeline.cli"}, "Layers"),
        ({"without_a_layer.py": "math"}, "Layers"),
        ({"generation/one.py": "dagster"}, "Only orchestration"),
        ({"planning/one.py": "requests"}, "Planning touches no network"),
        ({"planning/one.py": "kontext_pipeline.segmind.client"}, "Planning touches no network"),
        ({"orchestration/one.py": "kontext_pipeline.sandbox"}, "A paid run imports no sandbox"),
        ({"sandbox/one.py": "kontext_pipeline.segmind.client"}, "The sandbox stands apart"),
        (
            {
                "planning/one.py": "kontext_pipeline.planning.two",
                "planning/two.py": "kontext_pipeline.planning.one",
            },
            "No circles",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_a_planted_violation_breaks_its_contract(copy: Path, planted: dict[str, str], contract: str) -> None:
    for module, imported in planted.items():
        (copy / module).write_text(f"import {imported}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), done.stdout
