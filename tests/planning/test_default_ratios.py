"""A setting gives edit rows without a ratio one, and changes no row whose picture exists."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from kontext_pipeline.input_warnings import input_warnings
from kontext_pipeline.inputs.input_index import INDEX_SCHEMA
from kontext_pipeline.planning.default_ratios import DefaultRatio
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.planner import make_plan

ROWS = ["make it night,p.png,,", "make it snow,p.png,1:1,", "a cat,,,", "make it rain,p.png,,named"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (300, 600)).save(tmp_path / "p.png")
    return tmp_path


def planned(folder: Path, rows: Sequence[str] = ROWS, ratio: str | None = None, made: Sequence[str] = ()) -> Plan:
    (folder / "m.csv").write_text("\n".join(["prompt,input_image,aspect_ratio,id", *rows]))
    exist = set(made)
    default = DefaultRatio(ratio, lambda fingerprints: exist & set(fingerprints))
    return make_plan(
        read_manifests([folder / "m.csv"]),
        data_dir=folder / "data",
        backend="sandbox",
        seed=0,
        batch_size=100,
        clamp_safety_tolerance=False,
        default_ratio=default,
    )


def column(plan: Plan, name: str) -> list[str]:
    return [value for key in plan.batch_keys for value in plan.batch_table(key)[name].to_pylist()]


def test_without_the_setting_rows_get_the_providers_default_and_the_plan_says_so(folder: Path) -> None:
    plan = planned(folder)
    assert column(plan, "aspect_ratio") == ["16:9", "1:1", "16:9", "16:9"]
    (warning,) = [text for text in plan.warnings if "16:9" in text]
    assert "(pictures: 2, 0.20 USD)" in warning
    assert f"{folder}/m.csv rows 1, 4;" in warning
    assert "KONTEXT_ASPECT_RATIO=match_input_image" in warning


def test_the_setting_changes_edit_rows_without_a_ratio_and_neither_ids_nor_seeds(folder: Path) -> None:
    before, after = planned(folder), planned(folder, ratio="match_input_image")
    assert column(after, "aspect_ratio") == ["match_input_image", "1:1", "16:9", "match_input_image"]
    for name in ("id", "seed"):
        assert column(after, name) == column(before, name)
    same = [a == b for a, b in zip(column(before, "fingerprint"), column(after, "fingerprint"), strict=True)]
    assert same == [False, True, True, False]
    assert planned(folder).backend == "sandbox"
    assert column(planned(folder), "fingerprint") == column(before, "fingerprint")


@pytest.mark.parametrize("ratios", [(None, "match_input_image"), ("1:1", "4:5"), ("1:1", None)])
def test_a_row_that_has_its_picture_keeps_its_ratio(folder: Path, ratios: tuple[str | None, str | None]) -> None:
    first, second = ratios
    before = planned(folder, ratio=first)
    made = column(before, "fingerprint")[:1]
    # Another row is new, so the setting holds for it.
    after = planned(folder, [*ROWS, "make it calm,p.png,,"], ratio=second, made=made)
    assert column(after, "fingerprint")[0] == made[0]
    assert column(after, "aspect_ratio")[3:] == [second or "16:9"] * 2
    (warning,) = [text for text in after.warnings if "doesn't change rows" in text]
    assert "m.csv row 1; to ask for them again (1 pictures, 0.10 USD)" in warning
    # And again, from the plan that kept it.
    again = planned(folder, [*ROWS, "make it calm,p.png,,", "x,,,"], ratio=second, made=made)
    assert column(again, "fingerprint")[0] == made[0]


def test_the_same_edit_twice_is_said(folder: Path) -> None:
    plan = planned(folder, ["make it night,p.png,,a", "make it night,p.png,1:1,b", "make it night,,,c", "x,p.png,,d"])
    assert any(text.endswith("those of an earlier row in " + f"{folder}/m.csv row 2") for text in plan.warnings)


def test_kept_inputs_tell_shapes_that_do_not_fit_and_pictures_with_two_addresses(folder: Path) -> None:
    rows = ["a,https://example.org/1.png,16:9,", "b,https://example.org/2.png,4:3,", "c,p.png,match_input_image,"]
    plan = planned(folder, rows)
    data_dir = UPath(folder / "data")
    assert input_warnings(plan, data_dir) == []
    found = [{"uri": f"https://example.org/{n}.png", "sha256": "0" * 64, "width": 800, "height": 600} for n in (1, 2)]
    pq.write_table(pa.Table.from_pylist(found, schema=INDEX_SCHEMA), folder / "data" / "inputs.parquet")
    shape, same = input_warnings(plan, data_dir)
    assert shape.startswith("aspect_ratio is more than 20% off the shape of the input picture in m row 1;")
    assert "https://example.org/1.png and https://example.org/2.png" in same
