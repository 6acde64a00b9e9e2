"""The checks find what is wrong: a cent in the table, a file that is gone or too short, a table that lags behind."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster import AssetCheckKey, AssetKey, ExecuteInProcessResult

from kontext_pipeline.dataset.storage import write_batch
from kontext_pipeline.definitions import defs
from tests.orchestration.conftest import Project, checks

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


def _replace(project: Project, key: str, table: pa.Table) -> None:
    write_batch(table, project.data_dir, key, made_from="of a test")


def _checked(project: Project) -> ExecuteInProcessResult:
    """Execute the checks by themselves, as from the UI: on no partition, and so over all batches."""
    job = defs().resolve_implicit_global_asset_job_def()
    keys = {AssetCheckKey(AssetKey("metadata"), name) for name in ("books_balance", "every_row_has_its_picture")}
    return job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
        instance=project.instance
    )
