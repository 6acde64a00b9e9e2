"""The log of sent attempts: what it names was sent, what it does not name was not, and a cut line names nothing."""

import os
import resource
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved
from kontext_pipeline.generation.ledger.report import spending_differs
from kontext_pipeline.generation.ledger.sent_log import SentAttempts, SentLog, read_sent, uptime_id
from tests.generation.runs import BACKEND

needs_uptime = pytest.mark.skipif(uptime_id() is None, reason="this system does not name its uptimes")


def named(sent: SentAttempts | None) -> list[int] | None:
    """Of some attempts, among them parts of others' numbers, those that a log names."""
    return None if sent is None else [attempt for attempt in (0, 1, 2, 7, 12, 70, 127) if attempt in sent]


def test_the_log_tells_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "claimant.sent"
    log = SentLog(path, uptime_id() or "an uptime")
    for attempt in (7, 70, 12):
        log.add(attempt)
    # Another process sees it at once.
    assert path.read_bytes().endswith(b"\n7\n70\n12\n")
    assert named(log.end()) == (None if uptime_id() is None else [7, 12, 70])
    with pytest.raises(LedgerError, match="is closed"):
        log.add(1)
    log.remove()
    assert not path.exists()
    assert read_sent(path) is None


@needs_uptime
@pytest.mark.parametrize("padding", [b"", bytes(100)], ids=["of this release", "of the release before"])
def test_a_log_is_read_up_to_its_last_whole_line(tmp_path: Path, padding: bytes) -> None:
    path = tmp_path / "claimant.sent"
    whole = f"{uptime_id()}\n7\n70\n12\n".encode()
    path.write_bytes(whole + padding)
    assert named(read_sent(path)) == [7, 12, 70]
    path.write_bytes(whole[:-1] + padding)
    assert named(read_sent(path)) == [7, 70]
    path.write_bytes(f"{uptime_id()}\n".encode() + padding)
    assert named(read_sent(path)) == []


@pytest.mark.parametrize("content", [b"", b"another-uptime\n7\n", bytes(100)])
def test_a_log_of_another_uptime_proves_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "claimant.sent"
    path.write_bytes(content)
    assert read_sent(path) is None


@needs_uptime
def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "claimant.sent"
    child = os.fork()
    if child == 0:
        log = SentLog(path, uptime_id() or "")
        for attempt in (7, 12):
            log.add(attempt)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert named(read_sent(path)) == [7, 12]


@needs_uptime
def test_a_long_log_is_read_whole(tmp_path: Path) -> None:
    log = SentLog(tmp_path / "claimant.sent", uptime_id() or "")
    attempts = range(10**8, 10**8 + 30_000)
    for attempt in attempts:
        log.add(attempt)
    sent = log.end()
    assert sent is not None
    assert all(attempt in sent for attempt in [*attempts[::100], attempts[-1]])
    assert attempts[-1] + 1 not in sent


def test_a_log_on_a_full_disk_says_so_and_names_no_other_attempt(tmp_path: Path) -> None:
    path = tmp_path / "claimant.sent"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = SentLog(path, uptime_id() or "uptime")
    full = path.stat().st_size + 3 * 10 + 4
    # A limit on the size of files meets the process as a full disk would.
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
    try:
        for attempt in (100_000_001, 100_000_002, 100_000_003):
            log.add(attempt)
        # Four bytes of the line are written.
        with pytest.raises(LedgerError, match=r"claimant\.sent.* can't be written: "):
            log.add(123_456_789)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        # A line after them would name an attempt that was never sent.
        with pytest.raises(LedgerError, match="closed"):
            log.add(5)
        assert path.read_bytes().endswith(b"\n100000003\n1234")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        with pytest.raises(LedgerError, match=r"another\.sent.* can't be written: "):
            SentLog(tmp_path / "another.sent", "a name of the uptime")
        assert not (tmp_path / "another.sent").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_log_that_can_not_be_created_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"nowhere.*can't be written: No such file"):
        SentLog(tmp_path / "nowhere" / "claimant.sent", "uptime")


@needs_uptime
def test_deregistering_releases_what_was_never_sent(tmp_path: Path) -> None:
    """Whatever kept it from being released: a task that failed, a run that was cut off."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    sent, _ = ledger.reserve([("a" * 64, "batch"), ("b" * 64, "batch")], ReservationTerms("v1", 100_000))
    lease = ledger.lease
    assert isinstance(sent, Reserved)
    lease.sending(sent.attempt)
    ledger.deregister()
    with ledger.database.read() as connection:
        rows = connection.execute(text("SELECT state, outcome FROM attempts ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("open", None), ("released", "not_sent")]
    assert spending_differs(ledger.database) == []
    with pytest.raises(LedgerError, match="nothing more may be sent"):
        lease.sending(2)
    ledger.close()
