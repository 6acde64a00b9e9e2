"""The ledger's rules, whatever order things happen in: a state machine over several claimants of one ledger."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

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
from kontext_pipeline.generation.ledger.leases import LeaseLost
from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.generation.ledger.report import read_books, spending_differs

BACKEND = "sandbox"
FINGERPRINTS = [character * 64 for character in "abcdefgh"]
PRICE = 100_000
# In memory where there is such a folder: it is the order of things that is tested here, not the disk.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None

fingerprints = st.sampled_from(FINGERPRINTS)
several = st.lists(fingerprints, min_size=1, max_size=8)
settlements = st.one_of(
    st.builds(
        lambda cost, outcome: (Settlement("charged", outcome, cost=cost), outcome == "succeeded"),
        st.sampled_from([PRICE, 80_000, 0]),
        st.sampled_from(["succeeded", "unusable", "expired"]),
    ),
    st.builds(lambda outcome: (Settlement("unknown", outcome), False), st.sampled_from(["lost", "gateway_timeout"])),
    st.just((Settlement("released", "server_error", status_code=500), False)),
)


@dataclass(eq=False)
class Worker:
    """A claimant: one process's ledger, and the attempts that it thinks are its own."""

    number: int
    ledger: Ledger
    alive: bool = True
    left: bool = False
    attempts: list[tuple[int, str]] = field(default_factory=list)
    unsent: list[tuple[int, str]] = field(default_factory=list)
    """Attempts that are reserved and not sent."""


def picture_of(fingerprint: str, number: int) -> Stored:
    return Stored(f"images/{fingerprint[:2]}/{fingerprint}.png", f"{number:064d}", 8, 8, 100)


def abandon(ledger: Ledger) -> None:
    """Do to a claimant what a kill does: its heartbeats end, and the kernel releases its lock."""
    lease = ledger.lease
    lease._closing.set()
    lease._thread.join()
    assert lease._files is not None
    lease._files.lock.release(force=True)


