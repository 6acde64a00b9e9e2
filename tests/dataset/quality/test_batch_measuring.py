"""A batch is measured once, whatever its pictures are, and its table says what is wrong with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pytest
from PIL import Image, ImageOps
from upath import UPath

from kontext_pipeline.dataset.quality import batch_measuring
from kontext_pipeline.dataset.quality.batch_measuring import BatchMeasuring
from kontext_pipeline.dataset.quality.measures import MEASURES
from kontext_pipeline.dataset.quality.neighbours import update_neighbours
from kontext_pipeline.dataset.quality.plug_ins import PlugIn, Sample
from kontext_pipeline.dataset.quality.quality_tables import (
    measured_batches,
    number_names,
    quality_path,
    read_quality,
    read_rows,
    write_rows,
)
from kontext_pipeline.dataset.quality.thresholds import Thresholds, read_thresholds
from kontext_pipeline.dataset.samples import batch_samples
from tests.dataset.quality.folders import Made, measured, photo, png, short, write_pictures

KEY = "demo-00000"
COFFEE, ROCKET, HORSES = photo("coffee"), photo("rocket"), photo("horses")


@pytest.fixture(params=["a local directory", "memory://"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) if request.param == "a local directory" else UPath(f"memory://{tmp_path.name}")


def test_a_batch_is_measured_and_read_beside_its_metadata(data_dir: UPath) -> None:
    assert read_quality(data_dir, KEY) is None
    write_pictures(data_dir, [Made("1", ROCKET, COFFEE), Made("2", COFFEE, COFFEE), Made("3", HORSES)])
    rows = measured(data_dir)
    assert [rows[name]["issues"] for name in "123"] == [[], ["unchanged"], []]
    table = read_quality(data_dir, KEY)
    assert table is not None
    assert {*number_names(table), "fingerprint", "near_duplicate_of", "input_group", "issues"} == set(
        table.column_names
    )
    assert table.schema.field("issues").type == pa.list_(pa.string())
    samples = batch_samples(data_dir, KEY, {})
    assert samples["changed_share"].to_pylist()[1:] == [0.0, None]
    assert samples["image_sha256"].null_count == 0, "no quality column replaces one of the metadata"
    assert measured_batches(data_dir) == [KEY]


def test_nothing_is_measured_twice(data_dir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Made("1", ROCKET, COFFEE), Made("2", HORSES, COFFEE)]
    write_pictures(data_dir, pictures)
    measured(data_dir)
    before = quality_path(data_dir, KEY).read_bytes()
    monkeypatch.setattr(batch_measuring, "read_picture", None)
    assert BatchMeasuring(data_dir, Thresholds()).is_current(KEY)
    assert BatchMeasuring(data_dir, Thresholds()).measure(KEY) == 0
    assert update_neighbours(data_dir, Thresholds()) == 0
    assert quality_path(data_dir, KEY).read_bytes() == before
    monkeypatch.undo()
    # A picture that is new to the batch is measured, and no other.
    write_pictures(data_dir, [*pictures, Made("3", COFFEE, COFFEE)])
    assert BatchMeasuring(data_dir, Thresholds()).measure(KEY) == 1


def test_changed_thresholds_need_no_measuring(data_dir: UPath, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds = {"edit_kind": ["colour", "season"]}
    write_pictures(data_dir, [Made("1", ROCKET, COFFEE), Made("2", HORSES, COFFEE)], own=kinds)
    measured(data_dir)
    (tmp_path / "q.toml").write_text('[[by]]\ncolumn = "edit_kind"\nvalue = "season"\nlarge_change = 0.1\n')
    thresholds = read_thresholds(str(tmp_path / "q.toml"))
    monkeypatch.setattr(batch_measuring, "read_picture", None)
    assert not BatchMeasuring(data_dir, thresholds).is_current(KEY)
    rows = measured(data_dir, thresholds=thresholds)
    assert [rows[name]["issues"] for name in "12"] == [[], ["large_change"]]
    assert BatchMeasuring(data_dir, thresholds).is_current(KEY)


def test_a_measure_whose_version_rises_is_measured_again_and_no_other(
    data_dir: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(data_dir, [Made("1", ROCKET, COFFEE)])
    measured(data_dir)

    def again(name: str) -> Any:
        def compute(_pair: object) -> float:
            assert name == "contrast", f"{name} is measured again"
            return 0.25

        return compute

    changed = [
        type(m)(m.name, m.meaning, again(m.name), m.compares, m.type, 1 + (m.name == "contrast")) for m in MEASURES
    ]
    monkeypatch.setattr(batch_measuring, "MEASURES", changed)
    assert BatchMeasuring(data_dir, Thresholds()).measure(KEY) == 1
    [row] = read_rows(data_dir, KEY).values()
    assert (row["contrast"], row["errors"]) == (0.25, [])
    assert row["changed_share"] is not None


def test_another_picture_under_the_same_fingerprint_is_measured(data_dir: UPath) -> None:
    write_pictures(data_dir, [Made("1", ROCKET, COFFEE)])
    measured(data_dir)
    write_pictures(data_dir, [Made("1", COFFEE, COFFEE)])
    assert measured(data_dir)["1"]["issues"] == ["unchanged"]
    # So is a pair whose input picture is another one now, or kept at last.
    write_pictures(data_dir, [Made("1", COFFEE, ROCKET)])
    row = measured(data_dir)["1"]
    assert (row["issues"], row["measured_input_sha256"] is not None) == ([], True)
    write_pictures(data_dir, [Made("1", COFFEE)])
    row = measured(data_dir)["1"]
    assert (row["changed_share"], row["input_group"]) == (None, None)


def test_broken_pictures_are_noted_and_the_others_measured(data_dir: UPath, caplog: pytest.LogCaptureFixture) -> None:
    whole = png(COFFEE)
    write_pictures(
        data_dir,
        [
            Made("1", whole[: len(whole) // 2], ROCKET),
            Made("2", None, ROCKET),
            Made("3", b"<html>", ROCKET),
            Made("4", b"", ROCKET),
            Made("5", Image.new("RGB", (1, 1)), ROCKET),
            Made("6", HORSES.rotate(90), ROCKET),
            Made("7", HORSES, HORSES),
            Made("8", ROCKET.convert("CMYK").convert("RGB").quantize(64), ROCKET),
        ],
    )
    path = data_dir / "inputs" / next(p.name for p in (data_dir / "inputs").iterdir() if p.read_bytes() == png(HORSES))
    path.unlink()
    rows = measured(data_dir)
    assert [bool(rows[name]["errors"]) for name in "12345678"] == [True, True, True, True, False, False, True, False]
    assert rows["2"]["errors"] == ["picture: the file does not exist"]
    assert rows["7"]["errors"] == ["input: the file does not exist"]
    assert rows["7"]["sharpness"] is not None
    assert rows["7"]["changed_share"] is None
    assert {"black", "odd_aspect_ratio"} <= set(rows["5"]["issues"])
    # What could not be measured is tried again, and only that.
    path.write_bytes(png(HORSES))
    assert BatchMeasuring(data_dir, Thresholds()).measure(KEY) == 5
    assert measured(data_dir)["7"]["issues"] == ["unchanged"]


def test_a_stop_keeps_what_was_measured(data_dir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(data_dir, [Made(f"{number}", COFFEE.rotate(number)) for number in range(1, 70)])
    answers = iter([False, True])
    measuring = BatchMeasuring(data_dir, Thresholds())
    assert measuring.measure(KEY, stopped=lambda: next(answers)) == 8
    assert len(read_rows(data_dir, KEY)) == 8
    assert not measuring.is_current(KEY)
    assert measuring.measure(KEY) == 61
    update_neighbours(data_dir, Thresholds())
    assert measuring.is_current(KEY)


def test_a_large_batch_is_saved_now_and_then(data_dir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_measuring, "SAVED_AFTER", 30)
    write_pictures(data_dir, [Made(f"{number}", COFFEE.rotate(number)) for number in range(1, 70)])
    seen: list[int] = []

    def look() -> bool:
        seen.append(len(read_rows(data_dir, KEY)))
        return False

    BatchMeasuring(data_dir, Thresholds()).measure(KEY, stopped=look)
    assert seen == [0] * 4 + [32] * 4 + [64]


def test_two_runs_that_measure_a_batch_lose_nothing(tmp_path: Path) -> None:
    data_dir = UPath(tmp_path)
    write_pictures(data_dir, [Made(f"{number}", COFFEE.rotate(number)) for number in range(1, 41)])
    one, other = (BatchMeasuring(data_dir, Thresholds()) for _ in range(2))
    answers = iter([False, True])
    # The first run is stopped in the middle; a second one has begun before and ends after.
    assert one.measure(KEY, stopped=lambda: bool(other.measure(KEY)) and next(answers)) in {8, 40}
    assert len(read_rows(data_dir, KEY)) == 40


def test_near_duplicates_are_found_among_variants_and_over_the_dataset(data_dir: UPath) -> None:
    toned = COFFEE.point(lambda x: min(255, x + 2))
    write_pictures(data_dir, [Made("1", COFFEE, row=1), Made("2", toned, row=1), Made("3", ROCKET, row=2)])
    write_pictures(data_dir, [Made("4", ROCKET.resize((96, 64))), Made("5", HORSES)], key="demo-00001")
    measured(data_dir)
    second = measured(data_dir, "demo-00001")
    first = measured(data_dir)
    assert [first[name]["variant_distance"] is not None for name in "123"] == [True, True, False]
    assert [short(first[name]["near_duplicate_of"]) for name in "123"] == ["2", "1", "4"]
    assert [short(second[name]["near_duplicate_of"]) for name in "45"] == ["3", None]
    assert [first[name]["issues"] for name in "123"] == [["near_duplicate"]] * 3
    assert second["5"]["issues"] == []


def test_other_colours_and_added_objects_make_another_picture(data_dir: UPath) -> None:
    ball = COFFEE.copy()
    ball.paste((200, 30, 30), (30, 30, 60, 60))
    grey = ImageOps.grayscale(COFFEE).convert("RGB")
    write_pictures(data_dir, [Made("1", COFFEE, row=1), Made("2", grey, row=1), Made("3", ball, row=1)])
    assert [row["issues"] for row in measured(data_dir).values()] == [[], [], []]


def test_a_picture_of_two_batches_is_no_duplicate_of_itself(data_dir: UPath) -> None:
    for key in (KEY, "demo-00001"):
        write_pictures(data_dir, [Made("1", COFFEE)], key=key)
        row = measured(data_dir, key)["1"]
    assert row["near_duplicate_of"] is None


def test_a_picture_of_two_batches_is_measured_once(data_dir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = BatchMeasuring(data_dir, Thresholds())
    write_pictures(data_dir, [Made("1", COFFEE, ROCKET), Made("2", ROCKET)])
    assert measuring.measure(KEY) == 2
    write_pictures(data_dir, [Made("1", COFFEE, ROCKET, cost_usd=0.0)], key="demo-00001")
    monkeypatch.setattr(batch_measuring, "read_picture", None)
    for another in (measuring, BatchMeasuring(data_dir, Thresholds())):
        assert another.measure("demo-00001") == 0
        update_neighbours(data_dir, Thresholds())
        assert another.is_current("demo-00001")
        [row] = read_rows(data_dir, "demo-00001").values()
        assert row["changed_share"] == read_rows(data_dir, KEY)[row["fingerprint"]]["changed_share"]
        quality_path(data_dir, "demo-00001").unlink()


def test_near_duplicate_inputs_are_a_group_that_keeps_its_name(data_dir: UPath) -> None:
    same = [COFFEE, *(COFFEE.resize(size) for size in ((190, 126), (180, 120), (96, 64)))]
    write_pictures(data_dir, [Made("1", ROCKET, same[0]), Made("2", ROCKET, HORSES), Made("3", ROCKET)])
    first = measured(data_dir)
    assert first["1"]["input_group"] == first["1"]["measured_input_sha256"] != first["2"]["input_group"]
    assert first["3"]["input_group"] is None
    write_pictures(data_dir, [Made(str(n), ROCKET, one) for n, one in enumerate(same[1:], start=4)], key="demo-00001")
    second = measured(data_dir, "demo-00001")
    assert {row["input_group"] for row in second.values()} == {first["1"]["input_group"]}
    assert {name: row["input_group"] for name, row in measured(data_dir).items()} == {
        name: row["input_group"] for name, row in first.items()
    }


class Twice:
    """A plug-in that counts its calls."""

    version = 1
    batch_size = 2

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.failing = False

    def __call__(self, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
        self.calls.append(len(samples))
        if self.failing:
            raise RuntimeError("out of memory")
        return [
            {"width": 2 * one.output.width, "inputs": one.input is not None, "bad": float("nan")} for one in samples
        ]


def test_a_plug_in_gives_columns_and_is_asked_once_for_each_picture(data_dir: UPath) -> None:
    write_pictures(data_dir, [Made("1", COFFEE, ROCKET), Made("2", HORSES), Made("3", ROCKET)])
    measured(data_dir)
    twice = Twice()
    rows = measured(data_dir, plug_ins=[PlugIn("twice", lambda: twice)])
    assert [rows[name]["twice_inputs"] for name in "123"] == [1.0, 0.0, 0.0]
    assert (rows["1"]["twice_width"], rows["1"]["twice_bad"]) == (384.0, None)
    assert sorted(twice.calls) == [1, 2]
    measured(data_dir, plug_ins=[PlugIn("twice", lambda: twice)])
    assert len(twice.calls) == 2
    # Without the plug-in, its numbers stay; with a new version, they are replaced.
    assert measured(data_dir)["1"]["twice_width"] == 384.0
    twice.version = 2
    measured(data_dir, plug_ins=[PlugIn("twice", lambda: twice)])
    assert len(twice.calls) == 4


def test_a_plug_in_that_fails_stops_nothing(data_dir: UPath, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(data_dir, [Made(str(number), COFFEE.rotate(number)) for number in range(1, 12)])
    twice = Twice()
    twice.failing = True
    rows = measured(data_dir, plug_ins=[PlugIn("twice", lambda: twice)])
    assert twice.calls == [2, 2, 2], "left out after three failures"
    assert rows["1"]["errors"] == ["twice: RuntimeError: out of memory"]
    assert all(row["sharpness"] is not None for row in rows.values())
    assert "The measure twice has failed: RuntimeError: out of memory" in caplog.text
    twice.failing = False
    rows = measured(data_dir, plug_ins=[PlugIn("twice", lambda: twice)])
    assert {row["twice_width"] for row in rows.values()} == {384.0}
    assert [row["errors"] for row in rows.values()] == [[]] * 11


def broken(what: str) -> Any:
    def load() -> Any:
        raise ImportError("no torch")

    functions = {
        "load": load,
        "class": lambda: type("Broken", (), {"__init__": lambda _self: 1 / 0}),
        "count": lambda: lambda _samples: [{"a": 1}],
        "type": lambda: lambda samples: [{"a": "text"} for _ in samples],
        "name": lambda: lambda samples: [{"a b": 1} for _ in samples],
        "exit": lambda: lambda _samples: (_ for _ in ()).throw(SystemError("x")),
    }
    return functions[what]


@pytest.mark.parametrize("what", ["load", "class", "count", "type", "name", "exit"])
def test_plug_ins_may_break_in_every_way(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    write_pictures(UPath(tmp_path), [Made("1", COFFEE), Made("2", ROCKET)])
    rows = measured(UPath(tmp_path), plug_ins=[PlugIn("broken", broken(what))])
    assert all(row["contrast"] is not None for row in rows.values())
    assert "The measure broken" in caplog.text
    assert all(error.startswith("broken: ") for row in rows.values() for error in row["errors"])


def test_a_table_that_cant_be_read_is_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data_dir = UPath(tmp_path)
    write_pictures(data_dir, [Made("1", COFFEE)])
    measured(data_dir)
    quality_path(data_dir, KEY).write_bytes(b"PAR1 no more")
    assert read_quality(data_dir, KEY) is None
    assert BatchMeasuring(data_dir, Thresholds()).measure(KEY) == 1


def test_other_readers_read_the_folder(tmp_path: Path) -> None:
    data_dir = UPath(tmp_path)
    write_pictures(data_dir, [Made("1", COFFEE)])
    measured(data_dir)
    write_rows(data_dir, "demo-00001", [], {})
    assert polars.read_parquet(tmp_path / "quality", missing_columns="insert")["batch"].to_list() == [KEY]
