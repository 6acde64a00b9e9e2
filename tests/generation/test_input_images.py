"""Local input pictures: uploaded once a run, for nothing; what goes wrong with an upload is never booked as money."""

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import text

from kontext_pipeline.generation.ledger.database import Database
from tests.generation.conftest import SpecMaker
from tests.generation.runs import Ledgerbook, RunSpec, perform, work_items
from tests.sandbox.running import Sandbox


@pytest.fixture
def edits(spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path) -> RunSpec:
    """Twelve rows that edit one local picture. The server has been asked for one before them."""
    perform(spec([1000], run_id="before"))
    path = tmp_path / "input.png"
    Image.new("RGB", (64, 64), "teal").save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return spec(range(12), input_image=str(path), input_sha256=digest)


def states(one: RunSpec) -> Counter[tuple[Any, ...]]:
    database = Database(one.ledger)
    with database.read() as connection:
        found = Counter(
            tuple(row)
            for row in connection.execute(text("SELECT state, outcome, cause FROM attempts WHERE run_id <> 'before'"))
        )
    database.close()
    return found


def test_a_picture_is_uploaded_once(edits: RunSpec, kontext_sandbox: Sandbox) -> None:
    assert set(perform(edits).outcomes.values()) == {"succeeded"}
    assert kontext_sandbox.books()["totals"]["billed"] == 13


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "status", "status": 504}, {"kind": "reset"}],
    ids=["503", "504", "reset"],
)
def test_an_upload_that_fails_for_a_while_costs_nothing(
    edits: RunSpec, kontext_sandbox: Sandbox, fault: dict[str, object]
) -> None:
    kontext_sandbox.set_faults({**fault, "on": ["upload"], "times": 2})
    result = perform(edits)
    assert set(result.outcomes.values()) == {"succeeded"}
    assert result.progress["possibly_charged"] == 0
    assert {state for state, _, _ in states(edits)} == {"charged", "released"}
    assert kontext_sandbox.books()["totals"]["posts"] == 13


def test_an_upload_that_is_lost_for_good_fails_its_rows_and_is_not_unknown(
    edits: RunSpec, kontext_sandbox: Sandbox
) -> None:
    kontext_sandbox.set_faults({"kind": "reset", "on": ["upload"]})
    result = perform(dataclasses.replace(edits, server_error_retries=1))
    assert set(result.outcomes.values()) == {"failed"}
    assert result.progress["possibly_charged"] == 0
    assert kontext_sandbox.books()["totals"]["posts"] == 1
    kontext_sandbox.set_faults()
    assert set(perform(dataclasses.replace(edits, run_id="again")).outcomes.values()) == {"succeeded"}


def test_a_key_that_is_refused_on_an_upload_stops_the_run(edits: RunSpec, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 401, "on": ["upload"]})
    assert perform(edits).stopped == "bad_key"


def test_a_server_without_uploads_is_sent_the_picture_in_the_request(edits: RunSpec, kontext_sandbox: Sandbox) -> None:
    kontext_sandbox.set_faults({"kind": "status", "status": 404, "on": ["upload"]})
    assert set(perform(edits).outcomes.values()) == {"succeeded"}
    assert kontext_sandbox.books()["totals"]["billed"] == 13


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_file_that_is_gone_or_was_changed_fails_its_rows_for_nothing(
    edits: RunSpec, kontext_sandbox: Sandbox, what: str
) -> None:
    path = Path(str(edits.input_image))
    path.unlink() if what == "gone" else path.write_bytes(b"something else")
    assert len(list(work_items(edits))) == 12
    result = perform(edits)
    assert set(result.outcomes.values()) == {"failed"}
    cause = {"gone": "input_missing", "changed": "input_changed"}[what]
    assert set(states(edits)) == {("released", "rejected", cause)}
    assert kontext_sandbox.books()["totals"]["posts"] == 1
    assert Ledgerbook(edits.ledger, kontext_sandbox).off == []
