"""Reserving several requests in one call: one commit, money and rate counted within it, one result for each."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, text

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import (
    AlreadySettled,
    ClaimedElsewhere,
    Ledger,
    OverBudget,
    ReservationTerms,
    Reserved,
    RetryLater,
    Settlement,
    Stored,
)
from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.generation.ledger.report import read_books, spending_differs
from kontext_pipeline.segmind.outcomes import Cause
from tests.generation.runs import BACKEND

PRICE = 100_000
TERMS = ReservationTerms("v1", PRICE)


both = pytest.mark.parametrize("ledger", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    in_postgresql = getattr(request, "param", "sqlite") == "postgresql"
    url = request.getfixturevalue("postgres") if in_postgresql else f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(url, backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    yield ledger
    assert spending_differs(ledger.database) == []
    ledger.close()


def claims(names: str) -> list[tuple[str, str]]:
    return [(name * 64, f"batch {name}") for name in names]


def kinds(results: object) -> list[type]:
    return [type(result) for result in results]  # type: ignore[attr-defined]


@both
def test_ten_claims_against_room_for_three(ledger: Ledger) -> None:
    cap = Cap(3 * PRICE + 50_000, "all")
    results = ledger.reserve(claims("abcdefghij"), ReservationTerms("v1", PRICE, caps=[cap]))
    assert kinds(results[:3]) == [Reserved] * 3
    assert results[3:] == [OverBudget(cap, recoverable=3 * PRICE)] * 7
    with ledger.database.read() as connection:
        rows = connection.execute(text("SELECT id, fingerprint, batch, state, price FROM attempts ORDER BY id"))
        assert (
            [tuple(row) for row in rows]
            == [
                (result.attempt, name * 64, f"batch {name}", "open", PRICE)  # type: ignore[union-attr]
                for name, result in zip("abc", results[:3], strict=True)
            ]
        )


def test_one_call_is_one_commit(ledger: Ledger) -> None:
    commits: list[object] = []
    event.listen(ledger.database.engine, "commit", commits.append)
    assert kinds(ledger.reserve(claims("abcdefgh"), TERMS)) == [Reserved] * 8
    assert len(commits) == 1
    ledger.release([1, 2, 3, 4])
    assert len(commits) == 2


def test_no_claim_is_no_result(ledger: Ledger) -> None:
    assert ledger.reserve([], TERMS) == []
    ledger.release([])


@both
def test_the_second_of_a_fingerprint_is_claimed_elsewhere(ledger: Ledger) -> None:
    assert kinds(ledger.reserve(claims("aba"), TERMS)) == [Reserved, Reserved, ClaimedElsewhere]


@both
def test_with_a_rate_the_first_that_waits_holds_back_the_later_ones(ledger: Ledger) -> None:
    terms = ReservationTerms("v1", PRICE, rpm=60)
    first, settled, other = ledger.reserve(claims("asx"), TERMS)
    assert isinstance(settled, Reserved)
    ledger.settle(settled.attempt, Settlement("charged", "succeeded", cost=PRICE), status="succeeded")
    results = ledger.reserve(claims("bcasd"), terms)
    assert kinds(results) == [Reserved, RetryLater, ClaimedElsewhere, AlreadySettled, RetryLater]
    assert isinstance(results[1], RetryLater)
    assert results[1] == results[4]
    assert 0.5 < results[1].seconds <= 1.1
    assert isinstance(first, Reserved)
    assert isinstance(other, Reserved)
    # What did not go ahead holds no money.
    assert ledger.remaining_budget([Cap(10 * PRICE, "all")]) == 10 * PRICE - 4 * PRICE


def test_a_permit_that_comes_within_the_transaction_is_left_for_the_next_call(ledger: Ledger) -> None:
    """A permit every 0.6 ms: the clock passes several within one transaction of a hundred claims."""
    names = [(f"{number:064d}", "batch") for number in range(100)]
    results = ledger.reserve(names, ReservationTerms("v1", PRICE, rpm=100_000))
    reserved = kinds(results).count(Reserved)
    assert kinds(results) == [Reserved] * reserved + [RetryLater] * (100 - reserved)


@both
def test_a_pause_holds_all_back(ledger: Ledger) -> None:
    ledger.pause(5)
    results = ledger.reserve(claims("ab"), TERMS)
    assert kinds(results) == [RetryLater] * 2
    assert 4 < ledger.paused_for() <= 5


@both
def test_a_pause_is_not_shortened_and_one_from_before_a_reset_of_the_clock_is_forgotten(
    ledger: Ledger,
) -> None:
    ledger.pause(5)
    ledger.pause(1)
    assert 4 < ledger.paused_for() <= 5
    ledger.pause(10**9)
    assert 3590 < ledger.paused_for() <= 3600
    with ledger.database._writing() as connection:
        connection.execute(text("UPDATE rates SET paused_until = paused_until * 2 + 10000000000"))
    assert ledger.paused_for() == 0
    ledger.pause(5)
    assert 4 < ledger.paused_for() <= 5


@both
def test_what_came_of_requests_is_added_up(ledger: Ledger) -> None:
    lost, found, never, adopted = (name * 64 for name in "abcd")
    (first,) = ledger.reserve(claims("a"), TERMS)
    assert isinstance(first, Reserved)
    ledger.settle(
        first.attempt,
        Settlement("unknown", "lost", cause=Cause.CUT, error="no answer", sent_at=1),
        status="unknown",
        keep_claim=True,
    )
    again, second, third = ledger.reserve(claims("abc"), TERMS)
    assert isinstance(again, Reserved)
    assert isinstance(second, Reserved)
    assert isinstance(third, Reserved)
    ledger.record_job(again.attempt, "{}", "job", sent_at=2)
    ledger.settle(
        again.attempt,
        Settlement("charged", "succeeded", cost=80_000, cost_estimated=True, status_code=200, latency_s=1.5),
        status="succeeded",
        picture=Stored("images/a.png", "0" * 64, 8, 9, 100),
        retryable=False,
    )
    refused = Settlement("released", "rejected", cause=Cause.BAD_PARAMETERS, status_code=400, error="seed")
    ledger.settle(second.attempt, refused, status="failed", retryable=False)
    ledger.release([third.attempt])
    ledger.adopt_picture(adopted, "batch d", Stored("images/d.png", "1" * 64, 8, 9, 100))

    rows = {row["fingerprint"]: row for row in ledger.generations([lost, found, never, adopted]).to_pylist()}
    assert rows.keys() == {lost, found, never, adopted}
    known = {name: rows[lost][name] for name in ("status", "attempts", "cost_usd", "cost_estimated", "bytes")}
    assert known == {
        "status": "succeeded",
        "attempts": 2,
        "cost_usd": 0.08,
        "cost_estimated": True,
        "bytes": 100,
    }
    assert (rows[lost]["possibly_charged_usd"], rows[lost]["request_id"], rows[lost]["error"]) == (
        0.1,
        "job",
        None,
    )
    assert rows[lost]["started_at"].timestamp() == pytest.approx(1e-6)
    assert (rows[found]["status"], rows[found]["status_code"], rows[found]["error"]) == (
        "failed",
        400,
        "seed",
    )
    assert (rows[never]["status"], rows[never]["attempts"], rows[never]["run_id"]) == ("pending", 0, None)
    assert (rows[adopted]["status"], rows[adopted]["cost_usd"]) == ("succeeded", 0.0)
    assert ledger.settled() == (frozenset({lost, adopted}), frozenset({found}))
    assert ledger.settled(retry_failed=True) == (frozenset({lost, adopted}), frozenset())
    assert ledger.statuses([lost, found, "e" * 64]) == {lost: ("succeeded", False), found: ("failed", False)}
    assert (ledger.size(), ledger.highest_charge()) == (4, 80_000)
    assert ledger.remaining_budget([Cap(10 * PRICE, "day"), Cap(2 * PRICE, "run")], run_id="run") == 20_000
    (books,) = read_books(ledger.database).backends
    assert (books.pictures, books.failed, books.pending, books.attempts) == (2, 1, 1, 3)
    assert (books.spent_usd, books.possibly_charged_usd, books.reserved_usd) == (0.08, 0.1, 0.0)
    assert books.failed_by_cause == {"bad_parameters": 1}


@both
def test_released_requests_are_pending_and_give_their_money_back(ledger: Ledger) -> None:
    first, second = ledger.reserve(claims("ab"), TERMS)
    assert isinstance(first, Reserved)
    assert isinstance(second, Reserved)
    ledger.release([first.attempt, second.attempt])
    assert ledger.statuses([name for name, _ in claims("ab")]) == {name: ("pending", True) for name, _ in claims("ab")}
    assert ledger.remaining_budget([Cap(PRICE, "all")]) == PRICE
    assert kinds(ledger.reserve(claims("ab"), TERMS)) == [Reserved] * 2


def test_threads_that_wait_share_a_commit(ledger: Ledger) -> None:
    """Calls that gather while the writer is busy are committed together."""
    commits: list[object] = []
    writing, go_on = threading.Event(), threading.Event()

    def hold(_transaction: object) -> None:
        writing.set()
        go_on.wait()

    holder = threading.Thread(target=ledger.database.write, args=(hold,))
    holder.start()
    writing.wait()
    event.listen(ledger.database.engine, "commit", commits.append)
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda name=name: results.extend(ledger.reserve(claims(name), TERMS)))
        for name in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    while ledger.database._queue.qsize() < 8:
        time.sleep(0.001)
    go_on.set()
    for thread in [holder, *threads]:
        thread.join()
    assert kinds(results) == [Reserved] * 8
    assert len(commits) == 2


def test_a_broken_transaction_reserves_nothing(ledger: Ledger) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(LedgerError):
        # A batch of no text breaks the transaction after the first claim was entered.
        ledger.reserve([("a" * 64, "batch"), ("b" * 64, None)], TERMS)  # type: ignore[list-item]
    assert ledger.size() == 0
    with pytest.raises(RuntimeError, match="in the middle"):
        ledger.database.write(fail)
    assert kinds(ledger.reserve(claims("a"), TERMS)) == [Reserved]
