"""Plan, images and metadata: one batch, a range of batches, again, and beside the command line's pipeline."""

import base64
import re

import pyarrow.parquet as pq
import pytest
from dagster import AssetKey, DagsterInstance

from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project, checks, failure_of, materialized

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_plan_registers_a_partition_for_each_batch_and_says_what_it_will_cost(project: Project) -> None:
    shown = materialized(project.plan(), "plan")[None]

    assert project.instance.get_dynamic_partitions("batch") == ALL
    assert (shown["rows"], shown["pictures"], shown["to_generate"]) == (10, 10, 10)
    assert (shown["estimated_cost_usd"], shown["batches"], shown["already_there"]) == (1.0, 3, 0)
    assert r"no input\_image" in shown["warnings"]
    assert [record.data["manifest"] for record in shown["manifests"].records] == ["photos"]
    assert project.posts() == 0


def test_a_manifest_that_grows_keeps_its_partitions_and_adds_one(project: Project) -> None:
    project.plan()
    project.augment(ALL[0])
    project.write_manifest([f"a lighthouse with number {index}" for index in range(12)])

    shown = materialized(project.plan(), "plan")[None]

    assert project.instance.get_dynamic_partitions("batch") == [*ALL, "photos-00003"]
    assert (shown["new_batches"], shown["already_there"], shown["to_generate"]) == (1, 4, 8)


def test_batches_that_left_the_plan_leave_the_partitions(project: Project) -> None:
    project.plan()
    project.write_manifest(["a lighthouse"])
    shown = materialized(project.plan(), "plan")[None]

    assert project.instance.get_dynamic_partitions("batch") == ALL[:1]
    assert shown["gone_batches"] == 2


