"""Requests that are ready before there is a place for them: never sent twice, never counted as sent when not."""

import dataclasses
import resource
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.crew import FAR_S, Lane
from kontext_pipeline.generation.ledger import Ledger, Reserved
from kontext_pipeline.generation.ledger.money import micros
from kontext_pipeline.generation.ledger.report import spending_differs
from kontext_pipeline.generation.ledger.sent_log import SentAttempts, SentLog, read_sent, uptime_id
from tests.generation.conftest import SpecMaker
from tests.generation.runs import (
    BACKEND,
    Ledgerbook,
    RunSpec,
    fingerprint_of,
    perform,
    running,
    wait_for_posts,
)
from tests.sandbox.running import Sandbox, running_sandbox

THREE_SECONDS = {"speed": 8.0, "latency_spread": 0.0}
PLACES = 6

needs_log = pytest.mark.skipif(uptime_id() is None, reason="this system doesn't name its uptimes")


def attempts_by_state(url: str) -> dict[str, int]:
    ledger = Ledger(url, backend=BACKEND)
    with ledger.database.read() as connection:
        rows = connection.execute(text("SELECT COALESCE(outcome, state), COUNT(*) FROM attempts GROUP BY 1"))
        found = {str(name): int(times) for name, times in rows}
    ledger.close()
    return found


def killed_with_drafts(one: RunSpec, sandbox: Sandbox, folder: Path) -> None:
    with running(one, folder=folder) as (run,):
        wait_for_posts(sandbox, PLACES)
        deadline = time.monotonic() + 2
        while attempts_by_state(one.ledger).get("open", 0) < 2 * PLACES:
            assert time.monotonic() < deadline, "no drafts were made"
        run.kill()


@needs_log
@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
def test_after_a_kill_what_was_not_sent_is_not_counted(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    one = spec(range(20), concurrency=PLACES, run_id="killed")
    killed_with_drafts(one, kontext_sandbox, tmp_path)
    again = perform(dataclasses.replace(one, run_id="again", concurrency=20))
    assert set(again.outcomes.values()) == {"succeeded"}
    assert again.progress["possibly_charged"] == PLACES * 100_000
    assert attempts_by_state(one.ledger) == {"lost": PLACES, "not_sent": PLACES, "succeeded": 20}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.unsent == 0
    # What was never sent is no attempt of the row's.
    ledger = Ledger(one.ledger, backend=BACKEND)
    table = ledger.generations([fingerprint_of(row) for row in one.rows])
    ledger.close()
    assert sorted(table["attempts"].to_pylist()) == [1] * (20 - PLACES) + [2] * PLACES
    assert book.books is not None
    assert book.books.attempts == 20 + PLACES


@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
@pytest.mark.parametrize("lost", ["removed", "of another uptime"])
def test_without_the_log_every_open_attempt_counts_as_sent(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, lost: str
) -> None:
    one = spec(range(20), concurrency=PLACES, run_id="killed")
    killed_with_drafts(one, kontext_sandbox, tmp_path)
    (log,) = Path(one.ledger.removeprefix("sqlite:///")).parent.glob("*.claims/*.sent")
    if lost == "removed":
        log.unlink()
    else:
        log.write_text("another-uptime\n" + log.read_text().partition("\n")[2])
    again = perform(dataclasses.replace(one, run_id="again", concurrency=20))
    assert set(again.outcomes.values()) == {"succeeded"}
    assert attempts_by_state(one.ledger) == {"lost": 2 * PLACES, "succeeded": 20}


@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_a_stop_takes_back_what_was_not_sent(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str
) -> None:
    one = spec(range(20), concurrency=PLACES, api_version=api_version)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, PLACES)
        run.signal(signal.SIGTERM)
        result = run.wait()
    assert result.interrupted
    assert result.progress["succeeded"] == result.progress["attempts"] == PLACES
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.count("charged") == len(book.attempts) == PLACES
    assert book.books is not None
    assert book.books.reserved_usd == 0
    assert not list(tmp_path.rglob("*.sent"))


@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
def test_another_process_s_pause_holds_drafts_back(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    one = spec(range(8), concurrency=4)
    other = Ledger(one.ledger, backend=BACKEND)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 4)
        other.pause(5.0)
        # Their answers come after three seconds, and make room for the drafts.
        time.sleep(4.2)
        assert kontext_sandbox.books()["totals"]["posts"] == 4
        result = run.wait()
    other.close()
    assert set(result.outcomes.values()) == {"succeeded"}
    assert result.seconds > 5.0 + 3.0


