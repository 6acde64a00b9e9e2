"""What the stages of a run share: its counts, its end, and the first reason for a stop."""

import errno
import logging
import threading

import pytest

from kontext_pipeline.errors import KontextError, LedgerError, PlanError
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.ledger import Status
from kontext_pipeline.generation.progress import Stop
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.segmind.request import GenerationRequest

pytestmark = pytest.mark.timeout(20)

ITEM = WorkItem("a" * 64, "batch", GenerationRequest(prompt="a fox", seed=1))


@pytest.fixture
def outcomes() -> list[tuple[WorkItem, Status]]:
    return []


@pytest.fixture
def run(outcomes: list[tuple[WorkItem, Status]]) -> RunState:
    return RunState(lambda item, status: outcomes.append((item, status)))


class Waiting:
    """A thread that waits for something of a run."""

    def __init__(self, wait: object) -> None:
        self.result: list[bool] = []
        self._thread = threading.Thread(target=lambda: self.result.append(wait(10.0)), daemon=True)  # type: ignore[operator]
        self._thread.start()

    def end(self) -> bool:
        self._thread.join(5)
        assert self.result, "the thread still waits"
        return self.result[0]


def test_each_outcome_is_counted_and_told(run: RunState, outcomes: list[tuple[WorkItem, Status]]) -> None:
    statuses: list[Status] = ["succeeded", "failed", "failed", "unknown", "unknown", "unknown"]
    for status in statuses:
        run.take_in_hand()
        run.finish(ITEM, status)
    progress = run.progress()
    assert (progress.succeeded, progress.failed, progress.unknown, progress.found) == (1, 2, 3, 0)
    assert outcomes == [(ITEM, status) for status in statuses]
    assert run.wait_until_idle(0)


def test_only_an_image_that_was_there_counts_as_found(run: RunState) -> None:
    for status in ("succeeded", "failed", "unknown"):
        run.take_in_hand()
        run.finish(ITEM, status, found=True)
    progress = run.progress()
    assert (progress.found, progress.succeeded, progress.failed, progress.unknown) == (1, 0, 1, 1)


def test_attempts_and_money_are_in_the_figures(run: RunState) -> None:
    run.count_attempt()
    run.count_attempt()
    run.count_money(spent=120_000)
    run.count_money(spent=100_000, possibly_charged=0)
    run.count_money(possibly_charged=100_000)
    progress = run.progress()
    assert (progress.attempts, progress.spent, progress.possibly_charged) == (2, 220_000, 100_000)


def test_the_first_stop_counts_and_callbacks_are_called_once(run: RunState, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Stop | None] = []
    caplog.set_level(logging.INFO, logger="kontext_pipeline")
    run.when_stopped(lambda: seen.append(run.stopped))
    run.when_stopped(lambda: seen.append(run.stopped))
    assert run.stopped is None
    run.stop(Cause.BUDGET, "the budget is spent")
    run.stop(Cause.BAD_KEY, "the key is refused")
    assert run.stopped == Stop(Cause.BUDGET, "the budget is spent")
    # The reason is known when the callbacks are called.
    assert seen == [Stop(Cause.BUDGET, "the budget is spent")] * 2
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, "the run stops: the budget is spent")
    assert record.cause == "budget"  # type: ignore[attr-defined]


def test_a_callback_may_use_the_run(run: RunState) -> None:
    run.take_in_hand()
    run.when_stopped(run.let_go)
    run.stop(Cause.BUDGET, "spent")
    assert run.wait_until_idle(0)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (LedgerError("the ledger can't be written"), Cause.LEDGER),
        (StoreFull("the disk is full"), Cause.DISK_FULL),
        (KontextError("something else that is ours"), Cause.LEDGER),
        (OSError(errno.ENOSPC, "No space left on device", "out/table"), Cause.DISK_FULL),
        (PermissionError(errno.EACCES, "Permission denied", "out/table"), Cause.FILES),
    ],
)
def test_an_error_that_is_expected_stops_the_run_and_is_not_raised(
    run: RunState, error: Exception, cause: Cause
) -> None:
    run.stop_for(error)
    assert run.stopped is not None
    assert run.stopped.cause == cause
    assert run.stopped.message.startswith(str(error) if isinstance(error, KontextError) else "out/table: ")
    assert run.error is None


def test_a_defect_stops_the_run_and_is_raised_with_its_traceback(
    run: RunState, caplog: pytest.LogCaptureFixture
) -> None:
    defect = ZeroDivisionError("division by zero")
    run.stop_for(defect)
    run.stop_for(KeyError("a later one"))
    assert run.stopped == Stop(Cause.FAULT, "ZeroDivisionError: division by zero")
    assert run.error is defect
    first = caplog.records[0]
    assert first.levelno == logging.ERROR
    assert first.exc_info is not None
    assert first.exc_info[1] is defect


def test_a_defect_after_a_stop_is_raised_all_the_same(run: RunState) -> None:
    run.stop(Cause.BUDGET, "spent")
    defect = ZeroDivisionError()
    run.stop_for(defect)
    assert run.stopped == Stop(Cause.BUDGET, "spent")
    assert run.error is defect


def test_the_error_of_the_source_is_raised(run: RunState) -> None:
    error = PlanError("row 7 has no prompt")
    run.source_failed(error)
    assert run.stopped == Stop(Cause.MANIFEST, "row 7 has no prompt")
    assert run.error is error


def test_a_run_has_not_ended_before_its_source_is_exhausted_and_nothing_is_in_hand(run: RunState) -> None:
    assert not run.wait(0)
    assert run.wait_until_idle(0)
    run.take_in_hand()
    run.source_exhausted()
    assert not run.wait(0)
    assert not run.wait_until_idle(0)
    run.let_go()
    assert run.wait(0)
    assert run.stopped is None


def test_a_stopped_run_has_ended_with_work_in_hand(run: RunState) -> None:
    run.take_in_hand()
    run.stop(Cause.BUDGET, "spent")
    assert run.wait(0)
    assert not run.wait_until_idle(0)


def test_several_items_are_let_go_at_once(run: RunState) -> None:
    for _ in range(3):
        run.take_in_hand()
    run.let_go(0)
    run.let_go(2)
    assert not run.wait_until_idle(0)
    run.let_go()
    assert run.wait_until_idle(0)


@pytest.mark.parametrize("end", ["the last item", "the source", "a stop"])
def test_a_thread_that_waits_learns_of_the_end(run: RunState, end: str) -> None:
    run.take_in_hand()
    if end == "the last item":
        run.source_exhausted()
    elif end == "the source":
        run.let_go()
    waiting = Waiting(run.wait)
    if end == "the last item":
        run.finish(ITEM, "succeeded")
    elif end == "the source":
        run.source_exhausted()
    else:
        run.stop(Cause.BUDGET, "spent")
    assert waiting.end()


def test_a_thread_that_waits_until_nothing_is_in_hand_learns_of_it(run: RunState) -> None:
    run.take_in_hand()
    run.take_in_hand()
    waiting = Waiting(run.wait_until_idle)
    run.let_go()
    assert waiting.result == []
    run.let_go()
    assert waiting.end()
