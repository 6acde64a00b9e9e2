"""Other programs that a command starts beside itself: a sandbox, the Dagster UI."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import requests

from kontext_pipeline.settings import Settings, environment_variable

REHEARSAL_SPEED: Final = 20.0
"""How much faster than real a sandbox runs that a command starts by itself: a generation takes 1.2 s."""

DAGSTER_YAML: Final = """\
# https://docs.dagster.io/deployment/oss/dagster-yaml
telemetry:
  enabled: false
nux:
  enabled: false
"""
"""The configuration of an instance that is made here."""


@contextlib.contextmanager
def sandbox_if_needed(settings: Settings) -> Iterator[Settings]:
    """Settings whose API is there: for the sandbox backend, one is started here unless one is running.

    Where `SEGMIND_BASE_URL` is set, that is the sandbox, running or not.
    """
    if settings.paid or settings.base_url or _answers(settings.resolved_base_url):
        yield settings
        return
    from kontext_pipeline.sandbox.config import SandboxConfig
    from kontext_pipeline.sandbox.server import serve_in_thread

    with serve_in_thread(SandboxConfig(speed=REHEARSAL_SPEED)) as url:
        yield settings.model_copy(update={"base_url": url})


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/sandbox/books?after=1000000000", timeout=2).ok
    except requests.RequestException:
        return False


def dagster_home() -> Path | None:
    """Where Dagster keeps its instance, if it was told to keep one. The folder is made where it isn't there."""
    named = os.environ.get("DAGSTER_HOME")
    return _made(Path(named)) if named else None


def _made(home: Path) -> Path:
    if not home.exists():
        home.mkdir(parents=True)
        (home / "dagster.yaml").write_text(DAGSTER_YAML)
    return home


def open_ui(settings: Settings, *, port: int) -> int:
    """Run `dagster dev` with these settings until it is interrupted; return its exit status.

    Without `DAGSTER_HOME` the instance is kept in `.dagster` in the working directory.
    """
    home = dagster_home() or _made(Path.cwd() / ".dagster")
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
                # The terminal has sent it to Dagster as well, which takes its time to leave in order.
                continue


def _as_environment(settings: Settings) -> dict[str, str]:
    """The settings that were given by option, as the environment variables that say the same."""
    given = settings.model_dump(exclude_unset=True, exclude={"api_key"})
    words = {
        name: shlex.join(str(Path(item).absolute()) for item in value) if name == "manifests" else str(value)
        for name, value in given.items()
        if value is not None
    }
    if "data_dir" in words and "://" not in words["data_dir"]:
        words["data_dir"] = str(Path(words["data_dir"]).absolute())
    return {environment_variable(name): text for name, text in words.items()}
