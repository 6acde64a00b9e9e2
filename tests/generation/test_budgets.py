"""Caps hold to the call, and are filled: nothing is spent beyond them and nothing is left for no reason."""

import dataclasses
from pathlib import Path

import pytest

from kontext_pipeline.generation.ledger import Ledger, OverBudget, ReservationTerms, Reserved, Settlement
from kontext_pipeline.generation.ledger.money import Cap, micros
from tests.generation.conftest import SpecMaker
from tests.generation.runs import BACKEND, Ledgerbook, perform, running
from tests.sandbox.running import Sandbox, running_sandbox

A_TENTH_OF_A_SECOND = {"speed": 240.0}
A_DAY_S = 86_400.0


@pytest.mark.parametrize("kontext_sandbox", [A_TENTH_OF_A_SECOND], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_sixty_four_workers_in_four_processes_fill_a_cap_and_stop(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str
) -> None:
    four = [
        spec(
            range(50 * number, 50 * number + 50),
            api_version=api_version,
            concurrency=16,
            caps=[(3.70, "all")],
            run_id=f"process {number}",
        )
        for number in range(4)
    ]
    with running(*four, folder=tmp_path) as runs:
        results = [run.wait() for run in runs]
    assert [result.stopped for result in results] == ["budget"] * 4
    book = Ledgerbook(four[0].ledger, kontext_sandbox)
    book.check()
    assert book.billed == 37 == len(book.pictures(four[0].data_dir))
    assert len(book.server["entries"]) == 37


def test_more_workers_than_threads_wait_for_the_last_of_a_budget(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    # Refusals give money back while far more requests than there are threads wait for it.
    kontext_sandbox.set_faults({"kind": "failed", "share": 0.5})
    result = perform(spec(range(300), api_version="v2", concurrency=200, caps=[(3.70, "all")]))
    assert result.stopped == "budget"
    assert kontext_sandbox.wait_idle()["totals"]["billed"] == 37


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 400, "share": 0.4},
        {"kind": "status", "status": 500, "share": 0.4},
        {"kind": "status", "status": 503, "share": 0.4},
        {"kind": "rate-limit", "seconds": 0.05, "share": 0.1, "times": 1},
    ],
    ids=["400", "500", "503", "429"],
)
def test_what_refusals_give_back_is_spent(spec: SpecMaker, kontext_sandbox: Sandbox, fault: dict[str, object]) -> None:
    kontext_sandbox.set_faults(fault)
    one = spec(range(120), concurrency=16, caps=[(3.70, "all")])
    assert perform(one).stopped == "budget"
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.billed == 37
    assert book.count("released") > 0


def test_a_run_has_a_cap_of_its_own(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    one = spec(range(60), caps=[(1.0, "run"), (2.5, "all")])
    billed = []
    for number in range(4):
        result = perform(dataclasses.replace(one, run_id=f"run {number}"))
        assert result.stopped == "budget"
        billed.append(kontext_sandbox.books()["totals"]["billed"])
    assert billed == [10, 20, 25, 25]


@pytest.mark.parametrize(("price", "buys"), [pytest.param(0.08, 46, marks=pytest.mark.long), (0.12, 30)])
def test_other_prices_than_the_list_says(spec: SpecMaker, tmp_path: Path, price: float, buys: int) -> None:
    with running_sandbox(price=price) as sandbox:
        one = spec(range(60), url=sandbox.url, concurrency=1, caps=[(3.70, "all")])
        assert perform(one).stopped == "budget"
        book = Ledgerbook(one.ledger, sandbox)
        book.check()
        assert book.charged_micros == book.billed_micros <= micros(3.70)
        assert book.billed == buys


@pytest.mark.parametrize("scope", ["day", "month"])
def test_a_period_has_its_own_cap(spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, scope: str) -> None:
    one = spec(range(40), caps=[(0.5, scope)])
    assert perform(one).stopped == "budget"
    with running(dataclasses.replace(one, clock_ahead_s=32 * A_DAY_S), folder=tmp_path) as (later,):
        assert later.wait().stopped == "budget"
    assert kontext_sandbox.books()["totals"]["billed"] == 10
    assert perform(one).stopped == "budget"
    assert kontext_sandbox.books()["totals"]["billed"] == 10


def test_unknown_charges_stay_against_the_cap(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "reset"})
    one = spec(range(40), caps=[(1.0, "all")], unknown_retries=0)
    result = perform(one)
    assert result.stopped == "budget"
    assert result.progress["possibly_charged"] == micros(1.0)
    book = Ledgerbook(one.ledger, kontext_sandbox)
    assert book.count("unknown") == 10
    assert book.billed == 0
    assert book.books is not None
    assert (book.books.spent_usd, book.books.possibly_charged_usd) == (0.0, 1.0)


def test_room_that_may_come_back_is_told_from_room_that_will_not(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    cap = Cap(200_000, "all")

    def reserve(name: str) -> object:
        return ledger.reserve([(name, "batch")], ReservationTerms("v1", 100_000, caps=[cap]))[0]

    first, second = reserve("a"), reserve("b")
    assert isinstance(first, Reserved)
    assert isinstance(second, Reserved)
    assert reserve("c") == OverBudget(cap, recoverable=200_000)
    ledger.settle(first.attempt, Settlement("charged", "succeeded", cost=100_000), status="succeeded")
    assert reserve("c") == OverBudget(cap, recoverable=100_000)
    ledger.settle(second.attempt, Settlement("charged", "succeeded", cost=120_000), status="succeeded")
    assert reserve("c") == OverBudget(cap, recoverable=0)
    ledger.close()