class LedgerMachine(RuleBasedStateMachine):
    """A few claimants, eight requests, and caps that are soon reached or late."""

    template: Path
    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        shutil.copy(self.template, self.folder / "ledger.db")
        self.url = f"sqlite:///{self.folder / 'ledger.db'}"
        self.made: list[Worker] = []
        self.settled: dict[str, tuple[Any, ...]] = {}
        self.news = 0
        self.reader = Ledger(self.url, backend=BACKEND)
        self.connection = sqlite3.connect(self.folder / "ledger.db", isolation_level=None)

    def teardown(self) -> None:
        for worker in self.made:
            if worker.alive and not worker.left:
                worker.ledger.deregister()
            worker.ledger.database.close()
        self.connection.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    def register(self) -> Worker:
        worker = Worker(len(self.made), Ledger(self.url, backend=BACKEND))
        worker.ledger.register(run_id=f"run {worker.number % 2}", lease_s=3600)
        self.made.append(worker)
        return worker

    @initialize(target=workers, room=st.sampled_from([230_000, 350_000, 1_050_000]), wanted=several)
    def begin(self, room: int, wanted: list[str]) -> Any:
        self.everything = Cap(room, "all")
        self.today = Cap(room + 40_000, "day")
        self.run = Cap(room * 2 // 3, "run")
        first, second = self.register(), self.register()
        self._reserve(first, wanted, 1)
        return multiple(first, second)

    @rule(target=workers)
    def another_registers(self) -> Any:
        return self.register() if len(self.made) < 6 else multiple()

    @rule(
        worker=workers,
        wanted=several,
        retries=st.sampled_from([0, 1, 3]),
        at_once=st.booleans(),
    )
    def reserve(self, worker: Worker, wanted: list[str], retries: int, at_once: bool) -> None:
        if worker.left:
            return
        unsent = len(worker.unsent)
        self._reserve(worker, wanted, retries)
        if at_once:
            for _ in worker.unsent[unsent:]:
                self.send(worker)

    def _reserve(self, worker: Worker, wanted: list[str], retries: int) -> None:
        """Reserve one request or several, some of them twice, in one call."""
        before = self.held("1 = 1")
        replaced = self.has_ended(worker)
        terms = ReservationTerms("v1", PRICE, caps=[self.today, self.run, self.everything], unknown_retries=retries)
        try:
            results = worker.ledger.reserve([(fingerprint, "batch") for fingerprint in wanted], terms)
        except LeaseLost:
            worker.alive = False
            return
        assert not replaced
        assert len(results) == len(wanted)
        reserved = [
            (result.attempt, fingerprint)
            for fingerprint, result in zip(wanted, results, strict=True)
            if isinstance(result, Reserved)
        ]
        assert self.held("1 = 1") == before + PRICE * len(reserved)
        assert len({attempt for attempt, _ in reserved}) == len({one for _, one in reserved}) == len(reserved)
        worker.unsent += reserved
        for number, (fingerprint, result) in enumerate(zip(wanted, results, strict=True)):
            earlier = results[:number]
            assert not isinstance(result, RetryLater)
            if isinstance(result, Reserved):
                assert self.status(fingerprint) != "succeeded"
                assert not any(isinstance(one, OverBudget) for one in earlier)
            if isinstance(result, AlreadySettled) and result.status == "succeeded":
                assert fingerprint in self.settled
            if isinstance(result, OverBudget):
                run = f"run_id = 'run {worker.number % 2}'"
                full = self.held("1 = 1") + PRICE > self.everything.limit
                assert full or self.held(run) + PRICE > self.run.limit
            if isinstance(result, ClaimedElsewhere):
                assert self.claims(fingerprint) > 0
            if fingerprint in wanted[:number]:
                first = results[wanted.index(fingerprint)]
                assert result == (ClaimedElsewhere() if isinstance(first, Reserved) else first)

    @rule(worker=workers)
    def send(self, worker: Worker) -> None:
        if worker.alive and not worker.left and worker.unsent:
            worker.ledger.lease.sending(worker.unsent[0][0])
            worker.attempts.append(worker.unsent.pop(0))

    @rule(worker=workers, most=st.sampled_from([1, 3]))
    def release(self, worker: Worker, most: int) -> None:
        if worker.alive and not worker.left and worker.unsent:
            released = [attempt for attempt, _ in worker.unsent[-most:]]
            del worker.unsent[-most:]
            before = self.held("1 = 1")
            worker.ledger.release(released)
            assert self.held("1 = 1") == before - PRICE * len(released)

    @rule(worker=workers, which=st.integers(0, 5), settlement=settlements, keep=st.booleans())
    def close(self, worker: Worker, which: int, settlement: tuple[Settlement, bool], keep: bool) -> None:
        """Settle an attempt: in time, late, or once more. The dead may wake up and do it, too."""
        if not worker.attempts:
            return
        attempt, fingerprint = worker.attempts[which % len(worker.attempts)]
        what, with_picture = settlement
        self.news += 1
        status = {"charged": "unknown", "unknown": "unknown", "released": "pending"}[what.state]
        worker.ledger.settle(
            attempt,
            what,
            status="succeeded" if with_picture else status,  # type: ignore[arg-type]
            picture=picture_of(fingerprint, self.news) if with_picture else None,
            keep_claim=keep and not with_picture,
        )
        if self.in_flight(fingerprint) == 0 and not with_picture:
            assert self.status(fingerprint) in (status, "succeeded")

    @rule(worker=workers, fingerprint=fingerprints)
    def find_picture(self, worker: Worker, fingerprint: str) -> None:
        self.news += 1
        worker.ledger.adopt_picture(fingerprint, "batch", picture_of(fingerprint, self.news))

    @rule(worker=consumes(workers))
    def leave(self, worker: Worker) -> None:
        while worker.alive and worker.unsent:
            self.release(worker, 3)
        if worker.alive:
            worker.ledger.deregister()
        worker.left = True

    @rule(worker=workers)
    def die(self, worker: Worker) -> None:
        if worker.alive and not worker.left:
            abandon(worker.ledger)
            worker.alive = False

    @rule(worker=workers)
    def reclaim_orphans(self, worker: Worker) -> None:
        if worker.left or not worker.alive:
            return
        try:
            orphans = worker.ledger.reclaim_orphans()
        except LeaseLost:
            worker.alive = False
            return
        never = {attempt for one in self.made if not one.alive for attempt, _ in one.unsent}
        assert not never & {orphan.attempt for orphan in orphans}
        assert not never & self.open_attempts()
        living = {id(one) for one in self.made if one.alive and not one.left}
        for orphan in orphans:
            others = [one for one in self.made if one is not worker and id(one) in living]
            assert not any((orphan.attempt, orphan.fingerprint) in one.attempts for one in others)
            worker.attempts.append((orphan.attempt, orphan.fingerprint))

    @invariant()
    def caps_hold(self) -> None:
        assert self.held("1 = 1") <= self.everything.limit
        for run in (0, 1):
            assert self.held(f"run_id = 'run {run}'") <= self.run.limit

    @invariant()
    def sums_are_those_of_the_attempts(self) -> None:
        assert spending_differs(self.reader.database) == []
        books = next(iter(read_books(self.reader.database).backends), None)
        if books is not None:
            total = books.spent_usd + books.possibly_charged_usd + books.reserved_usd
            assert round(total * 1e6) == self.held("1 = 1")

    @invariant()
    def no_request_has_two_claims(self) -> None:
        for fingerprint in FINGERPRINTS:
            assert self.claims(fingerprint) <= 1

    @invariant()
    def what_is_in_flight_is_pending_and_its_sender_s(self) -> None:
        rows = self.query(
            "SELECT g.status, g.claimant, a.claimant AS sender FROM attempts a "
            "JOIN generations g ON g.fingerprint = a.fingerprint WHERE a.state = 'open'"
        )
        for status, claimant, sender in rows:
            assert status == "succeeded" or (status, claimant) == ("pending", sender)

    @invariant()
    def no_success_changes(self) -> None:
        now = {
            row[0]: row
            for row in self.query(
                "SELECT fingerprint, image_path, image_sha256, width, height, bytes FROM generations "
                "WHERE status = 'succeeded'"
            )
        }
        for fingerprint, before in self.settled.items():
            assert now.get(fingerprint) == before
        self.settled = now

    def query(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement, values).fetchall()

    def held(self, where: str) -> int:
        """What counts against a cap, by the attempts themselves."""
        ((amount,),) = self.query(
            "SELECT COALESCE(SUM(CASE state WHEN 'charged' THEN cost WHEN 'released' THEN 0 ELSE price END), 0) "
            f"FROM attempts WHERE {where}"
        )
        return int(amount)

    def claims(self, fingerprint: str) -> int:
        """How many attempts in flight, or else claimants between two tries, a request has."""
        between = self.query(
            "SELECT 1 FROM generations g JOIN claimants c ON c.id = g.claimant "
            "WHERE g.fingerprint = ? AND c.ended_at IS NULL",
            fingerprint,
        )
        return self.in_flight(fingerprint) or len(between)

    def open_attempts(self) -> set[int]:
        return {row[0] for row in self.query("SELECT id FROM attempts WHERE state = 'open'")}

    def in_flight(self, fingerprint: str) -> int:
        return len(self.query("SELECT 1 FROM attempts WHERE fingerprint = ? AND state = 'open'", fingerprint))

    def has_ended(self, worker: Worker) -> bool:
        ((ended_at,),) = self.query("SELECT ended_at FROM claimants WHERE id = ?", worker.ledger.lease.id)
        return ended_at is not None

    def status(self, fingerprint: str) -> str | None:
        return self.reader.statuses([fingerprint]).get(fingerprint, (None, True))[0]


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """An empty ledger, made once: bringing one up to date takes longer than a whole example."""
    folder = Path(tempfile.mkdtemp(dir=FAST))
    Ledger(f"sqlite:///{folder / 'ledger.db'}", backend=BACKEND).close()
    yield folder / "ledger.db"
    shutil.rmtree(folder)


def explore(template: Path, *, examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("LedgerMachine", (LedgerMachine,), {"template": template})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_rules_hold_in_any_order(template: Path) -> None:
    explore(template, examples=30, steps=30)


@pytest.mark.long
def test_the_rules_hold_in_any_order_at_length(template: Path) -> None:
    explore(template, examples=300, steps=50)
