"""What stops a run, how Dagster says it, and that the next run goes on where it ended."""

import re
import subprocess

import pytest
from dagster import AssetKey, DagsterEventType, EventLogEntry

from kontext_pipeline.orchestration.step_failures import RETRIES
from tests.orchestration.conftest import (
    REPOSITORY,
    Project,
    checks,
    failure_of,
    materialize,
    materialized,
    wait_until,
)

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_rows_that_the_api_refuses_do_not_fail_the_batch(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 2"})
    result = project.augment(ALL[0])

    shown = materialized(result, "images")[ALL[0]]
    assert (shown["succeeded"], shown["failed"]) == (3, 1)
    assert shown["status_codes"] == {"200": 3, "400": 1}
    [row] = shown["without_picture"].records
    assert row.data["status_code"] == 400
    assert row.data["error"]
    assert "1 row failed: the API refuses" in shown["failures"]
    assert "--retry-failed" in shown["failures"]
    found = checks(result)
    assert found["books_balance"].passed
    assert not found["every_row_has_its_picture"].passed
    assert found["every_row_has_its_picture"].severity.value == "WARN"
    assert project.table(ALL[0])["status"].to_pylist() == ["succeeded", "succeeded", "failed", "succeeded"]

    project.sandbox.set_faults()
    project.augment(ALL[0])
    assert project.billed() == 3
    project.augment(ALL[0], config={"ops": {"images": {"config": {"retry_failed": True}}}})
    assert project.billed() == 4


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (401, "bad_key"),
        pytest.param(403, "no_permission", marks=pytest.mark.long),
        pytest.param(406, "insufficient_credits", marks=pytest.mark.long),
    ],
)
def test_an_account_stop_fails_the_step_without_a_retry_and_the_next_run_goes_on(
    project: Project, status: int, cause: str
) -> None:
    project.plan()
    fault = {"kind": "status", "status": status, "after": 3}
    project.sandbox.set_faults(fault | ({"cause": "credits"} if status == 406 else {}))
    result = project.augment(ALL[0], ALL[2], check=False)

    said = failure_of(result)
    assert said.metadata["cause"].value == cause
    assert str(status) in said.description
    assert said.label == "intentional-failure"
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    assert project.billed() < 10
    assert sum(project.table(key)["status"].to_pylist().count("succeeded") for key in ALL) == project.billed()

    project.sandbox.set_faults()
    assert checks(project.augment(ALL[0], ALL[2]))["every_row_has_its_picture"].passed
    assert project.billed() == 10


def test_the_runs_budget_buys_exactly_what_it_can_and_says_so(project: Project) -> None:
    project.plan()
    config = _images(budget_usd=0.7) | {"resources": {"segmind": {"config": {"concurrency": 1}}}}
    result = project.augment(ALL[0], ALL[2], config=config)

    assert project.billed() == 7
    assert set(materialized(result, "images")) == set(materialized(result, "metadata")) == {ALL[0]}
    [left] = [
        event.asset_observation_data.asset_observation
        for event in result.get_asset_observation_events()
        if event.asset_key == AssetKey("images")
    ]
    assert "budget of 0.70 USD" in str(left.metadata["stopped"].value)
    assert (left.metadata["batches_left"].value, left.metadata["pictures_left"].value) == (2, 3)
    assert left.metadata["spent_usd"].value == 0.7
    assert not project.instance.get_materialized_partitions(AssetKey("images")) & set(ALL[1:])


def test_a_standing_daily_budget_that_is_spent_is_no_red_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_BUDGET_USD", "0.4")
    monkeypatch.setenv("KONTEXT_BUDGET_PERIOD", "day")
    project.plan()
    project.augment(ALL[0], ALL[2])
    posts = project.posts()
    again = project.augment(ALL[0], ALL[2])

    assert project.billed() == 4
    assert project.posts() == posts
    said = [entry.user_message for entry in project.instance.all_logs(again.run_id)]
    assert any("6 pictures for about 0.60 USD" in text for text in said)


def test_a_key_that_is_not_set_is_said_by_the_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMIND_API_KEY")
    project.plan()
    said = failure_of(project.augment(ALL[0], check=False))

    assert "SEGMIND_API_KEY" in said.description
    assert project.posts() == 0


