"""The machine goes down, or the service is stopped, while a backfill runs: after the start it goes on without a click."""

from pathlib import Path

import pytest

from tests.orchestration.deployment import deployment

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

IN_FLIGHT = 4
ALL = [f"photos-{number:05}" for number in range(5)]


@pytest.mark.parametrize(
    ("api_version", "batches_a_run", "runs"),
    [
        ("v1", "", 1),
        # The second run waits for its place in the pool when it is killed.
        ("v2", "2", 3),
    ],
)
def test_a_backfill_goes_on_after_every_process_was_killed(
    tmp_path: Path, api_version: str, batches_a_run: str, runs: int
) -> None:
    with deployment(
        tmp_path,
        speed=12,
        KONTEXT_API_VERSION=api_version,
        KONTEXT_CONCURRENCY=str(IN_FLIGHT),
        KONTEXT_BATCHES_A_RUN=batches_a_run,
    ) as dagster:
        dagster.write_manifest("photos", 40)
        dagster.start()
        dagster.plan()
        backfill = dagster.launch_backfill(ALL)
        dagster.wait_for_posts(12)
        dagster.kill()
        assert dagster.tree() == []
        before = dagster.sandbox.wait_idle()["totals"]["billed"]

        dagster.start()
        assert dagster.end_of_backfill(backfill) == "COMPLETED_SUCCESS"
        statuses = [run["status"] for run in dagster.runs(backfill=backfill)]
        assert statuses.count("SUCCESS") == runs
        assert set(statuses) == {"SUCCESS", "FAILURE"}
        assert set(dagster.partitions("images").values()) == {"materialized"}
        assert set(dagster.partitions("metadata").values()) == {"materialized"}
        assert dagster.succeeded(ALL) == [8] * 5
        assert before < 40
        books = dagster.check_bill(lost=IN_FLIGHT if api_version == "v1" else 0)
        assert books.pictures == 40


def test_a_stop_of_the_service_collects_what_is_in_flight(tmp_path: Path) -> None:
    with deployment(tmp_path, speed=12, KONTEXT_CONCURRENCY=str(IN_FLIGHT)) as dagster:
        dagster.write_manifest("photos", 24)
        dagster.start()
        dagster.plan()
        backfill = dagster.launch_backfill(ALL[:3])
        dagster.wait_for_posts(6)
        # As systemd does, for the units say PartOf and After.
        dagster.stop("daemon")
        dagster.stop("code")
        assert dagster.check_bill().pictures < 24

        dagster.start("code", "daemon")
        assert dagster.end_of_backfill(backfill) == "COMPLETED_SUCCESS"
        assert set(dagster.partitions("metadata").values()) == {"materialized"}
        assert dagster.succeeded(ALL[:3]) == [8] * 3
        dagster.check_bill()
