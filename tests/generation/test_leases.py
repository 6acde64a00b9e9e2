"""Leases: a claimant that is silent loses its claims, is told so, and what the logs say of it."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved
from kontext_pipeline.generation.ledger.database import Transaction
from kontext_pipeline.generation.ledger.leases import FailureDetector, LeaseLost, end_claimant
from tests.generation.runs import BACKEND

TERMS = ReservationTerms("v1", 100_000)


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[list[Ledger]]:
    """Two claimants of one ledger. The heartbeats of the first are 10 ms apart."""
    made = [Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", backend=BACKEND) for _ in range(2)]
    made[0].register(run_id="first", lease_s=0.04)
    made[1].register(run_id="second", lease_s=60)
    yield made
    for ledger in made:
        ledger.close()


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in caplog.text:
        assert time.monotonic() < deadline, f"nothing was logged of {text!r}"
        time.sleep(0.001)


def test_a_lost_lease_is_logged_and_nothing_more_is_reserved(
    ledgers: list[Ledger], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ledgers
    lost = first.lease.id
    second.database.write(lambda transaction: end_claimant(transaction, lost))
    wait_for(caplog, "the lease of this run was lost")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(LeaseLost, match="another run has taken over"):
        first.reserve([("a" * 64, "batch")], TERMS)


def test_orphans_are_logged_once_by_their_number(ledgers: list[Ledger], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kontext_pipeline")
    first, second = ledgers
    for result in first.reserve([("a" * 64, "batch"), ("b" * 64, "batch")], TERMS):
        assert isinstance(result, Reserved)
        first.lease.sending(result.attempt)
    assert second.reclaim_orphans() == []
    assert caplog.records == []
    first.deregister()
    assert len(second.reclaim_orphans()) == 2
    assert second.reclaim_orphans() == []
    assert [record.getMessage() for record in caplog.records] == [
        "took over 2 attempts of runs that had ended, and released 0 that were never sent"
    ]


def test_a_claimant_is_dead_when_its_heartbeats_stand_still_for_its_lease(
    ledgers: list[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ledgers
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first.lease._closing.set()
    first.lease._thread.join()
    detector = FailureDetector(second.database)

    def dead() -> list[str]:
        with second.database.read() as connection:
            return detector.find_dead(Transaction(connection), backend=BACKEND, me=second.lease.id)

    assert dead() == []
    now += 0.039
    assert dead() == []
    now += 0.002
    assert dead() == [first.lease.id]