@pytest.mark.parametrize("project", [{"keys": ("SG_1111222233334444",)}], indirect=True)
def test_a_key_that_is_refused_is_found_before_anything_is_asked_for(project: Project) -> None:
    project.plan()
    said = failure_of(project.augment(ALL[0], check=False))

    assert "refuses the key" in said.description
    assert project.posts() == 0


def test_a_setting_that_is_not_allowed_is_named(project: Project) -> None:
    project.plan()
    config = {"resources": {"segmind": {"config": {"concurrency": 0}}}}
    said = failure_of(project.augment(ALL[0], check=False, config=config))

    assert "KONTEXT_CONCURRENCY" in said.description
    assert project.posts() == 0


def test_a_batch_without_a_plan_says_what_to_do(project: Project) -> None:
    project.instance.add_dynamic_partitions("batch", ALL[:1])
    said = failure_of(project.augment(ALL[0], check=False))

    assert "no plan" in said.description


def test_a_plan_for_another_backend_is_not_generated(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.plan()
    monkeypatch.setenv("KONTEXT_BACKEND", "sandbox")
    said = failure_of(project.augment(ALL[0], check=False))

    assert "another backend than sandbox" in said.description
    assert project.posts() == 0


@pytest.mark.parametrize("project", [{"balance": 0.25}], indirect=True)
def test_too_little_credit_stops_unless_the_run_config_says_to_go_on(project: Project) -> None:
    project.plan()
    said = failure_of(project.augment(ALL[0], check=False))
    assert "buys 2 of the 4 pictures" in said.description
    assert "go_on_with_less_credit" in said.description
    assert project.posts() == 0

    result = project.augment(ALL[0], check=False, config=_images(go_on_with_less_credit=True))
    assert failure_of(result).metadata["cause"].value == "insufficient_credits"
    assert project.billed() == 2


def test_a_budget_within_the_balance_needs_no_consent(project: Project) -> None:
    project.sandbox.set_account(balance=0.35)
    project.plan()
    project.augment(ALL[0], config=_images(budget_usd=0.3))

    assert project.billed() == 3


def _images(**config: object) -> dict[str, object]:
    return {"ops": {"images": {"config": config}}}


def test_the_documented_delays_of_retries_are_those_of_the_policy() -> None:
    text = (REPOSITORY / "docs" / "dagster.md").read_text()
    said = re.search(r"after (\d+), (\d+) and (\d+) seconds, each up to (\d+) seconds more or less", text)
    assert said is not None
    *delays, jitter = map(int, said.groups())
    assert len(delays) == RETRIES.max_retries
    for attempt, delay in enumerate(delays, start=1):
        drawn = [RETRIES.calculate_delay(attempt) for _ in range(500)]
        assert delay - jitter <= min(drawn) < delay - 0.8 * jitter
        assert delay + 0.8 * jitter < max(drawn) <= delay + jitter


@pytest.mark.long
def test_a_provider_that_is_down_is_tried_again_and_the_run_heals(
    project_on_disk: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on_disk
    project.write_manifest([f"a lighthouse with number {index}" for index in range(16)])
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 503})
    monkeypatch.setenv("KONTEXT_SERVER_ERROR_RETRIES", "0")
    with subprocess.Popen(materialize(ALL[0], "photos-00003"), cwd=REPOSITORY) as process:
        try:
            wait_until(lambda: bool(_up_for_retry(project)))
            project.sandbox.set_faults()
            assert process.wait(180) == 0
        finally:
            process.kill()

    [said] = _up_for_retry(project)
    assert "used up their tries" in str(said.dagster_event)
    assert project.billed() == 16


def _up_for_retry(project: Project) -> list[EventLogEntry]:
    return [
        entry
        for run in project.instance.get_runs()
        for entry in project.instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_UP_FOR_RETRY)
    ]


def test_a_stopped_step_names_the_rows_without_a_picture(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults(
        {"kind": "status", "status": 400, "prompt": "number 2"}, {"kind": "status", "status": 401, "after": 3}
    )
    said = failure_of(project.augment(ALL[0], ALL[2], check=False))
    assert "Stopped: the API answered 401" in said.description
    assert "failed: the API refuses" in said.description
    assert "photos row" in said.description