def test_datasets_on_one_instance_leave_each_others_partitions(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of an earlier release, which kept no record of whose they are.
    project.instance.add_dynamic_partitions("batch", ["birds-00000"])
    project.plan()
    other = project.folder / "other.csv"
    other.write_text("prompt\n" + "a red boat\n" * 9)
    with monkeypatch.context() as patch:
        patch.setenv("KONTEXT_MANIFESTS", str(other))
        patch.setenv("KONTEXT_DATA_DIR", str(project.folder / "other"))
        project.plan()
        everything = {"birds-00000", *ALL, "other-00000", "other-00001", "other-00002"}
        assert set(project.instance.get_dynamic_partitions("batch")) == everything
        other.write_text("prompt\na red boat\n")
        project.plan()
    assert set(project.instance.get_dynamic_partitions("batch")) == everything - {"other-00001", "other-00002"}
    project.plan()
    assert set(project.instance.get_dynamic_partitions("batch")) == everything - {"other-00001", "other-00002"}


def test_one_batch_is_generated_written_shown_and_checked(project: Project) -> None:
    project.plan()
    result = project.augment(ALL[0])

    assert project.billed() == 4
    images = materialized(result, "images")
    assert list(images) == [ALL[0]]
    shown = images[ALL[0]]
    assert (shown["rows"], shown["pictures"], shown["succeeded"], shown["failed"]) == (4, 4, 4, 0)
    assert shown["status_codes"] == {"200": 4}
    assert (shown["cost_usd"], shown["possibly_charged_usd"]) == (0.4, 0.0)
    assert 0 < shown["latency_p50_s"] <= shown["latency_p90_s"] <= shown["latency_p99_s"]
    sheet = re.fullmatch(r"!\[4 pictures\]\(data:image/jpeg;base64,(.+)\)", shown["contact_sheet"])
    assert sheet is not None
    assert base64.b64decode(sheet[1]).startswith(b"\xff\xd8\xff")

    table = project.table(ALL[0])
    assert table["status"].to_pylist() == ["succeeded"] * 4
    assert table["label"].to_pylist() == [f"label-{index}" for index in range(4)]
    assert all((project.data_dir / path).is_file() for path in table["image_path"].to_pylist())

    columns = materialized(result, "metadata")[ALL[0]]["dagster/column_schema"].columns
    assert [column.name for column in columns] == table.column_names
    assert all(column.description for column in columns)
    assert {name: found.passed for name, found in checks(result).items()} == {
        "books_balance": True,
        "every_planned_row_is_in_the_table": True,
        "every_row_has_its_picture": True,
        "few_rows_failed": True,
        "pictures_are_unchanged": True,
        "plan_is_current": True,
    }


def test_a_range_of_batches_is_one_run_with_a_materialization_for_each(project: Project) -> None:
    project.plan()
    result = project.augment(ALL[0], ALL[2])

    assert project.billed() == 10
    for asset in ("images", "metadata"):
        shown = materialized(result, asset)
        assert sorted(str(key) for key in shown) == ALL
        assert [shown[key]["rows"] for key in ALL] == [4, 4, 2]
    assert sum(project.table(key).num_rows for key in ALL) == 10
    assert checks(result)["books_balance"].metadata["batches"].value == 3
    # Events, not rows, are what Dagster's database pays for.
    assert len(result.all_events) < 100


def test_materializing_again_sends_nothing_and_leaves_the_files_alone(project: Project) -> None:
    project.plan()
    project.augment(ALL[0], ALL[2])
    posts = project.posts()
    files = {path: path.stat().st_mtime_ns for path in project.data_dir.glob("metadata/*/*.parquet")}
    project.sandbox.set_faults({"kind": "status", "status": 401, "on": ["credits"]})

    result = project.augment(ALL[0], ALL[2])

    assert project.posts() == posts
    assert len(materialized(result, "images")) == 3
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_the_pipeline_and_dagster_share_one_data_directory(project: Project) -> None:
    with Pipeline(load_settings()) as pipeline:
        planned = pipeline.plan()
        with pipeline.client() as client:
            pipeline.run(planned, planned.batch_keys, client=client)
    written = {path: path.read_bytes() for path in sorted(project.data_dir.glob("metadata/*/*.parquet"))}

    assert materialized(project.plan(), "plan")[None]["to_generate"] == 0
    for path in written:
        path.unlink()
    result = project.augment(ALL[0], ALL[2])

    assert project.billed() == 10
    assert {path: path.read_bytes() for path in written} == written
    assert checks(result)["books_balance"].passed


def test_v2_does_the_same(project: Project) -> None:
    project.plan()
    config = {"resources": {"segmind": {"config": {"api_version": "v2"}}}}
    project.augment(ALL[0], config=config)

    assert {entry["api"] for entry in project.sandbox.books()["entries"]} == {"v2"}
    assert project.table(ALL[0])["status"].to_pylist() == ["succeeded"] * 4


def test_run_config_beats_the_environment(project: Project) -> None:
    other = project.folder / "elsewhere"
    config = {"resources": {"kontext": {"config": {"data_dir": str(other), "batch_size": 5}}}}
    project.run("plan_manifests", config=config)
    project.augment(ALL[1], config=config)

    assert project.instance.get_dynamic_partitions("batch") == ALL[:2]
    table = pq.read_table(other / "metadata" / f"batch={ALL[1]}" / "part-0.parquet", partitioning=None)
    assert table.num_rows == 5
    assert not project.data_dir.exists()


def test_a_dotenv_file_is_enough(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMIND_API_KEY")
    (project.folder / ".env").write_text("SEGMIND_API_KEY=SG_0011223344556677\n")
    project.plan()
    project.augment(ALL[2])

    assert project.billed() == 2


def test_a_failed_run_leaves_what_is_finished_on_record(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 401, "after": 9})
    project.augment(ALL[0], ALL[2], check=False, config=_one_at_a_time())

    assert project.billed() == 9
    known = project.instance.get_materialized_partitions(AssetKey("images"))
    assert known == set(ALL[:2])
    assert [project.table(key)["status"].to_pylist().count("succeeded") for key in ALL] == [4, 4, 1]


def test_the_plan_stays_when_the_manifest_is_faulty(project: Project) -> None:
    project.plan()
    project.manifest.write_text("prompt,seed\nred boat,many\n,1\n")
    result = project.run("plan_manifests", check=False)

    assert not result.success
    text = failure_of(result).description
    assert "photos.csv, row 1, column seed" in text
    assert "row 2" in text
    assert project.instance.get_dynamic_partitions("batch") == ALL


def _one_at_a_time() -> dict[str, object]:
    return {"resources": {"segmind": {"config": {"concurrency": 1}}}}


def test_an_instance_that_never_saw_the_plan_learns_all_of_its_batches(project: Project) -> None:
    project.plan()
    project.augment(ALL[0])
    with DagsterInstance.ephemeral() as project.instance:
        shown = materialized(project.plan(), "plan")[None]
        assert project.instance.get_dynamic_partitions("batch") == ALL
        assert (shown["new_batches"], shown["already_there"]) == (3, 4)
        project.augment(ALL[0], ALL[2])
    assert project.posts() == 10
