"""The checks find what is wrong: a cent in the table, a file that is gone or too short, a table that lags behind."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster import AssetCheckKey, AssetKey, ExecuteInProcessResult

from kontext_pipeline.dataset.storage import batch_path, write_batch
from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.check_evaluations import DESCRIPTIONS
from kontext_pipeline.orchestration.reporting import report_batches
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project, checks
from tests.orchestration.shown import shown

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_a_cent_in_one_table_is_found(project: Project) -> None:
    project.generate(ALL)
    table = project.table(ALL[1])
    costs = table["cost_usd"].to_pylist()
    costs[2] += 0.01
    _replace(
        project,
        ALL[1],
        table.set_column(table.schema.get_field_index("cost_usd"), "cost_usd", pa.array(costs)),
    )

    found = checks(_checked(project))["books_balance"]

    assert not found.passed
    assert found.severity.value == "ERROR"
    assert found.metadata["batches"].value == 3
    [row] = found.metadata["what_differs"].records
    assert row.data["batch"] == ALL[1]
    assert row.data["what"] == "charged: 0.110000 USD in the table, 0.100000 in the ledger"
    assert row.data["fingerprint"] == table["fingerprint"][2].as_py()


def test_a_picture_that_is_gone_or_cut_is_found(project: Project) -> None:
    project.generate(ALL)
    paths = project.table(ALL[0])["image_path"].to_pylist()
    (project.data_dir / paths[0]).unlink()
    cut = project.data_dir / paths[1]
    cut.write_bytes(cut.read_bytes()[:-1])

    found = checks(_checked(project))["books_balance"]

    assert not found.passed
    said = [record.data["what"] for record in found.metadata["what_differs"].records]
    assert len(said) == 2
    assert "does not exist" in said[0]
    assert f"has {cut.stat().st_size:,} bytes" in said[1]


def test_a_table_that_lags_behind_the_ledger_is_found(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 2"})
    project.augment(ALL[0], ALL[2])
    before = {key: project.table(key) for key in ALL}
    project.sandbox.set_faults()
    project.augment(ALL[0], config={"ops": {"images": {"config": {"retry_failed": True}}}})
    _replace(project, ALL[0], before[ALL[0]])

    found = checks(_checked(project))

    said = [record.data["what"] for record in found["books_balance"].metadata["what_differs"].records]
    assert said == [
        "charged: 0.000000 USD in the table, 0.100000 in the ledger",
        "the ledger has a picture, the table has none: materialize metadata again",
    ]
    assert found["every_row_has_its_picture"].metadata["rows_without_picture"].value == 1


def test_possibly_charged_is_compared_too(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults({"kind": "bill-then-reset", "times": 1, "prompt": "number 1"})
    found = checks(project.augment(ALL[0]))["books_balance"]

    assert found.passed
    assert (found.metadata["cost_usd"].value, found.metadata["possibly_charged_usd"].value) == (0.4, 0.1)
    assert project.cost() == 0.5


def test_a_picture_that_two_batches_share_is_charged_once(project: Project) -> None:
    project.manifest.write_text("prompt,seed\n" + "".join(f"a red boat,{index % 3}\n" for index in range(10)))
    project.plan()
    result = project.augment(ALL[0], ALL[2])

    assert project.billed() == 3
    assert checks(result)["books_balance"].passed
    assert sum(pc.sum(project.table(key)["cost_usd"]).as_py() for key in ALL) == pytest.approx(project.cost())


@pytest.mark.long
def test_a_batch_that_failed_keeps_the_check_red_until_it_passes(project_on_disk: Project) -> None:
    project = project_on_disk
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 400, "times": 4})
    project.augment(ALL[0])
    assert project.table(ALL[0])["status"].to_pylist() == ["failed"] * 4
    project.sandbox.set_faults()
    # Another batch reads no table but its own.
    table = batch_path(project.data_dir, ALL[0])
    away = table.rename(table.with_name("away"))
    found = checks(project.augment(ALL[1]))
    away.rename(table)

    for name in ("every_row_has_its_picture", "few_rows_failed"):
        assert not found[name].passed
        assert found[name].metadata["batches"].value == 1
        assert found[name].metadata["failing_batches"].value == 1
        assert "4 of 4 rows" in str(found[name].description)
    assert [record.data["batch"] for record in found["every_row_has_its_picture"].metadata["by_batch"].records] == ALL[
        :1
    ]
    with shown(project.instance) as page:
        check = page.checks["every_row_has_its_picture"]
        assert (check["status"], check["evaluation"]["severity"]) == ("FAILED", "WARN")
        assert check["evaluation"]["partition"] is None
        assert page.checks["books_balance"]["status"] == "SUCCEEDED"
    assert _of_batches(project, "every_row_has_its_picture") == {ALL[0]: False}

    project.augment(ALL[0], config={"ops": {"images": {"config": {"retry_failed": True}}}})
    with shown(project.instance) as page:
        assert {name: check["status"] for name, check in page.checks.items()} == dict.fromkeys(page.checks, "SUCCEEDED")
    assert _of_batches(project, "every_row_has_its_picture") == {ALL[0]: True}


@pytest.mark.long
def test_the_batches_of_the_command_line_are_checked_too(project: Project) -> None:
    project.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 1"})
    project.generate(ALL)
    assert _of_batches(project, "every_row_has_its_picture") == {ALL[0]: False}
    project.plan()
    assert not checks(project.augment(ALL[1]))["every_row_has_its_picture"].passed

    project.sandbox.set_faults()
    with Pipeline(load_settings()) as pipeline:
        planned = pipeline.planned()
        with pipeline.client() as client:
            pipeline.run(planned, ALL, client=client, retry_failed=True)
        report_batches(pipeline, ALL, instance=project.instance)
    assert _of_batches(project, "every_row_has_its_picture") == {ALL[0]: True}
    assert checks(project.augment(ALL[1]))["every_row_has_its_picture"].passed


@pytest.mark.long
def test_a_run_that_is_stopped_says_what_its_checks_found(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults(
        {"kind": "status", "status": 400, "prompt": "number 1"}, {"kind": "status", "status": 401, "after": 6}
    )
    config = {"resources": {"segmind": {"config": {"concurrency": 1}}}}
    project.augment(ALL[0], ALL[2], config=config, check=False)
    key = AssetCheckKey(AssetKey("metadata"), "every_row_has_its_picture")
    record = project.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert (record.status.value, record.partition) == ("FAILED", None)


def test_a_picture_that_is_another_one_is_found_by_its_hash(project: Project) -> None:
    project.generate(ALL)
    path = project.data_dir / project.table(ALL[0])["image_path"][0].as_py()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    project.plan()
    found = checks(project.augment(ALL[0], config={"ops": {"images": {"config": {"hashed": 4}}}}))
    assert found["books_balance"].passed
    assert not found["pictures_are_unchanged"].passed
    assert found["pictures_are_unchanged"].metadata["pictures_hashed"].value == 4
    assert path.name in str(found["pictures_are_unchanged"].description)
    assert checks(project.augment(ALL[1]))["pictures_are_unchanged"].metadata["pictures_hashed"].value == 3


def test_a_row_that_is_not_in_its_table_is_found(project: Project) -> None:
    project.generate(ALL)
    table = project.table(ALL[0])
    _replace(project, ALL[0], pa.concat_tables([table.slice(1), table.slice(3)]))
    found = checks(_checked(project))["every_planned_row_is_in_the_table"]
    assert not found.passed
    assert [record.data["what"] for record in found.metadata["problems"].records] == [
        "1 planned rows are not in the table",
        "1 rows are in the table more than once",
    ]


def test_the_share_of_failed_rows_is_a_limit_of_the_run(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 2"})
    found = checks(project.augment(ALL[0]))["few_rows_failed"]
    assert (found.passed, found.severity.value) == (False, "WARN")
    assert found.description == "1 of 4 rows failed or are unknown, more than 10.0%"
    config = {"ops": {"images": {"config": {"failed_share": 0.25}}}}
    assert checks(project.augment(ALL[0], config=config))["few_rows_failed"].passed


def test_a_manifest_that_has_changed_since_it_was_planned_is_said(project: Project) -> None:
    assert checks(project.plan())["plan_is_current"].passed
    project.write_manifest(["a red boat"])
    result = project.augment(ALL[0])
    found = checks(result)["plan_is_current"]
    assert (found.passed, found.severity.value) == (False, "WARN")
    assert "photos.csv has changed since it was planned. Materialize plan." in str(found.description)
    assert project.billed() == 4
    project.manifest.unlink()
    assert "photos.csv" in str(checks(project.augment(ALL[0]))["plan_is_current"].description)


def _of_batches(project: Project, name: str) -> dict[str | None, bool]:
    """Return whether each batch passed a check when it was evaluated last."""
    key = AssetCheckKey(AssetKey("metadata"), name)
    found = project.instance.event_log_storage.get_asset_check_partition_info([key])
    return {one.partition_key: one.latest_execution_status.value == "SUCCEEDED" for one in found if one.partition_key}


def _replace(project: Project, key: str, table: pa.Table) -> None:
    write_batch(table, project.data_dir, key, made_from="of a test")


def _checked(project: Project) -> ExecuteInProcessResult:
    """Execute the checks by themselves, as from the UI: on no partition, and so over all batches."""
    job = defs().resolve_implicit_global_asset_job_def()
    keys = {AssetCheckKey(AssetKey("metadata"), name) for name in DESCRIPTIONS}
    return job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
        instance=project.instance
    )
