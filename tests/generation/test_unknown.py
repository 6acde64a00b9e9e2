"""Answers that never came, or came as something else: never silently paid again, never forgotten."""

import dataclasses
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.ledger.money import micros
from tests.generation.conftest import SpecMaker
from tests.generation.runs import BACKEND, Ledgerbook, fingerprint_of, perform
from tests.sandbox.running import Sandbox

HALF_A_SECOND = {"speed": 48.0}


@pytest.mark.parametrize(
    "unknown_retries", [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("kontext_sandbox", [HALF_A_SECOND], indirect=True)
def test_a_timeout_below_the_latency_is_paid_no_more_often_than_the_setting_says(
    spec: SpecMaker, kontext_sandbox: Sandbox, unknown_retries: int
) -> None:
    one = spec(range(12), concurrency=12, answer_timeout_s=0.05, unknown_retries=unknown_retries)
    first = perform(one)
    again = perform(dataclasses.replace(one, run_id="again"))
    assert set(first.outcomes.values()) == set(again.outcomes.values()) == {"unknown"}
    assert again.progress["attempts"] == 0
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert set(book.posts_per_row().values()) == {unknown_retries + 1}
    assert book.count("unknown") == 12 * (unknown_retries + 1) == book.billed
    assert first.progress["possibly_charged"] == micros(0.10) * book.count("unknown")
    ledger = Ledger(one.ledger, backend=BACKEND)
    table = ledger.generations([fingerprint_of(row) for row in one.rows])
    ledger.close()
    assert set(table["status"].to_pylist()) == {"unknown"}
    assert table["possibly_charged_usd"].to_pylist() == pytest.approx([0.10 * (unknown_retries + 1)] * 12)


@pytest.mark.parametrize("api_version", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["bill-then-reset", "reset"])
def test_a_lost_answer_is_tried_again_once_and_booked_as_unknown(
    spec: SpecMaker, kontext_sandbox: Sandbox, api_version: str, kind: str
) -> None:
    kontext_sandbox.set_faults({"kind": kind, "times": 1, "share": 0.3})
    one = spec(range(60), api_version=api_version, concurrency=16)
    result = perform(one)
    assert set(result.outcomes.values()) == {"succeeded"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    lost = sum(entry["fault"] == kind for entry in book.server["entries"])
    assert lost > 5
    assert book.count("unknown") == lost
    assert book.billed == 60 + (lost if kind == "bill-then-reset" else 0)
    assert result.progress["possibly_charged"] == micros(0.10) * lost
    assert len(book.pictures(one.data_dir)) == 60


def test_defects_in_the_handling_of_v2_answers_cost_their_own_rows(
    spec: SpecMaker, kontext_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer to a submit, one to a poll and one to a fetch can't be handled."""
    left = Counter({"client.job_state": 1, "exchange.job_state": 1, "received_pictures.find_image": 1})
    for place in list(left):
        module, _, name = place.rpartition(".")
        handle = getattr(importlib.import_module(f"kontext_pipeline.segmind.{module}"), name)

        def fail_once(document: Any, place: str = place, handle: Any = handle) -> Any:
            left[place] -= 1
            if left[place] >= 0:
                raise TypeError("a defect")
            return handle(document)

        monkeypatch.setattr(f"kontext_pipeline.segmind.{place}", fail_once)
    one = spec(range(6), api_version="v2", concurrency=1)
    result = perform(one)
    assert (result.stopped, set(result.outcomes.values())) == (None, {"succeeded"})
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert all(times < 0 for times in left.values())
    # The job of the submit is lost, and may be billed. The others are asked about again, which costs nothing.
    (lost,) = (attempt for attempt in book.attempts if attempt.state == "unknown")
    assert (lost.cause, book.count("charged"), book.billed) == ("fault", 6, 7)


@pytest.mark.parametrize("unknown_retries", [0, 1])
def test_a_gateways_timeout_on_v1_may_have_been_charged(
    spec: SpecMaker, kontext_sandbox: Sandbox, unknown_retries: int
) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 504})
    one = spec(range(10), unknown_retries=unknown_retries)
    assert set(perform(one).outcomes.values()) == {"unknown"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    assert set(book.posts_per_row().values()) == {unknown_retries + 1}
    assert book.count("unknown") == 10 * (unknown_retries + 1)


def test_a_gateways_timeout_on_a_v2_submit_was_not_charged(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 504, "on": ["submit"], "times": 2})
    one = spec(range(10), api_version="v2")
    assert set(perform(one).outcomes.values()) == {"succeeded"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    assert (book.count("charged"), book.count("released"), book.count("unknown")) == (10, 20, 0)


@pytest.mark.parametrize("endpoint", ["status", "result"])
def test_an_expired_record_is_unknown_and_left_for_another_run(
    spec: SpecMaker, kontext_sandbox: Sandbox, endpoint: str
) -> None:
    kontext_sandbox.set_faults({"kind": "expired", "on": [endpoint]})
    # Two work_items for each picture: the second one must not pay again either.
    one = spec([*range(8), *range(8)], api_version="v2", concurrency=4)
    first = perform(one)
    assert set(first.outcomes.values()) == {"unknown"}
    assert first.progress["unknown"] == 16
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert set(book.posts_per_row().values()) == {1}
    assert book.count("unknown") == 8
    kontext_sandbox.set_faults()
    second = perform(dataclasses.replace(one, run_id="second"))
    assert set(second.outcomes.values()) == {"succeeded"}
    assert set(Ledgerbook(one.ledger, kontext_sandbox).posts_per_row().values()) == {2}


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 502, "share": 0.5},
        {"kind": "status", "status": 504, "share": 0.5},
        {"kind": "rate-limit", "seconds": 0.05, "share": 0.3},
        {"kind": "reset", "share": 0.5},
    ],
    ids=["502", "504", "429", "reset"],
)
def test_errors_of_polls_and_fetches_cost_nothing(
    spec: SpecMaker, kontext_sandbox: Sandbox, fault: dict[str, object]
) -> None:
    kontext_sandbox.set_faults({**fault, "on": ["status", "result", "output"]})
    one = spec(range(20), api_version="v2", concurrency=20)
    result = perform(one)
    assert set(result.outcomes.values()) == {"succeeded"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.billed == len(book.attempts) == 20 == book.count("charged")


@pytest.mark.parametrize("kind", ["cut-body", "garbage"])
def test_what_came_instead_of_a_picture_is_set_aside(spec: SpecMaker, kontext_sandbox: Sandbox, kind: str) -> None:
    kontext_sandbox.set_faults({"kind": kind, "on": ["v1"], "times": 1, "share": 0.5})
    one = spec(range(30), concurrency=8)
    result = perform(one)
    assert set(result.outcomes.values()) == {"succeeded"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    struck = [attempt for attempt in book.attempts if attempt.outcome == "unusable"]
    assert len(struck) > 5
    # The answer said what it cost, so this is no guess.
    assert {attempt.state for attempt in struck} == {"charged"}
    assert book.charged_micros == book.billed_micros
    # Of a body that was cut by a reset, the kernel may have dropped what had come.
    aside = {path.name for path in Path(one.data_dir, "images").glob(".unusable/*")}
    expected = {f"{attempt.fingerprint}.{attempt.id}" for attempt in struck}
    assert aside == expected if kind == "garbage" else aside <= expected
    assert book.books is not None
    assert book.books.spent_without_picture_usd == pytest.approx(0.10 * len(struck))


@pytest.mark.parametrize("kind", ["cut-body", "garbage"])
def test_bad_output_files_of_v2_are_fetched_again_for_nothing(
    spec: SpecMaker, kontext_sandbox: Sandbox, kind: str
) -> None:
    kontext_sandbox.set_faults({"kind": kind, "on": ["output"], "times": 2})
    one = spec(range(20), api_version="v2")
    assert set(perform(one).outcomes.values()) == {"succeeded"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    book.check()
    assert book.billed == len(book.attempts) == 20


def test_rate_limits_never_count_against_a_row(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "rate-limit", "seconds": 0.05, "times": 2})
    one = spec(range(3), concurrency=4, server_error_retries=0, unknown_retries=0)
    result = perform(one)
    assert set(result.outcomes.values()) == {"succeeded"}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    assert (book.count("released"), book.count("charged")) == (6, 3)


def test_server_errors_are_bounded_and_released(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 500, "prompt": "row 3"})
    one = spec(range(10), server_error_retries=2)
    result = perform(one)
    assert Counter(result.outcomes.values()) == {"succeeded": 9, "failed": 1}
    book = Ledgerbook(one.ledger, kontext_sandbox)
    assert book.posts_per_row()["row 3"] == 3
    assert book.books is not None
    assert book.books.failed_by_cause == {"server_error": 1}


# A job that never ends: the run waits for it no longer than it was told, and does not pay for it again.
@pytest.mark.parametrize("kontext_sandbox", [{"speed": 240.0}], indirect=True)
def test_a_job_that_hangs_is_left_out_there(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "hang", "on": ["submit"], "prompt": "row 5"})
    one = spec([*range(10), *range(10)], api_version="v2", concurrency=4, job_timeout_s=1.0)
    result = perform(one)
    assert result.stopped is None
    assert Counter(result.outcomes.values()) == {"succeeded": 9}
    again = perform(dataclasses.replace(one, run_id="again"))
    assert again.stopped is None
    assert again.progress["attempts"] == 0
    assert kontext_sandbox.books()["totals"]["posts"] == 10
    ledger = Ledger(one.ledger, backend=BACKEND)
    table = ledger.generations([fingerprint_of(5)])
    ledger.close()
    assert table["status"].to_pylist() == ["pending"]


def test_a_budget_that_only_a_hanging_job_holds_is_used_up(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "hang", "on": ["submit"], "prompt": "row 0"})
    one = spec(range(20), api_version="v2", concurrency=4, job_timeout_s=1.0, caps=[(1.0, "all")])
    result = perform(one)
    assert result.stopped == "budget"
    assert Counter(result.outcomes.values()) == {"succeeded": 9}


# A slow job outlives its deadline while the run has other things to do: it is collected all the same.
@pytest.mark.parametrize("kontext_sandbox", [{"speed": 240.0, "latency_spread": 0.0}], indirect=True)
def test_a_late_job_is_collected_as_long_as_the_run_goes_on(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "slow", "on": ["submit"], "prompt": "row 0", "seconds": 240.0})
    one = spec([*range(20), *range(20)], api_version="v2", concurrency=2, job_timeout_s=0.5, rpm=600)
    result = perform(one)
    assert result.stopped is None
    assert Counter(result.outcomes.values()) == {"succeeded": 20}
    assert Ledgerbook(one.ledger, kontext_sandbox).billed == 20
