"""The asset `inputs`: free, optional, and honest about what can't be had."""

import pytest
from dagster import materialize as materialize_assets

from kontext_pipeline.orchestration.assets import make_plan
from kontext_pipeline.orchestration.dataset_names import UNNAMED
from kontext_pipeline.orchestration.input_asset import make_inputs
from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource
from tests.inputs.collecting import picture
from tests.orchestration.conftest import Project, checks, materialized


def test_inputs_are_kept_shown_and_checked_for_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMIND_API_KEY")
    for name, data in (("a.png", picture(size=(300, 260))), ("small.png", picture())):
        (project.folder / name).write_bytes(data)
    project.manifest.write_text("prompt,input_image\none,a.png\ntwo,a.png\nthree,small.png\n")
    resources = {"kontext": KontextResource(segmind=SegmindResource())}
    assets = [make_plan(UNNAMED), make_inputs(UNNAMED)]
    result = materialize_assets(assets, instance=project.instance, resources=resources)

    shown = materialized(result, "inputs")[None]
    assert (shown["input_pictures"], shown["kept"], shown["problems"]) == (2, 1, 1)
    assert shown["problems_by_cause"] == {"input_unsuitable": 1}
    assert shown["contact_sheet"].startswith("![1 pictures]")
    assert len(list(project.data_dir.glob("inputs/??/*.png"))) == 1
    check = checks(result)["every_input_is_there"]
    assert not check.passed
    [missing] = check.metadata["what_is_missing"].records
    assert missing.data["row"] == "photos row 3"
    assert "3 x 2 pixels" in missing.data["why"]
    assert project.posts() == 0
