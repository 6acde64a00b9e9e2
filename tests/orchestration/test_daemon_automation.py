"""The schedule and the sensors as the daemon evaluates them, which refuses what a direct call lets pass."""

from collections.abc import Iterator

import pytest

from tests.orchestration.deployment import Deployment, deployment, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ALL = ["photos-00000", "photos-00001", "photos-00002"]
# The shipped definitions, but that the night comes every minute and the manifests are looked at in every round.
OFTEN = """
from kontext_pipeline.orchestration import automation

automation.EVERY_NIGHT, automation.LOOK_S = "* * * * *", 1

from kontext_pipeline.definitions import defs
"""


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("automation"), module=OFTEN, speed=500) as dagster:
        dagster.start()
        yield dagster


def test_the_schedule_generates_batches_with_a_gap_between_them(dagster: Deployment) -> None:
    dagster.write_manifest("photos", 24)
    dagster.plan()
    assert dagster.end_of(dagster.launch_range(ALL[1], ALL[1])) == "SUCCESS"
    dagster.start_schedule("unfinished_batches")

    launched: list[str] = []

    def ticked() -> str:
        for tick in dagster.ticks("unfinished_batches"):
            if tick["status"] in ("SUCCESS", "FAILURE"):
                launched[:] = tick["runIds"]
                return str(tick["status"])
        return "no tick"

    assert wait_for(ticked, {"SUCCESS", "FAILURE"}, dagster.said) == "SUCCESS"
    assert len(launched) == 2
    assert [dagster.end_of(run) for run in launched] == ["SUCCESS", "SUCCESS"]
    assert dagster.partitions("metadata") == dict.fromkeys(ALL, "materialized")
    assert dagster.check_bill().pictures == 24
    wait_for(lambda: said(dagster, "unfinished_batches"), {"Every picture has its outcome."}, dagster.said)


def test_the_sensor_plans_each_change_once_and_says_what_is_wrong(dagster: Deployment) -> None:
    manifest = dagster.folder / "manifests" / "photos.csv"
    dagster.write_manifest("photos", 24)
    dagster.start_sensor("manifests_changed")
    unchanged = {"The manifests have not changed."}
    wait_for(lambda: said(dagster, "manifests_changed"), unchanged, dagster.said)
    plans = len(planning_runs(dagster))

    manifest.write_text("prompt,seed\nred boat,many\n")
    wait_for(lambda: beginning(dagster), {"The manifests could not be planned"}, dagster.said)
    ticks = len(dagster.ticks("manifests_changed"))
    wait_for(lambda: "yes" if len(dagster.ticks("manifests_changed")) >= ticks + 2 else "no", {"yes"}, dagster.said)
    assert "row 1, column seed" in said(dagster, "manifests_changed")
    assert planning_runs(dagster) == ["FAILURE", *["SUCCESS"] * plans]

    manifest.unlink()
    wait_for(lambda: "yes" if "photos.csv" in said(dagster, "manifests_changed") else "no", {"no"}, dagster.said)
    wait_for(lambda: "yes" if "*.csv" in said(dagster, "manifests_changed") else "no", {"yes"}, dagster.said)
    assert len(planning_runs(dagster)) == plans + 1

    dagster.write_manifest("photos", 32)
    wait_for(lambda: said(dagster, "manifests_changed"), unchanged, dagster.said)
    assert planning_runs(dagster) == ["SUCCESS", "FAILURE", *["SUCCESS"] * plans]
    assert len(dagster.partitions("images")) == 4


def said(dagster: Deployment, instigator: str) -> str:
    """Return what the last tick that launched nothing said."""
    return next((tick["skipReason"] for tick in dagster.ticks(instigator) if tick["skipReason"]), "")


def beginning(dagster: Deployment) -> str:
    return said(dagster, "manifests_changed").partition(":")[0]


def planning_runs(dagster: Deployment) -> list[str]:
    return [run["status"] for run in dagster.runs() if run["jobName"] == "plan_manifests"]
