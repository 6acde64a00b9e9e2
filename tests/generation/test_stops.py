"""Stopping early: for the account, for the user. What is in flight is collected, and a restart goes on."""

import dataclasses
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.generation.work import WorkItem
from tests.generation.conftest import SpecMaker
from tests.generation.runs import (
    Ledgerbook,
    fingerprint_of,
    hold_up,
    perform,
    running,
    wait_for_posts,
    work_items,
)
from tests.sandbox.running import Sandbox

THREE_SECONDS = {"speed": 8.0, "latency_spread": 0.0}


def goes_on(spec: SpecMaker, sandbox: Sandbox, rows: range, **fields: object) -> Ledgerbook:
    """Start again, with the cause gone: every picture is there, and none was paid for twice."""
    sandbox.set_faults()
    again = spec(rows, run_id="again", **fields)
    assert set(perform(again).outcomes.values()) == {"succeeded"}
    book = Ledgerbook(again.ledger, sandbox)
    book.check()
    assert book.pictures(again.data_dir) == {fingerprint_of(row) for row in rows}
    return book


@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"status": 401}, "bad_key"),
        ({"status": 403}, "no_permission"),
        ({"status": 404}, "no_such_model"),
        ({"status": 406, "cause": "credits"}, "insufficient_credits"),
        ({"status": 406, "cause": "team-limit"}, "spend_limit"),
        ({"status": 410}, "model_retired"),
    ],
    ids=["401", "403", "404", "406 credits", "406 team limit", "410"],
)
def test_the_account_stops_a_run_within_one_round(
    spec: SpecMaker, kontext_sandbox: Sandbox, api_version: str, fault: dict[str, object], cause: str
) -> None:
    kontext_sandbox.set_faults({"kind": "status", "after": 20, **fault})
    result = perform(spec(range(100), api_version=api_version, concurrency=8))
    assert result.stopped == cause
    posts = kontext_sandbox.books()["totals"]["posts"]
    assert posts <= 20 + 8
    # What was in flight was collected.
    billed = kontext_sandbox.wait_idle()["totals"]["billed"]
    assert result.progress["succeeded"] == billed == 20
    book = goes_on(spec, kontext_sandbox, range(100), api_version=api_version)
    assert book.billed == 100
    assert book.count("unknown") == 0


def test_a_key_that_is_refused_on_a_poll_stops_the_run_and_loses_nothing(
    spec: SpecMaker, kontext_sandbox: Sandbox
) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 401, "on": ["status"], "after": 10})
    result = perform(spec(range(60), api_version="v2", concurrency=8))
    assert result.stopped == "bad_key"
    book = goes_on(spec, kontext_sandbox, range(60), api_version="v2")
    assert book.billed == 60 == len(book.attempts)


@pytest.mark.parametrize(
    ("number", "api_version"),
    [
        (signal.SIGTERM, "v1"),
        (signal.SIGINT, "v2"),
        pytest.param(signal.SIGTERM, "v2", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "v1", marks=pytest.mark.long),
    ],
)
def test_a_signal_stops_submitting_and_collects(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str, number: int
) -> None:
    one = spec(range(60), api_version=api_version, concurrency=8)
    hold_up(kontext_sandbox, 0.5)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 12)
        run.signal(number)
        time.sleep(0.1)
        posts = kontext_sandbox.books()["totals"]["posts"]
        result = run.wait()
    assert result.interrupted
    assert result.stopped == "interrupted"
    # What was being written down when the signal came may still have gone out.
    assert kontext_sandbox.books()["totals"]["posts"] <= posts
    assert result.progress["succeeded"] == posts == kontext_sandbox.wait_idle()["totals"]["billed"]
    assert result.progress["in_flight"] == 0
    book = goes_on(spec, kontext_sandbox, range(60), api_version=api_version, concurrency=16)
    assert book.billed == 60 == book.count("charged")


@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_a_second_ctrl_c_leaves_at_once(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str
) -> None:
    rows = range(16)
    one = spec(rows, api_version=api_version, concurrency=8, run_id="left")
    hold_up(kontext_sandbox, 4.0)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 8)
        time.sleep(0.3)
        run.signal(signal.SIGINT)
        time.sleep(0.2)
        run.signal(signal.SIGINT)
        result = run.wait()
    assert result.interrupted
    # The run has ended, and the server is still at work on what it was sent.
    assert kontext_sandbox.books()["totals"]["running"] == 8
    left = Ledgerbook(one.ledger, kontext_sandbox)
    if api_version == "v1":
        assert left.count("unknown") == 8
        assert {attempt.cause for attempt in left.attempts} == {"aborted"}
    else:
        assert left.count("open") == 8
    book = goes_on(spec, kontext_sandbox, rows, api_version=api_version, concurrency=8)
    # v1 can't know; v2 collects what it paid for.
    assert book.billed == 16 + (8 if api_version == "v1" else 0)
    assert book.charged_micros + 100_000 * book.count("unknown") == book.billed_micros


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize("api_version", ["v1", "v2"])
@pytest.mark.parametrize("kontext_sandbox", [THREE_SECONDS], indirect=True)
def test_collecting_is_bounded(spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, api_version: str) -> None:
    one = spec(range(16), api_version=api_version, concurrency=8, drain_s=0.3)
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 8)
        run.signal(signal.SIGTERM)
        started = time.monotonic()
        result = run.wait()
    assert result.interrupted
    assert time.monotonic() - started < 2.0
    book = goes_on(spec, kontext_sandbox, range(16), api_version=api_version, concurrency=8)
    assert book.billed == 16 + book.count("unknown")
    assert book.count("unknown") == (8 if api_version == "v1" else 0)


def test_an_api_out_of_reach_stops_the_run_and_costs_nothing(spec: SpecMaker) -> None:
    nobody = spec(range(10), url="http://127.0.0.1:9", server_error_retries=2)
    result = perform(nobody)
    assert result.stopped == "unreachable"
    assert result.progress["possibly_charged"] == 0


def test_a_fault_in_the_manifest_stops_the_run_and_is_raised(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    def broken() -> Iterator[WorkItem]:
        yield from work_items(one)
        raise ManifestError(["data/demo.csv, row 7: gone"])

    one = spec(range(6))
    with pytest.raises(ManifestError, match="row 7"):
        perform(one, source=broken())
    book = goes_on(spec, kontext_sandbox, range(6))
    assert book.billed == 6 == book.count("charged")


def test_two_stops_in_a_row_report_the_first(spec: SpecMaker, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 401})
    one = spec(range(20))
    assert perform(one).stopped == perform(dataclasses.replace(one, run_id="again")).stopped == "bad_key"
    book = Ledgerbook(one.ledger, kontext_sandbox)
    assert book.count("released") == len(book.attempts) > 0
