"""The pause after a 429: known to all processes on the ledger, which is asked twice a second at most."""

import time

import pytest
from sqlalchemy import text

from tests.generation.stages import Stages, StagesMaker

pytestmark = pytest.mark.timeout(20)


def paused_until(s: Stages) -> float:
    """The monotonic time until which the ledger lets nobody reserve."""
    with s.ledger.database.read() as connection:
        return float(connection.execute(text("SELECT paused_until FROM rates")).scalar_one()) / 1e6


@pytest.mark.parametrize(("told_s", "pause_s"), [(None, 5.0), (12.0, 12.0), (0.0, 0.1), (0.25, 0.25)], ids=str)
def test_a_429_pauses_this_run_and_every_other(stages: StagesMaker, told_s: float | None, pause_s: float) -> None:
    s = stages(concurrency=10)
    before = time.monotonic()
    s.pause.begin(told_s)
    after = time.monotonic()
    assert s.slots.pause_state == (s.clock.now + pause_s, "rate limit")
    assert before + pause_s - 0.001 <= paused_until(s) <= after + pause_s
    # The limit is decreased, too.
    assert s.slots.wanted() == 7


def test_a_pause_of_another_process_is_learned(stages: StagesMaker) -> None:
    s = stages()
    assert not s.pause.is_on()
    s.open_ledger("another run").pause(70.0)
    s.clock.forward(0.51)
    assert s.pause.is_on()
    until, reason = s.slots.pause_state
    assert s.clock.now + 50 < until <= s.clock.now + 70
    assert reason == "rate limit"


def test_the_ledger_is_read_twice_a_second_at_most(stages: StagesMaker) -> None:
    s = stages()
    s.trace(s.ledger, "paused_for")
    for _ in range(50):
        assert not s.pause.is_on()
    assert len(s.events) == 1
    s.clock.forward(0.5)
    assert not s.pause.is_on()
    assert len(s.events) == 1
    s.clock.forward(0.01)
    assert not s.pause.is_on()
    assert len(s.events) == 2


def test_a_pause_that_was_ruled_out_is_not_looked_for(stages: StagesMaker) -> None:
    s = stages()
    s.trace(s.ledger, "paused_for")
    s.pause.ruled_out()
    assert not s.pause.is_on()
    assert s.events == []
    s.clock.forward(0.51)
    s.pause.ruled_out()
    assert not s.pause.is_on()
    assert s.events == []
    s.clock.forward(0.51)
    assert not s.pause.is_on()
    assert s.events == ["paused_for"]


def test_a_pause_ends(stages: StagesMaker) -> None:
    s = stages()
    s.pause.note(3.0)
    s.pause.ruled_out()
    assert s.pause.is_on()
    s.clock.forward(3.0)
    s.pause.ruled_out()
    assert not s.pause.is_on()


def test_a_pause_is_logged_once(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kontext_pipeline")
    s = stages()
    s.pause.begin(12.0)
    s.pause.begin(11.0)
    assert [record.getMessage() for record in caplog.records] == ["paused 12.0 s: the account's rate limit"]
