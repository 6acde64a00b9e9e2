"""The asset `quality`: free, measured once, with checks that name rows and show them side by side."""

import base64
import re
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetSelection,
    Definitions,
    ExecuteInProcessResult,
    RunConfig,
    define_asset_job,
    materialize,
)
from PIL import Image
from upath import UPath

from kontext_pipeline.dataset.quality.quality_tables import read_quality
from kontext_pipeline.dataset.review.decisions import Decision, record_decisions
from kontext_pipeline.orchestration.dataset_names import UNNAMED
from kontext_pipeline.orchestration.quality_asset import CHECKS, QualityConfig, make_quality
from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource
from tests.inputs.collecting import picture
from tests.orchestration.conftest import RANGE_END, RANGE_START, Project, checks, materialized

pytestmark = pytest.mark.long

FIRST, SECOND, THIRD = "photos-00000", "photos-00001", "photos-00002"


def run(project: Project, first: str = FIRST, last: str = THIRD, **config: float) -> ExecuteInProcessResult:
    asset = make_quality(UNNAMED)
    return materialize(
        [asset],
        instance=project.instance,
        resources={"kontext": KontextResource(segmind=SegmindResource())},
        tags={RANGE_START: first, RANGE_END: last},
        run_config=RunConfig({"quality": QualityConfig(**config)}),
        raise_on_error=True,
    )


def of_black(result: ExecuteInProcessResult) -> dict[str | None, Any]:
    """Return the evaluations of a check by batch; None: of all batches."""
    found = result.get_asset_check_evaluations()
    return {one.partition: one for one in found if one.check_name == "few_pictures_are_black"}


def test_pictures_are_measured_once_for_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.generate([FIRST, SECOND, THIRD])
    posts = project.posts()
    result = run(project)
    shown = materialized(result, "quality")
    assert [shown[key]["measured"] for key in (FIRST, SECOND, THIRD)] == [4, 4, 2]
    assert {one: found.passed for one, found in checks(result).items() if one != "few_near_duplicates"} == {
        one: True for one in CHECKS if one != "few_near_duplicates"
    }
    table = read_quality(UPath(project.data_dir), FIRST)
    assert table is not None
    assert table["sharpness"].null_count == 0
    assert project.posts() == posts
    before = {path: path.read_bytes() for path in project.data_dir.glob("quality/*/*")}
    run(project)
    assert {path: path.read_bytes() for path in project.data_dir.glob("quality/*/*")} == before


def test_a_check_names_rows_and_shows_them_until_they_pass(project: Project) -> None:
    project.generate([FIRST, SECOND, THIRD])
    row = project.table(SECOND).to_pylist()[0]
    path = project.data_dir / row["image_path"]
    whole = path.read_bytes()
    Image.new("RGB", (row["width"], row["height"])).save(path)
    result = run(project, FIRST, SECOND)
    found = of_black(result)
    assert {partition: one.passed for partition, one in found.items()} == {SECOND: False, None: False}
    for one in found.values():
        [named] = one.metadata["rows"].records
        assert (named.data["batch"], named.data["fingerprint"]) == (SECOND, row["fingerprint"])
        assert "contact_sheet" in one.metadata
    assert found[None].description == "1 of 8 pictures (12.5%) have the issue black or blank; at most 2.0% may"
    assert "black" in materialized(result, "quality")[SECOND]["issues"]
    # Another limit of the run config.
    assert checks(run(project, FIRST, SECOND, black_share=0.2))["few_pictures_are_black"].passed
    # The picture is measured again only because its table is gone.
    path.write_bytes(whole)
    (project.data_dir / "quality" / f"batch={SECOND}" / "quality.parquet").unlink()
    again = run(project, SECOND, SECOND)
    assert {partition: one.passed for partition, one in of_black(again).items()} == {SECOND: True, None: True}


def sheet_of(result: ExecuteInProcessResult, check: str) -> Image.Image:
    markdown = str(checks(result)[check].metadata["contact_sheet"].value)
    [data] = re.findall(r"base64,([^)]+)\)", markdown)
    return Image.open(BytesIO(base64.b64decode(data)))


def test_an_unchanged_picture_is_shown_beside_its_input(project: Project) -> None:
    (project.folder / "a.png").write_bytes(picture(size=(300, 260)))
    project.manifest.write_text("prompt,input_image,aspect_ratio\none,a.png,match_input_image\ntwo,,1:1\n")
    project.generate([FIRST])
    row = project.table(FIRST).to_pylist()[0]
    with Image.open(project.data_dir / row["input_path"]) as source:
        source.convert("RGB").resize((row["width"], row["height"])).save(project.data_dir / row["image_path"])
    result = run(project, FIRST, FIRST)
    found = checks(result)["few_pictures_are_unchanged"]
    assert (found.passed, found.metadata["pictures"].value) == (False, 1), "a row without an input can't be unchanged"
    sheet = sheet_of(result, found.check_name)
    assert sheet.width > 300, "two thumbnails"
    left, right = sheet.crop((6, 6, 150, 120)), sheet.crop((168, 6, 312, 120))
    difference = np.abs(np.asarray(left, np.int16) - np.asarray(right, np.int16))
    assert difference.mean() < 10, "the same picture twice"


def test_the_checks_alone_cover_all_batches(project: Project) -> None:
    project.generate([FIRST, SECOND, THIRD])
    run(project)
    keys = [AssetCheckKey(AssetKey("quality"), one) for one in CHECKS]
    definitions = Definitions(
        assets=[make_quality(UNNAMED)],
        resources={"kontext": KontextResource(segmind=SegmindResource())},
        jobs=[define_asset_job("alone", AssetSelection.checks(*keys))],
    )
    result = definitions.resolve_job_def("alone").execute_in_process(instance=project.instance)
    assert result.success
    assert {name: one.metadata["pictures"].value for name, one in checks(result).items()} == {
        **dict.fromkeys(CHECKS, 10),
        "few_pictures_are_unchanged": 0,
    }
    assert not result.get_asset_materialization_events()


def test_review_coverage_counts_decisions(project: Project) -> None:
    project.generate([FIRST])
    assert checks(run(project, FIRST, FIRST))["pictures_are_reviewed"].passed, "nobody has to review"
    assert not checks(run(project, FIRST, FIRST, review_coverage=0.5))["pictures_are_reviewed"].passed
    names = project.table(FIRST)["fingerprint"].to_pylist()
    record_decisions(
        UPath(project.data_dir), [Decision(name, "keep", "", "ann", datetime.now(UTC)) for name in names[:2]]
    )
    found = checks(run(project, FIRST, FIRST, review_coverage=0.5))["pictures_are_reviewed"]
    assert found.passed
    assert found.metadata["share"].value == 0.5


def test_a_wrong_file_of_thresholds_fails_the_step_with_its_message(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project.generate([FIRST])
    monkeypatch.setenv("KONTEXT_QUALITY", str(tmp_path / "none.toml"))
    with pytest.raises(Exception, match=r"KONTEXT_QUALITY is .*none\.toml: it can't be read"):
        run(project, FIRST, FIRST)


def test_checks_of_the_asset_are_those_that_are_made() -> None:
    from kontext_pipeline.dataset.quality import quality_checks

    assert tuple(CHECKS) == quality_checks.CHECKS
    assert {name: field.default for name, field in QualityConfig.model_fields.items()} == {
        name: getattr(quality_checks.QualityLimits(), name) for name in QualityConfig.model_fields
    }
    assert make_quality(UNNAMED).key == AssetKey("quality")
