"""A run is killed at random points, again and again, and started again each time. What the server billed
must be in the ledger, and every picture there in the end.
"""

import random
import time
from pathlib import Path

import pytest

from tests.generation.conftest import SpecMaker
from tests.generation.runs import Ledgerbook, RunSpec, fingerprint_of, posts_so_far, running
from tests.sandbox.running import Sandbox

IN_FLIGHT = 16
ABOUT_A_TENTH_OF_A_SECOND = {"speed": 240.0}


def killed_and_restarted(
    spec: SpecMaker, sandbox: Sandbox, folder: Path, *, kills: int, seed: int, **fields: object
) -> RunSpec:
    """Kill so many runs, each at a random moment, then let one come to its end."""
    moments = random.Random(seed)
    for number in range(kills):
        doomed = spec(**fields, run_id=f"killed {number}")
        posts = posts_so_far(sandbox) + moments.randint(0, len(doomed.rows) // kills)
        with running(doomed, folder=folder) as (run,):
            # What earlier ones left may be all that is left: then it ends before it has sent so many.
            while run.alive and posts_so_far(sandbox) < posts:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.15))
            run.kill()
    last = spec(**fields, run_id="last")
    with running(last, folder=folder) as (run,):
        result = run.wait(120)
    assert result.stopped is None
    return last


def check_v1(book: Ledgerbook, last: RunSpec, kills: int) -> None:
    book.check()
    everything = {fingerprint_of(row) for row in last.rows}
    assert book.pictures(last.data_dir) == everything
    assert all(book.statuses[fingerprint] == "succeeded" for fingerprint in everything)
    # Each charge is a picture; beyond those, no more was lost than was in flight at each kill.
    assert book.count("charged") == len(everything)
    for number in range(kills):
        lost = [a for a in book.attempts if a.run_id == f"killed {number}" and a.state == "unknown"]
        assert len(lost) <= IN_FLIGHT
        assert all((a.outcome, a.cause) == ("lost", "run_died") for a in lost)
    # The server's books are what was settled and what is unknown, but for attempts that were written down and
    # whose POST the kill kept from being sent.
    assert book.billed == book.count("charged") + book.count("unknown") - book.unsent
    assert book.count("unknown") > 0
    assert 0 <= book.unsent <= book.count("unknown")


def check_v2(book: Ledgerbook, last: RunSpec) -> None:
    book.check()
    everything = {fingerprint_of(row) for row in last.rows}
    assert book.pictures(last.data_dir) == everything
    assert all(book.statuses[fingerprint] == "succeeded" for fingerprint in everything)
    unknown = [attempt for attempt in book.attempts if attempt.state == "unknown"]
    # Only a submit whose answer the kill itself cut off can have been paid for in vain.
    assert all(attempt.job is None and attempt.cause == "run_died" for attempt in unknown)
    twice = {prompt for prompt, times in book.billed_per_row().items() if times > 1}
    cut_off = {attempt.fingerprint for attempt in unknown}
    assert {fingerprint_of(int(prompt.removeprefix("row "))) for prompt in twice} <= cut_off
    assert book.billed == book.count("charged") + book.count("unknown") - book.unsent


@pytest.mark.parametrize("kontext_sandbox", [ABOUT_A_TENTH_OF_A_SECOND], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_killed_runs(spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str) -> None:
    last = killed_and_restarted(
        spec,
        kontext_sandbox,
        tmp_path,
        kills=7,
        seed=1,
        rows=range(140),
        api_version=api_version,
        concurrency=IN_FLIGHT,
        unknown_retries=10,
    )
    book = Ledgerbook(last.ledger, kontext_sandbox)
    if api_version == "v1":
        check_v1(book, last, 7)
    else:
        check_v2(book, last)


@pytest.mark.long
@pytest.mark.parametrize("kontext_sandbox", [ABOUT_A_TENTH_OF_A_SECOND], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_sixty_kills_and_a_thousand_rows(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str
) -> None:
    last = killed_and_restarted(
        spec,
        kontext_sandbox,
        tmp_path,
        kills=60,
        seed=2,
        rows=range(1000),
        api_version=api_version,
        concurrency=IN_FLIGHT,
        unknown_retries=60,
    )
    book = Ledgerbook(last.ledger, kontext_sandbox)
    print(
        f"{api_version}: {book.billed} billed, {book.count('unknown')} unknown, {book.unsent} never sent, "
        f"{sum(times > 1 for times in book.billed_per_row().values())} rows billed twice"
    )
    if api_version == "v1":
        check_v1(book, last, 60)
    else:
        check_v2(book, last)
