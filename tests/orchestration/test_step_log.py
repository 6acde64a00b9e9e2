"""The package's log records reach the run's log: at their levels, without secrets, once, and DEBUG only on demand."""

import logging
from collections.abc import Iterator

import pytest
from dagster import AssetExecutionContext, DagsterInstance, asset, materialize

from kontext_pipeline.generation.progress import Progress
from kontext_pipeline.orchestration.step_log import forward_records, progress_line
from tests.orchestration.conftest import KEY, Project, materialized

log = logging.getLogger("kontext_pipeline.of_a_test")


def logged(instance: DagsterInstance) -> list[tuple[int | str, str]]:
    """Return level and message of what a step's records became in the run's log."""

    @asset
    def logging_asset(context: AssetExecutionContext) -> None:
        with forward_records(context.log, context.instance):
            log.debug("a transition", extra={"state": "sent"})
            log.info("a pause", extra={"seconds": 12.0, "cause": "rate_limited"})
            log.warning("a lost answer: key %s", KEY)
            try:
                raise RuntimeError(f"no such key: {KEY}")
            except RuntimeError:
                log.exception("a failure")
        log.warning("after the step")

    run = materialize([logging_asset], instance=instance)
    return [(entry.level, entry.user_message) for entry in instance.all_logs(run.run_id) if not entry.is_dagster_event]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    logger = logging.getLogger("kontext_pipeline")
    before = logger.level, list(logger.handlers)
    yield
    assert (logger.level, logger.handlers) == before, "a step leaves the loggers as they were"


def instance_with(**python_logs: object) -> DagsterInstance:
    return DagsterInstance.ephemeral(settings={"python_logs": python_logs} if python_logs else None)


def test_records_reach_the_run_log_without_configuration() -> None:
    with instance_with() as instance:
        pause, lost, failure = logged(instance)
    assert pause == (logging.INFO, "a pause [cause=rate_limited seconds=12]")
    assert lost == (logging.WARNING, "a lost answer: key [hidden]")
    assert failure[0] == logging.ERROR
    assert failure[1].startswith("a failure\nTraceback")
    assert failure[1].endswith("RuntimeError: no such key: [hidden]")


def test_debug_records_reach_it_where_the_instance_says_so() -> None:
    with instance_with(python_log_level="DEBUG") as instance:
        assert logged(instance)[0] == (logging.DEBUG, "a transition [state=sent]")


def test_nothing_below_the_level_of_the_instance_reaches_it() -> None:
    with instance_with(python_log_level="ERROR") as instance:
        assert [level for level, _ in logged(instance)] == [logging.ERROR]


@pytest.mark.parametrize("managed", ["root", "kontext_pipeline"])
def test_records_of_loggers_that_dagster_manages_are_there_once(managed: str) -> None:
    with instance_with(managed_python_loggers=[managed]) as instance:
        found = [text for _, text in logged(instance)]
    assert sum("a lost answer" in text for text in found) == 1
    assert KEY not in "".join(found)


def test_a_run_of_the_pipeline_logs_few_lines(project: Project) -> None:
    project.plan()
    result = project.augment("photos-00000", "photos-00002")
    assert len(materialized(result, "images")) == 3
    lines = [
        entry.user_message
        for entry in project.instance.all_logs(result.run_id)
        if not entry.is_dagster_event and entry.step_key == "images"
    ]
    assert any(line.startswith(f"Run {result.run_id} starts: batches 3, requests 10") for line in lines)
    assert any("ends: 10 pictures, 0 failed" in line for line in lines)
    assert len(lines) < 10, "fewer than rows"


def test_the_progress_line() -> None:
    progress = Progress(succeeded=1200, found=3, failed=1, in_flight=8, spent=120_000_000)
    assert progress_line(progress, 2000) == ("1,203 of 2,000 pictures exist; 1 failed, 8 in flight, 120.00 USD spent")
