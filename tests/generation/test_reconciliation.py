"""Costs that are not known or not believed: they are listed, settled by the provider's figures, and block nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from kontext_pipeline.generation.ledger import Ledger, OverBudget, ReservationTerms, Reserved, Settlement, Stored
from kontext_pipeline.generation.ledger.money import HIGHEST_COST, Cap, estimated_cost
from kontext_pipeline.generation.ledger.reconciliation import (
    Reconciled,
    Usage,
    UsageError,
    questionable,
    read_usage,
    reconcile,
)
from kontext_pipeline.generation.ledger.report import read_books, spending_differs
from tests.generation.runs import BACKEND

PRICE = 100_000
ABSURD = 10**18
"""A trillion USD: what an earlier version believed. Ten of them are more than an integer of a database holds."""
both = pytest.mark.parametrize("ledger", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    in_postgresql = getattr(request, "param", "sqlite") == "postgresql"
    url = request.getfixturevalue("postgres") if in_postgresql else f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(url, backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    yield ledger
    ledger.close()


def attempt(ledger: Ledger, name: str, settlement: Settlement, *, picture: bool = False) -> int:
    """Settle an attempt of its own request as `settlement` says. Return its number."""
    (reserved,) = ledger.reserve([(name * 64, "batch")], ReservationTerms("v1", PRICE))
    assert isinstance(reserved, Reserved)
    stored = Stored("images/x.png", name * 64, 2, 1, 70) if picture else None
    ledger.settle(reserved.attempt, settlement, status="succeeded" if picture else "unknown", picture=stored)
    return reserved.attempt


def lost(request_id: str | None = None) -> Settlement:
    return Settlement("unknown", "lost", request_id=request_id)


def charged(cost: int) -> Settlement:
    return Settlement("charged", "succeeded", cost=cost)


def states(ledger: Ledger) -> list[tuple[str, int]]:
    with ledger.database.read() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT state, cost FROM attempts ORDER BY id"))]


@both
def test_a_ledger_with_absurd_costs_reports_reserves_and_is_put_right(ledger: Ledger) -> None:
    numbers = [
        attempt(ledger, name, charged(ABSURD if name in "abcdefghij" else PRICE), picture=True) for name in "kab"
    ]
    (books,) = read_books(ledger.database).backends
    assert books.spent_usd == pytest.approx(2e12)
    assert ledger.highest_charge() == PRICE
    assert ledger.generations(["a" * 64])["cost_usd"].to_pylist() == [1e12]
    roomy = ReservationTerms("v1", PRICE, caps=[Cap(1_000_000, "all")])
    assert isinstance(ledger.reserve([("x" * 64, "batch")], roomy)[0], OverBudget)
    assert [one.attempt for one in questionable(ledger.database)] == numbers[1:]

    done = reconcile(ledger.database, [Usage(number, None, 80_000) for number in numbers[1:]])
    assert done == Reconciled(charged=2, charged_usd=0.16)
    assert states(ledger) == [("charged", PRICE), ("charged", 80_000), ("charged", 80_000)]
    assert spending_differs(ledger.database) == []
    assert questionable(ledger.database) == []
    assert isinstance(ledger.reserve([("x" * 64, "batch")], roomy)[0], Reserved)


def test_sums_that_no_integer_holds_are_no_error(ledger: Ledger) -> None:
    for name in "abcdefghijkl":
        attempt(ledger, name, charged(ABSURD), picture=True)
    (books,) = read_books(ledger.database).backends
    assert books.spent_usd == pytest.approx(12e12)
    numbers = [one.attempt for one in questionable(ledger.database)]
    reconcile(ledger.database, [Usage(number, None, PRICE) for number in numbers])
    assert spending_differs(ledger.database) == []
    assert ledger.remaining_budget([Cap(5_000_000, "all")]) == 5_000_000 - 12 * PRICE


@both
def test_lost_answers_are_charged_or_released(ledger: Ledger) -> None:
    attempt(ledger, "a", lost("r-1"))
    second = attempt(ledger, "b", lost())
    attempt(ledger, "c", lost("r-3"))
    attempt(ledger, "d", charged(PRICE), picture=True)
    usages = [Usage(None, "r-1", 90_000), Usage(second, None, 0), Usage(None, "r-9", PRICE), Usage(4, None, 5)]
    assert reconcile(ledger.database, usages) == Reconciled(charged=1, released=1, charged_usd=0.09, unused=2)
    assert states(ledger) == [("charged", 90_000), ("released", 0), ("unknown", 0), ("charged", PRICE)]
    assert spending_differs(ledger.database) == []
    assert [one.request_id for one in questionable(ledger.database)] == ["r-3"]
    # What was not billed no longer uses up the retries of its row.
    again = ledger.statuses(["a" * 64, "b" * 64], unknown_retries=0)
    assert (again["a" * 64], again["b" * 64]) == (("unknown", False), ("unknown", True))
    # A second time, nothing is left to change.
    assert reconcile(ledger.database, usages) == Reconciled(unused=4)


def test_a_picture_that_was_not_billed_stays_its_attempts(ledger: Ledger) -> None:
    number = attempt(ledger, "a", charged(ABSURD), picture=True)
    reconcile(ledger.database, [Usage(number, None, 0)])
    assert states(ledger) == [("charged", 0)]


def test_an_absurd_price_that_was_held_is_no_estimate() -> None:
    assert estimated_cost(80_000) == 80_000
    assert estimated_cost(HIGHEST_COST) == HIGHEST_COST
    assert estimated_cost(HIGHEST_COST + 1) == PRICE


# --- usage files --------------------------------------------------------------------------------


def test_a_usage_file_is_csv_or_json(tmp_path: Path) -> None:
    table, document = tmp_path / "usage.csv", tmp_path / "usage.json"
    table.write_text("\ufeffdate,request_id,cost,attempt\nx,r-1,0.1,\nx,,0,7\n", "utf-8")
    document.write_text(json.dumps([{"request_id": "r-1", "cost": 0.1}, {"attempt": 7, "cost": 0}]))
    expected = [Usage(None, "r-1", PRICE), Usage(7, None, 0)]
    assert read_usage(table) == read_usage(document) == expected


def test_every_problem_of_a_usage_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text("request_id,attempt,cost\nr-1,,1_000\n,,1\nr-2,1.5,1\nr-3,,1\nr-3,,1\nr-4,,11\nr-5,,-1\nr-6,,\n")
    with pytest.raises(UsageError) as caught:
        read_usage(path)
    lines = str(caught.value).splitlines()
    assert [line.split(", ")[1].split(":")[0] for line in lines[:-1]] == [f"row {n}" for n in (1, 2, 3, 5, 6, 7, 8)]
    assert "column cost: it is '1_000'; an amount from 0 to 10 USD is expected" in lines[0]
    assert lines[-1] == "Nothing was changed."


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"id,cost\n1,1\n"), ("a.csv", b""), ("a.csv", b"\xff\xfe"), ("a.json", b"{}"), ("a.json", b"[1]")],
)
def test_another_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path / "missing.csv", tmp_path):
        with pytest.raises(UsageError, match="Nothing was changed"):
            read_usage(path)
