"""The whole Dagster as one person starts it, by `dagster dev`, does what the command line does.

Everything is asked for as the UI asks for it, over GraphQL.
"""

from pathlib import Path

import pytest

from tests.orchestration.deployment import deployment

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_one_batch_then_a_backfill_of_all_then_both_again(tmp_path: Path) -> None:
    with deployment(tmp_path, config="telemetry: {enabled: false}", speed=500) as dagster:
        dagster.location = "kontext_pipeline.definitions"
        dagster.write_manifest("photos", 20)
        dagster.start("dev")
        dagster.plan()
        one = {"dagster/partition": ALL[1]}
        assert dagster.end_of(dagster.launch("augment", tags=one)) == "SUCCESS"
        assert dagster.posts() == 8

        backfill = dagster.launch_backfill(ALL)
        assert dagster.end_of_backfill(backfill) == "COMPLETED_SUCCESS"
        assert len(dagster.runs(backfill=backfill)) == 1
        assert dagster.posts() == 20
        assert dagster.succeeded(ALL) == [8, 8, 4]
        assert dagster.partitions("images") == dagster.partitions("metadata") == dict.fromkeys(ALL, "materialized")

        assert dagster.end_of(dagster.launch("augment", tags=one)) == "SUCCESS"
        assert dagster.posts() == 20
        assert dagster.check_bill().pictures == 20
