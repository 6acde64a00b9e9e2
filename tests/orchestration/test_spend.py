"""What was spent, as an asset: the sums of the table, of `kontext status` and of the server's own bill are one."""

import base64
from io import BytesIO

import pandas as pd
import pytest
from dagster import AssetKey
from PIL import Image

from kontext_pipeline.definitions import defs
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Settlement, Stored
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.report import read_books
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project, materialized

pytestmark = pytest.mark.long


def spend_of(project: Project) -> dict[str, object]:
    """Materialize `spend` and return its metadata."""
    result = (
        defs()
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(instance=project.instance, asset_selection=[defs().resolve_assets_def("spend").key])
    )
    assert result.success
    return materialized(result, "spend")[None]


def test_the_table_the_status_and_the_bill_agree(project: Project) -> None:
    project.plan()
    empty = spend_of(project)
    assert (empty["spent_usd"], empty["dagster/row_count"], "plot" in empty) == (0.0, 0, False)
    assert pd.read_parquet(project.data_dir / "spend.parquet").empty
    project.generate(["photos-00000", "photos-00001"])
    # An answer that is lost, and one that is refused.
    project.sandbox.set_faults({"kind": "reset", "times": 1}, {"kind": "status", "status": 400, "times": 1})
    project.generate(["photos-00002"])
    shown = spend_of(project)
    table = pd.read_parquet(project.data_dir / "spend.parquet")
    database = Database(load_settings().resolved_ledger_url)
    (books,) = read_books(database).backends
    database.close()

    assert round(table["charged_usd"].sum(), 6) == books.spent_usd == shown["spent_usd"]
    assert round(table["possibly_charged_usd"].sum(), 6) == books.possibly_charged_usd == shown["possibly_charged_usd"]
    assert books.spent_usd <= round(project.cost(), 6) <= round(books.spent_usd + books.possibly_charged_usd, 6)
    assert table["attempts"].sum() == books.attempts
    assert table["pictures"].sum() == books.pictures
    assert set(table["manifest"]) == {"photos"}
    assert table["run_id"].nunique() == 2
    assert [str(day) for day in table["day"].unique()] == [day.day for day in books.days]


def test_each_run_that_spends_records_it(project: Project) -> None:
    project.plan()
    result = project.augment("photos-00000")
    assert materialized(result, "spend")[None]["spent_usd"] == 0.4
    # Nothing is sent, so nothing is recorded.
    assert materialized(project.augment("photos-00000"), "spend") == {}
    result = project.augment("photos-00001", config={"ops": {"images": {"config": {"budget_usd": 0.1}}}}, check=False)
    assert materialized(result, "spend")[None]["spent_usd"] == 0.5
    assert round(pd.read_parquet(project.data_dir / "spend.parquet")["charged_usd"].sum(), 6) == 0.5
    # As the command line reports it.
    project.generate(["photos-00001", "photos-00002"])
    event = project.instance.get_latest_materialization_event(AssetKey(["spend"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["spent_usd"].value == project.cost() == 1.0


def test_resamples_are_another_kind(project: Project) -> None:
    project.plan()
    project.generate(["photos-00002"])
    ledger = Ledger(load_settings().resolved_ledger_url, backend="segmind")
    ledger.register(run_id="again", lease_s=60)
    (reserved,) = ledger.reserve([("a" * 64, "resample.first-00000")], ReservationTerms("v1", 100_000))
    assert isinstance(reserved, Reserved)
    picture = Stored("resamples/first/x.png", "0" * 64, 2, 1, 70)
    ledger.settle(
        reserved.attempt, Settlement("charged", "succeeded", cost=100_000), status="succeeded", picture=picture
    )
    ledger.close()
    shown = spend_of(project)
    assert (shown["spent_usd"], shown["spent_on_resamples_usd"], shown["pictures"]) == (0.3, 0.1, 2)
    table = pd.read_parquet(project.data_dir / "spend.parquet")
    assert table.groupby("kind")["charged_usd"].sum().round(6).to_dict() == {"generation": 0.2, "resample": 0.1}


def test_a_table_that_can_not_be_written_fails_no_run(project: Project) -> None:
    project.plan()
    (project.data_dir / "spend.parquet").mkdir(parents=True)
    assert project.augment("photos-00000").success


def test_the_plot_is_a_picture_within_the_metadata(project: Project) -> None:
    project.plan()
    project.generate(["photos-00000"])
    plot = str(spend_of(project)["plot"])
    start = "![what was spent](data:image/png;base64,"
    assert plot.startswith(start)
    assert len(plot) < 45_000
    with Image.open(BytesIO(base64.b64decode(plot.removeprefix(start)[:-1]))) as image:
        image.load()
        assert image.size == (760, 300)
        colours = {colour for _, colour in image.convert("RGB").getcolors(10_000) or []}
        assert (0x2F, 0x6F, 0xB0) in colours
