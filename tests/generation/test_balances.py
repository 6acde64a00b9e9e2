"""Lost answers are settled by the balance only where it leaves no doubt, whatever else happens to the account."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Settlement, Status, Stored, balances
from kontext_pipeline.generation.ledger.balances import BalanceBook, Settled, account_of
from kontext_pipeline.generation.ledger.report import spending_differs
from tests.generation.runs import BACKEND

PRICE = 100_000
TERMS = ReservationTerms("v1", PRICE)
EXACT = Settlement("charged", "succeeded", cost=PRICE)
ESTIMATED = replace(EXACT, cost_estimated=True)
LOST = Settlement("unknown", "lost")
REFUSED = Settlement("released", "rejected")


class World:
    """An account and a ledger. `balance` is what the API would say."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.balance = 10_000_000
        self.number = 0

    def book(self, account: str = "mine") -> BalanceBook:
        return BalanceBook(self.ledger.database, backend=BACKEND, account=account)

    def record(self, account: str = "mine") -> None:
        book = self.book(account)
        assert book.record(self.balance, seen=book.seen())

    def reconcile(self) -> Settled:
        book = self.book()
        return book.settle(self.balance, seen=book.seen())

    def open(self) -> int:
        self.number += 1
        (reserved,) = self.ledger.reserve([(f"{self.number:064d}", "batch")], TERMS)
        assert isinstance(reserved, Reserved)
        return reserved.attempt

    def attempt(self, settlement: Settlement, *, billed: bool = False) -> None:
        attempt = self.open()
        stored = Stored("images/x.png", "0" * 64, 2, 1, 70) if settlement.outcome == "succeeded" else None
        status: Status = "succeeded" if stored else "unknown"
        self.ledger.settle(attempt, settlement, status=status, picture=stored)
        self.balance -= PRICE if billed else 0

    def states(self) -> list[str]:
        with self.ledger.database.read() as connection:
            return list(connection.execute(text("SELECT state FROM attempts ORDER BY id")).scalars())

    def later(self, seconds: float) -> None:
        """Let time pass: what is in the ledger is older then."""
        times = [("attempts", "started_at"), ("attempts", "finished_at"), ("balances", "taken_at")]
        with self.ledger.database.engine.connect() as connection, connection.begin():
            for table, column in times:
                connection.execute(text(f"UPDATE {table} SET {column} = {column} - {round(seconds * 1e6)}"))


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    in_postgresql = getattr(request, "param", "sqlite") == "postgresql"
    url = request.getfixturevalue("postgres") if in_postgresql else f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setattr(balances, "CHARGED_WITHIN_S", 0.0)
    monkeypatch.setattr(balances, "LOST_WITHIN_S", 0.0)
    ledger = Ledger(url, backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    yield World(ledger)
    assert spending_differs(ledger.database) == []
    ledger.close()


both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@both
@pytest.mark.parametrize("billed", [False, True])
def test_all_or_nothing_is_settled(world: World, billed: bool) -> None:
    world.record()
    for _ in range(3):
        world.attempt(EXACT, billed=True)
        world.attempt(LOST, billed=billed)
        world.attempt(REFUSED)
    settled = world.reconcile()
    assert (settled.done.charged, settled.done.released) == ((3, 0) if billed else (0, 3))
    assert settled.done.charged_usd == (0.3 if billed else 0.0)
    assert "unknown" not in world.states()
    (sentence,) = settled.sentences
    assert ("they were billed" if billed else "the lost answers were not billed") in sentence
    assert f"from 10.00 to {9.4 if billed else 9.7:.2f} USD, the ledger's charges are 0.30 USD" in sentence
    # What is settled is settled.
    again = world.reconcile()
    assert (again.sentences, again.done.charged + again.done.released) == ([], 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (-PRICE, "0.10 USD more: some of the lost answers were billed, or something else was"),
        (-3 * PRICE, "0.30 USD more, which is more than the lost answers may have cost"),
        (5_000_000, "5.00 USD less: the account was topped up"),
        (-1, "0.00 USD more: some of the lost answers"),
    ],
)
def test_any_other_difference_settles_nothing(world: World, change: int, reason: str) -> None:
    world.record()
    world.attempt(EXACT, billed=True)
    world.attempt(LOST)
    world.attempt(LOST)
    world.balance += change
    before = world.states()
    settled = world.reconcile()
    (sentence,) = settled.sentences
    assert reason in sentence
    assert "Left as it is." in sentence
    assert (world.states(), settled.done.charged, settled.done.released) == (before, 0, 0)


