"""Reservations that wait for a slot: never sent twice, and never counted as sent when they were not."""

import dataclasses
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.ledger.money import micros
from kontext_pipeline.generation.ledger.sent_log import uptime_id
from tests.generation.conftest import SpecMaker
from tests.generation.runs import (
    BACKEND,
    Ledgerbook,
    RunSpec,
    fingerprint_of,
    hold_up,
    perform,
    running,
    wait_for_posts,
)
from tests.sandbox.running import Sandbox, running_sandbox

A_SECOND: dict[str, Any] = {"speed": 24.0, "latency_spread": 0.0}
THREE_SECONDS = {"speed": 8.0, "latency_spread": 0.0}
SLOTS = 6

needs_log = pytest.mark.skipif(uptime_id() is None, reason="this system doesn't name its uptimes")


def attempts_by_state(url: str) -> dict[str, int]:
    ledger = Ledger(url, backend=BACKEND)
    with ledger.database.read() as connection:
        rows = connection.execute(text("SELECT COALESCE(outcome, state), COUNT(*) FROM attempts GROUP BY 1"))
        found = {str(name): int(times) for name, times in rows}
    ledger.close()
    return found


def wait_for_reservations(one: RunSpec, reservations: int) -> None:
    """Wait until all slots are taken and `reservations` more wait for one."""
    deadline = time.monotonic() + 20
    while attempts_by_state(one.ledger).get("open", 0) < one.concurrency + reservations:
        assert time.monotonic() < deadline, "no reservations were made"


def killed_with_reservations(one: RunSpec, sandbox: Sandbox, folder: Path) -> None:
    with running(one, folder=folder) as (run,):
        wait_for_posts(sandbox, SLOTS)
        wait_for_reservations(one, SLOTS)
        run.kill()


@needs_log
@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
def test_after_a_kill_what_was_not_sent_is_not_counted(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    one = spec(range(20), concurrency=SLOTS, run_id="killed")
    killed_with_reservations(one, kontext_sandbox, tmp_path)
    again = perform(dataclasses.replace(one, run_id="again", concurrency=20))
    assert set(again.outcomes.values()) == {"succeeded"}
    assert again.progress["possibly_charged"] == SLOTS * 100_000
    assert attempts_by_state(one.ledger) == {"lost": SLOTS, "not_sent": SLOTS, "succeeded": 20}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.unsent == 0
    # What was never sent is no attempt of the row's.
    ledger = Ledger(one.ledger, backend=BACKEND)
    table = ledger.generations([fingerprint_of(row) for row in one.rows])
    ledger.close()
    assert sorted(table["attempts"].to_pylist()) == [1] * (20 - SLOTS) + [2] * SLOTS
    assert book.books is not None
    assert book.books.attempts == 20 + SLOTS


@pytest.mark.long
@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
@pytest.mark.parametrize("lost", ["removed", "of another uptime"])
def test_without_the_log_every_open_attempt_counts_as_sent(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, lost: str
) -> None:
    one = spec(range(20), concurrency=SLOTS, run_id="killed")
    killed_with_reservations(one, kontext_sandbox, tmp_path)
    (log,) = Path(one.ledger.removeprefix("sqlite:///")).parent.glob("*.claims/*.sent")
    if lost == "removed":
        log.unlink()
    else:
        log.write_text("another-uptime\n" + log.read_text().partition("\n")[2])
    again = perform(dataclasses.replace(one, run_id="again", concurrency=20))
    assert set(again.outcomes.values()) == {"succeeded"}
    assert attempts_by_state(one.ledger) == {"lost": 2 * SLOTS, "succeeded": 20}


@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_a_stop_takes_back_what_was_not_sent(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str
) -> None:
    one = spec(range(20), concurrency=SLOTS, api_version=api_version)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, SLOTS)
        run.signal(signal.SIGTERM)
        result = run.wait()
    assert result.interrupted
    assert result.progress["succeeded"] == result.progress["attempts"] == SLOTS
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.count("charged") == len(book.attempts) == SLOTS
    assert book.books is not None
    assert book.books.reserved_usd == 0
    assert not list(tmp_path.rglob("*.sent"))


@pytest.mark.parametrize("kontext_sandbox", [A_SECOND], indirect=True)
def test_a_pause_of_another_process_holds_reservations_back(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    one = spec(range(8), concurrency=4)
    other = Ledger(one.ledger, backend=BACKEND)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 4)
        paused_at = datetime.now(UTC)
        # The answers come after a second and free the slots for the reservations.
        other.pause(2.5)
        result = run.wait()
    other.close()
    assert set(result.outcomes.values()) == {"succeeded"}
    arrivals = sorted(datetime.fromisoformat(entry["received_at"]) for entry in kontext_sandbox.books()["entries"])
    assert len(arrivals) == 8
    assert arrivals[3] <= paused_at
    assert (arrivals[4] - paused_at).total_seconds() > 2.4


@pytest.mark.parametrize("kontext_sandbox", [A_SECOND], indirect=True)
def test_reservations_fill_a_budget_and_no_more(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    one = spec(range(30), concurrency=SLOTS, caps=[(1.05, "run")])
    result = perform(one)
    assert result.stopped == "budget"
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.billed == book.count("charged") == len(book.attempts) == 10


@needs_log
def test_reservations_at_an_old_price_are_not_sent(spec: SpecMaker) -> None:
    with running_sandbox(price=0.20, **A_SECOND) as sandbox:
        one = spec(range(30), url=sandbox.url, concurrency=SLOTS, caps=[(1.20, "run")])
        # Room for twice as many at the list price: half of them are in flight when the first answer tells.
        assert perform(one).stopped == "budget"
        book = Ledgerbook(one.ledger, sandbox)
        book.check()
        # Beyond the cap is only the difference for what was in flight.
        assert micros(1.20) <= book.charged_micros <= micros(1.20 + SLOTS * 0.10)


@needs_log
def test_reservations_of_yesterday_are_not_sent_today(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    midnight = tmp_path / "midnight"
    one = spec(
        range(10),
        concurrency=2,
        caps=[(0.40, "day")],
        clock_ahead_s=86_400 - time.time() % 86_400 - 60.0,
        clock_jump_s=120.0,
        clock_file=str(midnight),
    )
    hold_up(kontext_sandbox, 2.0)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 2)
        wait_for_reservations(one, 2)
        midnight.touch()
        kontext_sandbox.set_faults()
        assert run.wait().stopped == "budget"
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    # Two before midnight; what reservations held of yesterday's cap doesn't count against today's.
    assert book.billed == 2 + 4
