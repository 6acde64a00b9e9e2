"""The code location loads: by every tool, quickly, and with nothing set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kontext_pipeline.definitions import defs

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent

ASSETS = {"plan", "inputs", "requests", "images", "metadata", "quality", "review", "dataset", "spend"}


def test_the_definitions_are_whole() -> None:
    definitions = defs()
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == ASSETS
    assert {key.name for key in graph.asset_check_keys} == {
        "aspect_ratios_are_as_asked",
        "books_balance",
        "every_input_is_there",
        "every_planned_row_is_in_the_table",
        "every_row_has_its_picture",
        "export_is_whole",
        "few_near_duplicates",
        "few_pictures_are_black",
        "few_pictures_are_unchanged",
        "few_rows_failed",
        "pictures_are_reviewed",
        "pictures_are_unchanged",
        "plan_is_current",
    }
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description
        assert node.group_name == "dataset"
    images = definitions.resolve_assets_def("images")
    assert images.op.pool == "segmind_api"
    assert images.op.retry_policy is not None


def load(tmp_path: Path) -> tuple[float, set[str]]:
    """Load the definitions in a new process. Return the seconds of processor time and the modules it took."""
    code = (
        "import json, sys, time, dagster\n"
        "before = set(sys.modules)\n"
        "start = time.process_time()\n"
        "from kontext_pipeline.definitions import defs\n"
        "defs()\n"
        "seconds = time.process_time() - start\n"
        "print(json.dumps([seconds, sorted(set(sys.modules) - before)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=_bare(), capture_output=True, text=True, check=True
    )
    seconds, loaded = json.loads(done.stdout)
    return seconds, set(loaded)


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"pandas", "pyarrow", "numpy", "sqlalchemy", "alembic", "PIL", "requests", "starlette"}
    assert not heavy & load(tmp_path)[1]


@pytest.mark.long
def test_a_named_dataset_has_assets_and_partitions_of_its_own(tmp_path: Path) -> None:
    code = (
        "from kontext_pipeline.definitions import defs\n"
        "graph = defs().resolve_asset_graph()\n"
        "print({key.path[0] for key in graph.get_all_asset_keys()})\n"
        "print({key.asset_key.path[0] for key in graph.asset_check_keys})\n"
        "partitions = [graph.get(key).partitions_def for key in graph.get_all_asset_keys()]\n"
        "print({one.name for one in partitions if one})\n"
        "keys = defs().resolve_job_def('augment_birds').asset_layer.executable_asset_keys\n"
        "print(sorted(key.to_user_string() for key in keys))"
    )
    environment = _bare() | {"KONTEXT_DATASET": "birds"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "{'birds'}",
        "{'birds'}",
        "{'batch_birds'}",
        "['birds/images', 'birds/metadata']",
    ]


@pytest.mark.long
@pytest.mark.alone
def test_loading_is_quick(tmp_path: Path) -> None:
    assert min(load(tmp_path)[0] for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate"],
        pytest.param(["dagster", "definitions", "validate", "--workspace", "workspace.yaml"], marks=pytest.mark.long),
        pytest.param(["dg", "check", "defs"], marks=pytest.mark.long),
    ],
    ids=str,
)
def test_every_tool_loads_it_with_nothing_set(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SCRIPTS / command[0]), *command[1:]],
        cwd=REPOSITORY,
        env=_bare() | {"DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BetaWarning" not in done.stdout + done.stderr


@pytest.mark.long
def test_dg_lists_what_there_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SCRIPTS / "dg"), "list", "defs", "--json"],
        cwd=REPOSITORY,
        env=_bare() | {"DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    listed = json.loads(done.stdout)
    assert {one["asset_key"] for one in listed["assets"]} == ASSETS
    assert {one["name"] for one in listed["jobs"]} == {"plan_manifests", "augment"}


def _bare() -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("KONTEXT_", "SEGMIND_", "DAGSTER_"))
    }
    return kept | {"PATH": f"{SCRIPTS}{os.pathsep}{kept.get('PATH', '')}", "PYTHONPATH": str(REPOSITORY)}
