"""The asset `dataset`: what `kontext export` writes, with its figures and a check."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dagster import ExecuteInProcessResult, RunConfig
from dagster import materialize as materialize_assets

from kontext_pipeline.orchestration.dataset_names import UNNAMED
from kontext_pipeline.orchestration.export_asset import make_dataset
from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource
from tests.inputs.collecting import picture
from tests.orchestration.conftest import Project, checks, failure_of, materialized


@pytest.fixture
def generated(project: Project) -> Project:
    """The same with two edits and a text-to-image row that are generated."""
    for name in ("a", "b"):
        (project.folder / f"{name}.png").write_bytes(picture(size=(300, 260 + ord(name))))
    project.manifest.write_text("prompt,input_image,split\none,a.png,\ntwo,b.png,\nthree,,\n")
    project.generate(["photos-00000"])
    return project


def export(project: Project, **config: Any) -> ExecuteInProcessResult:
    resources = {"kontext": KontextResource(segmind=SegmindResource())}
    return materialize_assets(
        [make_dataset(UNNAMED)],
        instance=project.instance,
        resources=resources,
        run_config=RunConfig(ops={"dataset": {"config": config}}),
        raise_on_error=False,
    )


def test_the_asset_exports_and_says_what(generated: Project, tmp_path: Path) -> None:
    result = export(generated)
    assert result.success
    shown = materialized(result, "dataset")[None]
    assert shown["samples"] == 3
    assert [record.data["configuration"] for record in shown["splits"].records] == ["default", "text_to_image"]
    assert pq.read_table(generated.data_dir / "export/data").num_rows == 2
    assert checks(result)["export_is_whole"].passed
    again = export(generated)
    assert materialized(again, "dataset")[None]["files_written"] == 0
    assert _version(again) == _version(result)
    other = export(generated, format="pairs", out=str(tmp_path / "pairs"), direction="forward", image_format="jpg")
    assert other.success
    assert len(list((tmp_path / "pairs/edited").glob("*.jpg"))) == 2
    assert _version(other) != _version(result)


def test_the_check_names_what_is_lost(generated: Project) -> None:
    next((generated.data_dir / "images").rglob("*.png")).unlink()
    result = export(generated)
    assert result.success
    check = checks(result)["export_is_whole"]
    assert not check.passed
    assert check.metadata["lost_rows"].value == 1


def test_a_mistake_is_a_failure_with_the_same_words(generated: Project) -> None:
    result = export(generated, validation=2.0)
    assert "--validation is 2.0" in failure_of(result).description


def _version(result: ExecuteInProcessResult) -> str:
    [event] = result.asset_materializations_for_node("dataset")
    return str((event.tags or {})["dagster/data_version"])
