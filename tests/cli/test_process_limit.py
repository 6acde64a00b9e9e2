"""A run that may start few threads: a container's limit of processes, or `ulimit -u`."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import KONTEXT
from tests.cli.provider import Provider

USER = 64_999
"""A user who has no other processes. The limit does not hold for the superuser."""

AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    # This Python may lie in a folder of the superuser.
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("setpriv"),
        reason="only the superuser can run a command as another user, and setpriv is needed",
    ),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which that user may write; pytest's own folders are private."""
    with tempfile.TemporaryDirectory(prefix="kontext-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def run_with(
    threads: int, folder: Path, environment: dict[str, str], *options: str
) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))

    return subprocess.run(
        [*AS_USER, KONTEXT, "run", "rows.csv", "--yes", *options],
        check=False,
        cwd=folder,
        # Libraries of numbers start threads of their own.
        env={**environment, "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_fewer_requests_are_in_flight(
    environment: dict[str, str], provider: Provider, manifest: Callable[..., Path], folder: Path
) -> None:
    manifest([{"prompt": f"number {n}"} for n in range(12)]).rename(folder / "rows.csv")
    done = run_with(40, folder, environment, "--concurrency", "200")
    assert done.returncode == 0, done.stderr
    assert "the system has room for" in done.stderr
    assert "ulimit -u" in done.stderr
    assert provider.posted == 12
    assert set(pd.read_parquet(folder / "out" / "metadata")["status"]) == {"succeeded"}


def test_a_run_that_can_start_no_thread_sends_nothing_and_says_why(
    environment: dict[str, str], provider: Provider, manifest: Callable[..., Path], folder: Path
) -> None:
    manifest([{"prompt": "a fox"}]).rename(folder / "rows.csv")
    done = run_with(1, folder, environment)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "no other thread" in done.stderr
    assert provider.posted == 0
