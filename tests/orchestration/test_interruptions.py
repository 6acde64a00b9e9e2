"""A backfill of two batches a run is interrupted in every way: afterwards each partition's state is right, the ledger has
what the provider billed, and one click or none completes the backfill.

Here one deployment lives through all interruptions. `test_machine_down` has the machine that goes down.
"""

from collections.abc import Iterator

import pytest

from tests.orchestration.deployment import Deployment, deployment, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

IN_FLIGHT = 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("interruptions")
    with deployment(
        folder,
        speed=40,
        KONTEXT_BATCHES_A_RUN="2",
        KONTEXT_CONCURRENCY=str(IN_FLIGHT),
        KONTEXT_SERVER_ERROR_RETRIES="0",
        KONTEXT_API_VERSION="v2",
    ) as dagster:
        dagster.start()
        yield dagster


@pytest.fixture
def dagster(running: Deployment) -> Iterator[Deployment]:
    yield running
    running.sandbox.set_faults()
    for run in running.runs():
        if run["status"] not in ("SUCCESS", "FAILURE", "CANCELED"):
            running.end_of(run["runId"])


def planned(dagster: Deployment, name: str, rows: int) -> list[str]:
    """Plan a manifest of this name alone. Return the keys of its batches."""
    for old in (dagster.folder / "manifests").glob("*.csv"):
        old.unlink()
    dagster.write_manifest(name, rows)
    dagster.plan()
    return sorted(dagster.partitions("images", name))


def states(dagster: Deployment, name: str) -> list[str]:
    """Return the state of each partition, which is the same for the images and for the table."""
    images, tables = dagster.partitions("images", name), dagster.partitions("metadata", name)
    assert images == tables
    return [images[key] for key in sorted(images)]


def complete(dagster: Deployment, keys: list[str]) -> None:
    """Click once, and check that everything is there."""
    assert dagster.end_of_backfill(dagster.launch_backfill(keys)) == "COMPLETED_SUCCESS"
    check_complete(dagster, keys)


def check_complete(dagster: Deployment, keys: list[str]) -> None:
    assert states(dagster, keys[0][:-6]) == ["materialized"] * len(keys)
    assert dagster.succeeded(keys) == [8] * len(keys)
    dagster.check_bill()


def test_a_selection_with_gaps_and_refused_rows(dagster: Deployment) -> None:
    keys = planned(dagster, "gaps", 48)
    dagster.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 3."})
    backfill = dagster.launch_backfill([keys[0], keys[1], keys[2], keys[5]])
    assert dagster.end_of_backfill(backfill) == "COMPLETED_SUCCESS"
    assert [run["status"] for run in dagster.runs(backfill=backfill)] == ["SUCCESS"] * 3
    assert states(dagster, "gaps") == [*["materialized"] * 3, "missing", "missing", "materialized"]
    assert dagster.succeeded([keys[0], keys[1], keys[2], keys[5]]) == [7, 8, 8, 8]
    dagster.check_bill()

    dagster.sandbox.set_faults()
    posts = dagster.posts()
    assert dagster.end_of_backfill(dagster.launch_backfill(keys)) == "COMPLETED_SUCCESS"
    assert states(dagster, "gaps") == ["materialized"] * 6
    # The row that was refused for good is not requested again.
    assert dagster.posts() == posts + 16
    dagster.check_bill()


def test_an_outage_passes_without_a_click(dagster: Deployment) -> None:
    keys = planned(dagster, "outage", 32)
    # Early in the first run: a run whose last few rows fail comes to its end.
    dagster.sandbox.set_faults({"kind": "status", "status": 503, "after": dagster.posts() + 2})
    backfill = dagster.launch_backfill(keys)
    events = "query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename } } } }"

    def waits_for_a_retry() -> str:
        runs = [run["runId"] for run in dagster.runs(backfill=backfill)]
        seen = [event["__typename"] for run in runs for event in dagster.ask(events, id=run)["events"]]
        return "yes" if "ExecutionStepUpForRetryEvent" in seen else "no"

    wait_for(waits_for_a_retry, {"yes"}, dagster.said)
    dagster.sandbox.set_faults()
    assert dagster.end_of_backfill(backfill) == "COMPLETED_SUCCESS"
    assert [run["status"] for run in dagster.runs(backfill=backfill)] == ["SUCCESS", "SUCCESS"]
    check_complete(dagster, keys)


def test_a_budget_stops_each_run(dagster: Deployment) -> None:
    keys = planned(dagster, "budget", 32)
    before = dagster.posts()
    config = {"ops": {"images": {"config": {"budget_usd": 1.0}}}}
    backfill = dagster.launch_backfill(keys, config=config)
    # A budget that is spent ends a run as planned; the backfill counts the batches that are left as failed.
    assert dagster.end_of_backfill(backfill) == "COMPLETED_FAILED"
    assert [run["status"] for run in dagster.runs(backfill=backfill)] == ["SUCCESS", "SUCCESS"]
    # Each run buys ten pictures of its sixteen: a whole batch at most.
    assert dagster.posts() - before == 20
    shown, pictures = states(dagster, "budget"), dagster.succeeded(keys)
    assert sum(pictures) == 20
    assert [state == "materialized" for state in shown] == [count == 8 for count in pictures]
    assert "materializing" not in shown
    dagster.check_bill()
    complete(dagster, keys)


def test_a_termination_is_continued_by_one_click(dagster: Deployment) -> None:
    keys = planned(dagster, "terminated", 32)
    before = dagster.posts()
    backfill = dagster.launch_backfill(keys)
    dagster.wait_for_posts(before + 5)
    answer = dagster.ask(
        "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }", id=backfill
    )
    assert answer["__typename"] == "CancelBackfillSuccess"
    assert dagster.end_of_backfill(backfill) == "CANCELED"
    for run in dagster.runs(backfill=backfill):
        assert dagster.end_of(run["runId"]) == "CANCELED"
    dagster.check_bill()
    assert dagster.posts() - before < 32
    shown = states(dagster, "terminated")
    written = [
        dagster.succeeded([key])[0] == 8 if state == "materialized" else True
        for key, state in zip(keys, shown, strict=True)
    ]
    assert all(written)
    assert "materializing" not in shown
    complete(dagster, keys)


def test_a_killed_run_is_launched_again(dagster: Deployment) -> None:
    keys = planned(dagster, "killed", 32)
    before = dagster.posts()
    backfill = dagster.launch_backfill(keys)
    dagster.wait_for_posts(before + 6)
    for process in dagster.run_processes():
        process.kill()
    assert dagster.end_of_backfill(backfill) == "COMPLETED_SUCCESS"
    assert sorted(run["status"] for run in dagster.runs(backfill=backfill))[-2:] == ["SUCCESS", "SUCCESS"]
    check_complete(dagster, keys)
