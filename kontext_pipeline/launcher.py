"""Programs that a command starts: a sandbox, the Dagster UI."""

import contextlib
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import requests

from kontext_pipeline.settings import Settings, environment_variable

log: Final = logging.getLogger(__name__)

REHEARSAL_SPEED: Final = 20.0
"""Speed of a sandbox that a command starts: time passes 20 times as fast, so a generation takes 1.2 s."""

DAGSTER_YAML: Final = """\
# https://docs.dagster.io/deployment/oss/dagster-yaml
telemetry:
  enabled: false
nux:
  enabled: false
"""
"""Configuration of a new Dagster instance."""


@contextlib.contextmanager
def sandbox_if_needed(settings: Settings) -> Iterator[Settings]:
    """Yield settings whose API is running. For the sandbox backend, a sandbox is started unless one is running.

    If `SEGMIND_BASE_URL` is set, no sandbox is started.
    """
    if settings.paid or settings.base_url or _answers(settings.resolved_base_url):
        yield settings
        return
    from kontext_pipeline.sandbox.config import SandboxConfig
    from kontext_pipeline.sandbox.server import serve_in_thread

    with serve_in_thread(SandboxConfig(speed=REHEARSAL_SPEED)) as url:
        log.info("A sandbox was started at %s.", url)
        yield settings.model_copy(update={"base_url": url})


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/sandbox/books?after=1000000000", timeout=2).ok
    except requests.RequestException:
        return False


def dagster_home() -> Path | None:
    """Return the folder of the Dagster instance, made if missing; None if `DAGSTER_HOME` is not set."""
    home = os.environ.get("DAGSTER_HOME")
    return _with_instance(Path(home)) if home else None


def _with_instance(home: Path) -> Path:
    if not home.exists():
        home.mkdir(parents=True)
        (home / "dagster.yaml").write_text(DAGSTER_YAML)
    return home


def open_ui(settings: Settings, *, port: int) -> int:
    """Run `dagster dev` with these settings until it is interrupted. Return its exit status.

    Without `DAGSTER_HOME` the instance is in `.dagster` in the working directory.
    """
    home = dagster_home() or _with_instance(Path.cwd() / ".dagster")
    environment = {**os.environ, "DAGSTER_HOME": str(home.absolute()), **_as_environment(settings)}
    command = [
        str(Path(sys.executable).with_name("dagster")),
        "dev",
        "--module-name",
        "kontext_pipeline.definitions",
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The terminal interrupts Dagster too, which then takes some seconds to end.
                continue


def _as_environment(settings: Settings) -> dict[str, str]:
    """Return the settings that were given as options, as environment variables."""
    given = settings.model_dump(exclude_unset=True, exclude={"api_key"})
    texts = {
        name: shlex.join(str(Path(item).absolute()) for item in value) if name == "manifests" else str(value)
        for name, value in given.items()
        if value is not None
    }
    if "data_dir" in texts and "://" not in texts["data_dir"]:
        texts["data_dir"] = str(Path(texts["data_dir"]).absolute())
    return {environment_variable(name): text for name, text in texts.items()}
