"""A run that is terminated collects what is in flight, settles it, and the next run goes on."""

import os
import signal
import subprocess

import pytest
from dagster import AssetKey, DagsterRunStatus

from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.report import read_books
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import RANGE_START, REPOSITORY, Project, materialize, wait_until

ALL = ["photos-00000", "photos-00001", "photos-00002"]


@pytest.mark.parametrize("project", [{"speed": 12}], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_sigterm_collects_what_is_in_flight(
    project_on_disk: Project, api_version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on_disk
    project.plan()
    monkeypatch.setenv("KONTEXT_CONCURRENCY", "3")
    monkeypatch.setenv("KONTEXT_API_VERSION", api_version)
    with subprocess.Popen(materialize(ALL[0], ALL[2]), cwd=REPOSITORY, env=dict(os.environ)) as process:
        try:
            wait_until(lambda: project.posts() >= 5)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()
    totals = project.sandbox.wait_idle()["totals"]

    assert 5 <= totals["posts"] < 10
    database = Database(load_settings().resolved_ledger_url, make=False)
    [books] = read_books(database).backends
    database.close()
    assert books.in_flight == 0
    assert books.jobs_out_there == []
    assert books.pictures == totals["billed"] == totals["posts"]
    assert books.possibly_charged_usd == 0
    assert books.spent_usd == pytest.approx(totals["cost"])
    assert sum(project.table(key)["status"].to_pylist().count("succeeded") for key in ALL) == books.pictures
    [run] = [run for run in project.instance.get_runs() if RANGE_START in run.tags]
    assert run.status in (DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE)
    assert ALL[0] in project.instance.get_materialized_partitions(AssetKey("images"))

    project.augment(ALL[0], ALL[2])
    assert project.billed() == 10
