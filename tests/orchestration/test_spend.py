"""What was spent, as an asset: the sums of the table, of `kontext status` and of the server's own bill are one."""

import base64
from io import BytesIO

import pandas as pd
from PIL import Image

from kontext_pipeline.definitions import defs
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.report import read_books
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project, materialized


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
