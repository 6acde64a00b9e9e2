"""Revisions: every change of a request, late ones too, shows in a number; and a picture is adopted once it is settled."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kontext_pipeline.generation.ledger import (
    AskAgain,
    DatasetLink,
    Ledger,
    ReservationTerms,
    Reserved,
    Settlement,
    Stored,
)
from kontext_pipeline.generation.ledger.report import read_books
from kontext_pipeline.segmind.outcomes import Cause

ONE, TWO = "a" * 64, "b" * 64
PICTURE = Stored(f"images/aa/{ONE}.png", "1" * 64, 8, 9, 100)
CHARGED = Settlement("charged", "succeeded", cost=100_000)
LOST = Settlement("unknown", "lost")
TERMS = ReservationTerms("v1", 100_000)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Ledger]]:
    """Opens the ledger for another run."""
    ledgers: list[Ledger] = []

    def make(run_id: str) -> Ledger:
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", backend="sandbox")
        ledger.register(run_id=run_id, lease_s=60)
        ledgers.append(ledger)
        return ledger

    yield make
    for ledger in ledgers:
        ledger.close()


def link(ledger: Ledger) -> DatasetLink:
    return DatasetLink(ledger.database)


def reserved(ledger: Ledger, fingerprint: str = ONE, terms: ReservationTerms = TERMS) -> int:
    (result,) = ledger.reserve([(fingerprint, "rows-00000")], terms)
    assert isinstance(result, Reserved)
    return result.attempt


def test_a_picture_with_an_open_attempt_is_not_adopted(opened: Callable[[str], Ledger]) -> None:
    one, two = opened("one"), opened("two")
    attempt = reserved(one)
    assert not two.adopt_picture(ONE, "rows-00000", PICTURE), "stored, and not settled yet"
    assert two.statuses([ONE]) == {ONE: ("pending", True)}
    one.settle(attempt, CHARGED, status="succeeded", picture=PICTURE)
    assert two.adopt_picture(ONE, "rows-00000", PICTURE)
    (row,) = two.generations([ONE]).to_pylist()
    assert (row["status"], row["cost_usd"]) == ("succeeded", 0.1)


def test_every_change_of_a_request_has_a_higher_revision(opened: Callable[[str], Ledger]) -> None:
    one, two = opened("one"), opened("two")
    numbers = [link(one).latest_revision([ONE, TWO])]

    def changed() -> bool:
        numbers.append(link(two).latest_revision([ONE, TWO]))
        return numbers[-1] > numbers[-2]

    first = reserved(one)
    assert changed()
    one.record_job(first, "{}", "request-1", 1)
    assert changed()
    one.settle(first, LOST, status="unknown")
    assert changed()
    second = reserved(two)
    assert changed()
    two.settle(second, CHARGED, status="succeeded", picture=PICTURE)
    assert changed()
    one.settle(first, CHARGED, status="unknown")
    assert changed(), "the request had succeeded, and its late answer cost something too"
    one.settle(first, CHARGED, status="unknown")
    assert not changed(), "an attempt is settled once"
    one.adopt_picture(TWO, "rows-00000", PICTURE)
    assert changed()
    assert link(one).latest_revision([ONE]) < link(one).latest_revision([TWO])
    two.reserve([("c" * 64, "rows-00001")], TERMS)
    assert not changed(), "another batch's request"
    (row,) = one.generations([ONE]).to_pylist()
    assert row["cost_usd"] == 0.2


def test_a_request_whose_picture_is_gone_is_bought_again_and_its_costs_add_up(opened: Callable[[str], Ledger]) -> None:
    ledger = opened("one")
    ledger.settle(reserved(ledger), CHARGED, status="succeeded", picture=PICTURE, retryable=False)
    seen = {one: revision for one, (revision, _) in link(ledger).pictures([ONE, TWO]).items()}
    assert link(ledger).reopen(seen) == 1
    assert link(ledger).reopen(seen) == 0, "it has changed since"
    assert ledger.statuses([ONE]) == {ONE: ("pending", True)}
    ledger.settle(reserved(ledger), CHARGED, status="succeeded", picture=PICTURE, retryable=False)
    assert link(ledger).reopen(seen) == 0, "another run may have looked before the picture was made again"
    (row,) = ledger.generations([ONE]).to_pylist()
    assert (row["status"], row["attempts"], row["cost_usd"]) == ("succeeded", 2, 0.2)
    (books,) = read_books(ledger.database).backends
    assert (books.spent_usd, books.pictures) == (0.2, 1)


def test_a_run_that_dies_with_a_second_picture_leaves_it_accounted_for(opened: Callable[[str], Ledger]) -> None:
    """Its attempt is not one whose picture another attempt has paid for: the first picture is gone."""
    one, two = opened("one"), opened("two")
    one.settle(reserved(one), CHARGED, status="succeeded", picture=PICTURE)
    link(one).reopen({ONE: link(one).latest_revision([ONE])})
    one.lease.sending(reserved(one))
    one.close()
    (orphan,) = two.reclaim_orphans()
    assert not orphan.accounted_for


def test_lost_answers_bound_a_request_unless_a_person_asks_again(opened: Callable[[str], Ledger]) -> None:
    ledger = opened("one")
    died = Settlement("unknown", "lost", cause=Cause.RUN_DIED)
    for fingerprint, settlement in ((ONE, died), (TWO, LOST)):
        ledger.settle(reserved(ledger, fingerprint), settlement, status="unknown")

    def again(mode: AskAgain) -> dict[str, bool]:
        found = ledger.statuses([ONE, TWO], unknown_retries=0, ask_again=mode)
        whole = ledger.settled(unknown_retries=0, ask_again=mode)[1]
        assert {one for one, (_, retried) in found.items() if not retried} == whole
        return {one[0]: retried for one, (_, retried) in found.items()}

    assert again("within bounds") == {"a": False, "b": False}
    assert again("after crashes") == {"a": True, "b": False}
    assert again("always") == {"a": True, "b": True}
    claims = [(ONE, "rows-00000"), (TWO, "rows-00000")]
    kinds = []
    modes: tuple[AskAgain, ...] = ("within bounds", "after crashes", "always")
    for mode in modes:
        results = ledger.reserve(claims, ReservationTerms("v1", 100_000, unknown_retries=0, ask_again=mode))
        kinds.append([isinstance(result, Reserved) for result in results])
        ledger.release([result.attempt for result in results if isinstance(result, Reserved)])
    assert kinds == [[False, False], [True, False], [True, True]]
    attempt = reserved(ledger, TWO, ReservationTerms("v1", 100_000, unknown_retries=0, ask_again="always"))
    kept = ledger.settle(attempt, LOST, status="unknown", keep_claim=True, unknown_retries=0)
    assert not kept, "once more, and not for ever"


def test_a_ledger_has_one_data_directory(opened: Callable[[str], Ledger]) -> None:
    one, two = opened("one"), opened("two")
    assert link(one).dataset_id() is None
    assert link(one).bind("first") == "first"
    assert link(two).bind("second") == "first"
    assert link(two).dataset_id() == "first"