def test_each_interval_is_judged_for_itself(world: World) -> None:
    world.record()
    world.attempt(LOST)
    world.record()
    world.attempt(LOST, billed=True)
    world.record()
    world.attempt(LOST)
    world.balance += 7_000_000
    world.record()
    world.attempt(EXACT, billed=True)
    settled = world.reconcile()
    assert world.states() == ["released", "charged", "unknown", "charged"]
    assert [sentence.endswith("Left as it is.") for sentence in settled.sentences] == [False, False, True]


def test_a_stranger_who_spends_makes_all_of_it_doubtful(world: World) -> None:
    """0.10 USD more than the charges could be the lost answer. That somebody else spends is known from another time."""
    world.record()
    world.attempt(EXACT, billed=True)
    world.balance -= 400_000
    world.record()
    world.attempt(LOST)
    world.balance -= PRICE
    (sentence,) = world.reconcile().sentences
    assert "something else is charged to this account, 0.40 USD before" in sentence
    assert world.states() == ["charged", "unknown"]


def test_an_estimated_charge_is_no_ground_to_stand_on(world: World) -> None:
    world.record()
    world.attempt(ESTIMATED, billed=True)
    world.attempt(LOST)
    (sentence,) = world.reconcile().sentences
    assert "the cost of 1 answer is estimated" in sentence
    assert world.states() == ["charged", "unknown"]


def test_what_is_open_is_waited_for(world: World) -> None:
    world.record()
    world.attempt(LOST)
    attempt = world.open()
    (sentence,) = world.reconcile().sentences
    assert "requests for 0.10 USD were not settled: start the run again" in sentence
    # A balance recorded meanwhile is no beginning of an interval, and no end of one.
    world.ledger.settle(attempt, EXACT, status="succeeded", picture=Stored("images/x.png", "0" * 64, 2, 1, 70))
    world.balance -= PRICE
    assert world.reconcile().done.released == 1
    assert world.states() == ["released", "charged"]


def test_attempts_from_before_the_first_record_are_left(world: World) -> None:
    world.attempt(LOST)
    settled = world.reconcile()
    assert settled.sentences == ["1 lost answer: no balance was recorded before. Left as it is."]
    world.attempt(LOST)
    settled = world.reconcile()
    assert world.states() == ["unknown", "released"]
    assert len(settled.sentences) == 2


def test_another_key_is_another_account(world: World) -> None:
    world.record("another")
    world.attempt(LOST)
    (sentence,) = world.reconcile().sentences
    assert "the key or the address of the API has changed" in sentence
    assert world.states() == ["unknown"]
    names = {account_of(url, key) for url in ("https://a", "https://b") for key in ("SG_1", "SG_2")}
    assert len(names) == 4
    assert not any("SG" in name for name in names)


def test_a_run_that_is_at_work_is_noticed(world: World) -> None:
    world.record()
    world.attempt(LOST)
    book = world.book()
    seen = book.seen()
    # The API has answered, and before that is written down another process sends a request.
    world.attempt(EXACT, billed=True)
    settled = book.settle(10_000_000, seen=seen)
    assert settled.sentences == ["A run is at work on this ledger. Settle its lost answers when it has ended."]
    assert not book.record(10_000_000, seen=seen)
    assert world.states() == ["unknown", "charged"]


def test_late_charges_are_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost answer may be charged minutes later: a balance from before says nothing of it."""
    monkeypatch.setattr(balances, "CHARGED_WITHIN_S", 60.0)
    monkeypatch.setattr(balances, "LOST_WITHIN_S", 900.0)
    world.record()
    world.attempt(EXACT, billed=True)
    world.later(30)
    (sentence,) = _with_lost(world)
    assert "the last lost answer may still be charged: ask again after" in sentence
    world.later(880)
    (sentence,) = world.reconcile().sentences
    assert "ask again after" in sentence
    world.balance -= PRICE
    world.later(30)
    # The balances that were recorded too early are no ends of intervals, either.
    assert world.reconcile().done.charged == 1
    world.attempt(LOST)
    world.later(901)
    world.attempt(EXACT, billed=True)
    (sentence,) = world.reconcile().sentences
    assert "the last charge may not be in it" in sentence
    assert time.strftime("%Y-") in sentence


def _with_lost(world: World) -> list[str]:
    world.attempt(LOST)
    return world.reconcile().sentences