@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
def test_drafts_fill_a_budget_and_no_more(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    one = spec(range(30), concurrency=PLACES, caps=[(1.05, "run")])
    result = perform(one)
    assert result.stopped == "budget"
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.billed == book.count("charged") == len(book.attempts) == 10


@needs_log
def test_drafts_opened_at_an_old_price_are_not_sent(spec: SpecMaker) -> None:
    with running_sandbox(price=0.20, **THREE_SECONDS) as sandbox:
        one = spec(range(30), url=sandbox.url, concurrency=PLACES, caps=[(1.20, "run")])
        # Room for twice as many at the list price: half of them are in flight when the first answer tells.
        assert perform(one).stopped == "budget"
        book = Ledgerbook(one.ledger, sandbox)
        book.check()
        # Beyond the cap is only the difference for what was in flight.
        assert micros(1.20) <= book.charged_micros <= micros(1.20 + PLACES * 0.10)


@needs_log
@pytest.mark.parametrize("kontext_sandbox", [{"speed": 6.0, "latency_spread": 0.0}], indirect=True)
def test_drafts_opened_yesterday_are_not_sent_today(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    ahead_s = 86_400 - time.time() % 86_400 - 3.0
    one = spec(range(10), concurrency=2, caps=[(0.40, "day")], clock_ahead_s=ahead_s)
    with running(one, folder=tmp_path) as (run,):
        assert run.wait().stopped == "budget"
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    # Two before midnight; the room that drafts took in yesterday's cap is no room in today's.
    assert book.billed == 2 + 4


def named(sent: SentAttempts | None) -> list[int] | None:
    """Of some attempts, among them parts of others' numbers, those that a log names."""
    return None if sent is None else [attempt for attempt in (0, 1, 2, 7, 12, 70, 127) if attempt in sent]


def test_the_log_tells_what_was_sent(tmp_path: Path) -> None:
    uptime = uptime_id() or "an uptime"
    path = tmp_path / "claimant.sent"
    log = SentLog(path, uptime)
    for attempt in (7, 70, 12):
        log.add(attempt)
    # Another process sees it at once; behind it is room for more.
    kept = path.read_bytes().rstrip(b"\0")
    assert named(log.end()) == (None if uptime_id() is None else [7, 12, 70])
    with pytest.raises(LedgerError, match="is closed"):
        log.add(1)
    log.remove()
    assert not path.exists()
    assert read_sent(path) is None
    if uptime_id() is not None:
        path.write_bytes(kept)
        assert named(read_sent(path)) == [7, 12, 70]
        # The last entry was cut: what it was for did not happen.
        path.write_bytes(kept[:-1])
        assert named(read_sent(path)) == [7, 70]
        path.write_bytes(kept[:-1] + bytes(100))
        assert named(read_sent(path)) == [7, 70]
    path.write_bytes(b"another" + kept)
    assert read_sent(path) is None
    path.write_bytes(b"")
    assert read_sent(path) is None


def fill(log: SentLog, attempts: range) -> None:
    for attempt in attempts:
        log.add(attempt)


@needs_log
def test_the_log_grows(tmp_path: Path) -> None:
    log = SentLog(tmp_path / "claimant.sent", uptime_id() or "")
    attempts = range(10**8, 10**8 + 30_000)
    fill(log, attempts)
    sent = log.end()
    assert sent is not None
    assert all(attempt in sent for attempt in attempts[::100])
    assert attempts[-1] in sent
    assert attempts[-1] + 1 not in sent


def test_a_log_on_a_full_disk_says_so(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = SentLog(tmp_path / "claimant.sent", "uptime")
    # A limit on the size of files meets the process as a full disk would.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(LedgerError, match=r"claimant\.sent.* can't be written: "):
            fill(log, range(10**8, 10**8 + 30_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(LedgerError, match=r"another\.sent.* can't be written: "):
            SentLog(tmp_path / "another.sent", "uptime")
        assert not (tmp_path / "another.sent").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_log_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"nowhere.*can't be written: No such file"):
        SentLog(tmp_path / "nowhere" / "claimant.sent", "uptime")


def test_a_lane_is_narrow_for_work_here_and_wide_for_work_elsewhere() -> None:
    lane = Lane(few=2, most=4)
    assert lane.opens() == 0.0
    lane.begin()
    lane.begin()
    later = lane.opens()
    assert later is not None
    assert 0 < later - time.monotonic() <= FAR_S
    for _ in range(20):
        lane.end(0.001)
        lane.begin()
    assert (lane.opens() or 0) > time.monotonic()
    for _ in range(20):
        lane.end(10 * FAR_S)
        lane.begin()
    assert lane.opens() == 0.0
    lane.begin()
    lane.begin()
    assert lane.opens() is None


@needs_log
def test_leaving_releases_what_was_never_sent(tmp_path: Path) -> None:
    """Whatever kept it from being withdrawn: a task that failed, a run that was cut off."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(url, backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    opened = [
        ledger.reserve(name * 64, "batch", api_version="v1", price=100_000).result() for name in ("a", "b")
    ]
    lease = ledger.lease
    assert isinstance(opened[0], Reserved)
    lease.sending(opened[0].attempt)
    ledger.deregister()
    assert attempts_by_state(url) == {"open": 1, "not_sent": 1}
    assert spending_differs(ledger.database) == []
    with pytest.raises(LedgerError, match="nothing more may be sent"):
        lease.sending(2)
    ledger.close()
