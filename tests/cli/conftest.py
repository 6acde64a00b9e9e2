"""Runs `kontext` against a provider on loopback, in a folder of its own.

`kontext` runs it in this process, which saves the second that imports take. Tests of signals, of a terminal and of what is
imported start `KONTEXT` in a process of its own.
"""

import csv
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from kontext_pipeline.cli import main
from tests.cli.provider import KEY, Provider, running_provider

KONTEXT = Path(sys.executable).with_name("kontext")

Kontext = Callable[..., "Done"]


@dataclass
class Done:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def environment(provider: Provider) -> dict[str, str]:
    """A user's environment: the key and where the API is, impatient retries, and nothing else of ours."""
    clean = {
        name: text for name, text in os.environ.items() if not name.startswith(("KONTEXT_", "SEGMIND_", "DAGSTER_"))
    }
    return {
        **clean,
        "SEGMIND_API_KEY": KEY,
        "SEGMIND_BASE_URL": provider.gateway.url,
        "KONTEXT_BACKOFF_BASE_S": "0.02",
        "KONTEXT_BACKOFF_CAP_S": "0.2",
        "KONTEXT_DATA_DIR": "out",
    }


@pytest.fixture
def kontext(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Kontext]:
    def run(*arguments: str, **changes: str) -> Done:
        with monkeypatch.context() as patched:
            patched.chdir(tmp_path)
            for name in os.environ.keys() - environment.keys():
                patched.delenv(name)
            for name, text in {**environment, **changes}.items():
                patched.setenv(name, text)
            done = CliRunner().invoke(main, arguments)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    # The command takes these for itself.
    handler, memory = signal.getsignal(signal.SIGTERM), dict(os.environ)
    yield run
    signal.signal(signal.SIGTERM, handler)
    for name in os.environ.keys() - memory.keys():
        del os.environ[name]


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a CSV file; columns are the union of the rows' keys."""

    def write(rows: Sequence[dict[str, object]], name: str = "rows.csv") -> Path:
        path = tmp_path / name
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write
