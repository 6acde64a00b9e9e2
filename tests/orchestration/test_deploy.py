"""Each shipped file of a deployment is one that the program takes, and says what it is meant to.

`deployment` starts the commands of the units in the long tests.
"""

import getpass
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, config_from_files
from dagster_celery import celery_executor

from tests.conftest import DatabaseMaker
from tests.orchestration.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
BIN = Path(sys.executable).parent
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def read(name: str) -> Any:
    return dict(config_from_files([str(DEPLOY / name)]))


def command_of(unit: Path) -> list[str]:
    [start] = re.findall("^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    return shlex.split(start)


def check(instance: DagsterInstance) -> None:
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds == 604800
    assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 30
    assert instance.run_monitoring_poll_interval_seconds == 15
    assert instance.run_retries_max_retries == 3
    assert not instance.run_retries_retry_on_asset_or_op_failure
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.default_pool_limit == 1
    assert concurrency.run_queue_config is not None
    assert concurrency.run_queue_config.max_concurrent_runs == 2


def test_the_instance_configuration_is_taken(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        check(instance)


def test_the_instance_configuration_for_postgresql_is_taken(
    tmp_path: Path, postgres_maker: DatabaseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(DEPLOY / "dagster.postgres.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_maker())
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        check(instance)
        instance.add_dynamic_partitions("batch", ["photos-00000"])
        assert instance.get_dynamic_partitions("batch") == ["photos-00000"]


def test_the_two_instance_configurations_differ_in_their_storage_alone() -> None:
    one, other = read("dagster.yaml"), read("dagster.postgres.yaml")
    assert other.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert one == other


def test_the_location_for_celery_loads() -> None:
    defs = runpy.run_path(str(DEPLOY / "celery" / "definitions.py"))["defs"]()
    assert defs.executor.name == "celery"


def test_the_configuration_of_celery_is_one_of_its_executor() -> None:
    config = read("celery/celery.yaml")["execution"]["config"]
    executor = celery_executor.configured(config)
    assert executor.name == "celery"
    queue = config["config_source"]["task_default_queue"]
    worker = command_of(DEPLOY / "systemd" / "kontext-worker.service")
    assert worker[worker.index("-q") + 1] == queue


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    text = unit.read_text()
    assert "EnvironmentFile=/etc/kontext/kontext.env" in text
    here = tmp_path / unit.name
    here.write_text(
        text.replace("/opt/kontext/.venv/bin", str(BIN))
        .replace("User=kontext", f"User={getpass.getuser()}")
        .replace("/srv/kontext", str(tmp_path))
    )
    checked = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False)
    problems = [
        line for line in checked.stderr.splitlines() if unit.name in line and "kontext-code.service" not in line
    ]
    assert problems == []


def test_the_services_of_compose_run_the_commands_of_the_units() -> None:
    services = read("compose/compose.yaml")["services"]
    for name in ("code", "daemon", "webserver"):
        unit = command_of(DEPLOY / "systemd" / f"kontext-{name}.service")
        command = services[name]["command"]
        assert command[0] == Path(unit[0]).name
        assert (BIN / command[0]).exists()
        assert [part for part in command if part.startswith("-")] == [part for part in unit if part.startswith("-")]
    environment = services["code"]["environment"]
    assert [services["code"]["command"][-1], "code"] == [
        environment["KONTEXT_CODE_PORT"],
        environment["KONTEXT_CODE_HOST"],
    ]
    # Without a host in their names images come from wherever the reader's Docker looks.
    assert "/" not in services["database"]["image"]
    build = services["code"]["build"]
    assert (DEPLOY / "compose" / build["context"] / build["dockerfile"]).samefile(DEPLOY / "compose" / "Dockerfile")


def test_the_dockerfile_copies_what_is_there() -> None:
    lines = (DEPLOY / "compose" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in shlex.split(line)[1:-1]]
    assert copied
    assert [source for source in copied if not (REPOSITORY / source).exists()] == []


def test_the_example_of_the_environment_names_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from kontext_pipeline.settings import Settings, environment_variable, load_settings

    lines = (DEPLOY / "kontext.env.example").read_text().splitlines()
    pairs = dict(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=(.*)$", "\n".join(lines), re.MULTILINE))
    known = {environment_variable(name) for name in Settings.model_fields}
    others = {name for name in pairs if name.startswith(("KONTEXT_", "SEGMIND_"))} - known
    assert others == {"KONTEXT_CODE_HOST", "KONTEXT_CODE_PORT"}
    for name, value in pairs.items():
        monkeypatch.setenv(name, value)
    assert load_settings().paid
