"""Limits of the system: a run raises them, or does with less, or refuses before anything is sent."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.generation.conftest import SpecMaker
from tests.generation.runs import Ledgerbook, running
from tests.sandbox.running import Sandbox

resource = pytest.importorskip("resource")

LIMITED = """
import resource, threading
from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.descriptors import slots_that_fit
from kontext_pipeline.threads import start_thread
try:
    {code}
except KontextError as error:
    print(type(error).__name__, error)
"""


def said(code: str) -> str:
    """Run `code` in a process of its own, whose limits it may change; return what it prints."""
    done = subprocess.run([sys.executable, "-c", LIMITED.format(code=code)], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_limit_of_open_files_is_raised_to_what_is_needed() -> None:
    code = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096)); print(slots_that_fit(1000), "
    slots, limit = said(code + "resource.getrlimit(resource.RLIMIT_NOFILE)[0])").split()
    assert int(slots) == 1000
    assert 3000 < int(limit) <= 4096


def test_too_few_open_files_are_refused_before_anything_is_sent() -> None:
    refused = said("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); slots_that_fit(8)")
    assert refused.startswith("TooFewDescriptors this process may have 64 files open")
    assert "ulimit -n" in refused
    assert "Nothing was sent" in refused


def test_where_no_thread_can_be_had_the_reason_is_said() -> None:
    refused = said(
        "resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28)); "
        "[start_thread(threading.Event().wait, str(n)) for n in range(99)]"
    )
    assert refused.startswith("NoThreadError the system lets this process start no other thread")
    assert "KONTEXT_CONCURRENCY" in refused


@pytest.mark.parametrize("limit", [{"files": 220}, {"memory": 400 * 2**20}])
def test_a_run_does_with_fewer_slots_what_it_may_not_do_with_all(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, limit: dict[str, int]
) -> None:
    one = spec(range(12), concurrency=200, **limit)
    with running(one, folder=tmp_path) as (run,):
        result = run.wait()
    assert result.stopped is None
    assert result.progress["attempts"] == 12
    assert set(result.outcomes.values()) == {"succeeded"}
    assert 0 < result.most_slots < 60
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.billed == book.count("charged") == 12
