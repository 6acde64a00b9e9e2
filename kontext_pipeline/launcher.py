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

NEW_INSTANCE: Final = "telemetry: {enabled: false}\nnux: {enabled: false}\n"
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


def dagster_home() -> Path:
    """Return the folder of the Dagster instance: `DAGSTER_HOME`, else `.dagster`. It is made if it is missing."""
    folder = Path(os.environ.get("DAGSTER_HOME") or ".dagster").absolute()
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "dagster.yaml").write_text(NEW_INSTANCE)
    return folder


def open_ui(settings: Settings, *, port: int) -> int:
    """Run `dagster dev` with these settings until it is interrupted. Return its exit status.

    Without `DAGSTER_HOME` the instance is in `.dagster` in the working directory.
    """
    environment = {**os.environ, "DAGSTER_HOME": str(dagster_home()), **_as_environment(settings)}
    dagster = Path(sys.executable).with_name("dagster")
    command = [str(dagster), "dev", "--module-name", "kontext_pipeline.definitions", "--port", str(port)]
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The terminal interrupts Dagster too, which then takes some seconds to end.
                continue


def _as_environment(settings: Settings) -> dict[str, str]:
    """Return the settings that were given as options, as environment variables."""
    # Secrets come from where this process has them: the environment or the `.env` file.
    given = settings.model_dump(exclude_unset=True, exclude={"api_key", "alert_url", "alert_template"})
    texts = {name: str(value) for name, value in given.items() if value is not None}
    texts |= {name: shlex.join(value) for name, value in given.items() if isinstance(value, list)}
    for name in {"manifests", "input_roots"} & given.keys():
        paths = (item if "://" in item else str(Path(item).expanduser().absolute()) for item in given[name])
        texts[name] = shlex.join(paths)
    if "://" not in settings.data_dir and "data_dir" in texts:
        texts["data_dir"] = str(Path(settings.data_dir).absolute())
    return {environment_variable(name): text for name, text in texts.items()}
