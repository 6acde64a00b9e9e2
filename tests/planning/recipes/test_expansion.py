"""A recipe stands for the rows that its inputs and edits say, and a longer recipe changes no row that it had."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.problems import ManifestProblems
from kontext_pipeline.planning.recipes import expansion
from kontext_pipeline.planning.tables import read_table
from tests.planning.recipes.conftest import Expand

PHOTOS = '[[inputs]]\nfiles = "photos"\n'
WEATHER = '[[edits]]\nlabel = "weather"\nprompt = "make it {{ weather }}"\n'


def recipe(*parts: str, weather: Sequence[str] = ("rain", "snow"), combine: str = '"product"', seed: int = 0) -> str:
    return f"seed = {seed}\ncombine = {combine}\nlists.weather = {json.dumps(list(weather))}\n" + "\n".join(parts)


def columns(rows: Sequence[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def ids(rows: Sequence[dict[str, Any]]) -> set[str]:
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"] for row in rows}


def test_a_row_for_each_input_and_each_combination_of_the_lists(expand: Expand) -> None:
    rows = expand(
        """
        [lists]
        unused = ["x"]
        hour = ["dawn", "dusk"]
        sky = [{name = "clear", undo = "cloudy"}, {name = "cloudy", undo = "clear"}]
        [defaults]
        aspect_ratio = "1:1"
        variants = 2
        [[inputs]]
        files = "photos/[bc]*.jpg"
        values = {split = "train", share = 0.5, n = 3}
        [[edits]]
        label = "{{ hour }}"
        prompt = "a {{ input.stem }} at {{ hour }}, {{ sky.name }}"
        inverse = "make it {{ sky.undo }}"
        output_format = "jpg"
        variants = 1
        [[edits]]
        prompt = "remove the {{ input.name }} of {{ input.folder }}"
        """
    )
    shown = ("input_image", "prompt", "label", "inverse", "output_format", "variants")
    assert columns(rows, *shown) == [
        row
        for stem in ("bird", "cat")
        for row in (
            *(
                (f"photos/{stem}.jpg", f"a {stem} at {hour}, {sky}", hour, f"make it {undo}", "jpg", 1)
                for hour in ("dawn", "dusk")
                for sky, undo in (("clear", "cloudy"), ("cloudy", "clear"))
            ),
            (f"photos/{stem}.jpg", f"remove the {stem}.jpg of photos", None, None, "png", 2),
        )
    ]
    assert set(columns(rows, "aspect_ratio", "seed", "split", "share", "n")) == {("1:1", None, "train", 0.5, 3)}


def test_ids_never_change(expand: Expand) -> None:
    """Other ids would request every picture of every recipe again."""
    rows = expand(recipe(PHOTOS, WEATHER, '[[edits]]\nprompt = "café"'))
    assert [row["id"] for row in rows[:3]] == ["6b854964013c8f28", "0b1992b7f804451e", "d142dc4ce7dabac9"]
    assert [row["id"] for row in expand(recipe(PHOTOS, WEATHER, seed=1))[:2]] == [
        "c926e680b8deb715",
        "0f4448bf503f56d5",
    ]


def test_more_inputs_edits_and_values_change_no_row(
    expand: Expand, folder: Path, make_picture: Callable[..., Path]
) -> None:
    before = expand(recipe(PHOTOS, WEATHER))
    make_picture(folder / "photos" / "ant.jpg", b"ant")
    more = recipe(
        '[[inputs]]\nfiles = "https://e.org/x.jpg"',
        PHOTOS,
        '[[edits]]\nprompt = "remove it"',
        WEATHER,
        weather=("fog", "snow", "rain"),
    )
    after = {row["id"]: row for row in expand(more)}
    assert len(before) == 6
    assert len(after) == 5 * 4
    assert [after[row["id"]] | {"label": "weather"} for row in before] == before


def test_an_edit_with_a_label_keeps_its_ids_when_its_prompt_changes(expand: Expand) -> None:
    before = ids(expand(recipe(PHOTOS, WEATHER)))
    assert ids(expand(recipe(PHOTOS, WEATHER.replace("make it", "turn it into")))) == before
    assert ids(expand(recipe(PHOTOS, WEATHER.replace('label = "weather"\n', "")))).isdisjoint(before)
    assert ids(expand(recipe(PHOTOS, WEATHER, seed=1))).isdisjoint(before)


def test_a_longer_recipe_changes_a_sample_as_little_as_it_can(expand: Expand) -> None:
    table = [f"https://e.org/{number}.jpg" for number in range(100)]
    sample = "{sample = 50}"

    def sampled(images: list[str], *weather: str) -> list[dict[str, Any]]:
        return expand(recipe(f"[[inputs]]\nfiles = {json.dumps(images)}", WEATHER, weather=weather, combine=sample))

    before = sampled(table, "rain", "snow")
    assert len(before) == 50
    assert 10 < sum(row["prompt"] == "make it rain" for row in before) < 40
    assert [row["input_image"] for row in before] == sorted((r["input_image"] for r in before), key=table.index)
    after = sampled(["https://e.org/first.jpg", *table], "fog", "rain", "snow")
    new = [row for row in after if row["prompt"] == "make it fog" or row["input_image"] == "https://e.org/first.jpg"]
    assert len(after) == 50
    assert 0 < len(new) < 35
    assert ids(after) - ids(before) == ids(new)
    assert len(sampled(table[:10], "rain")) == 10


def test_a_large_sample_is_the_smallest_ids_however_it_is_taken(
    expand: Expand, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = f"[[inputs]]\nfiles = {json.dumps([f'https://e.org/{n}.jpg' for n in range(300)])}"
    monkeypatch.setattr(expansion, "_AT_ONCE", 4)
    everything = expand(recipe(inputs, WEATHER))
    assert ids(expand(recipe(inputs, WEATHER, combine="{sample = 20}"))) == set(sorted(ids(everything))[:20])


def test_zip_pairs_in_order(expand: Expand) -> None:
    rows = expand(recipe(PHOTOS, WEATHER, '[[edits]]\nprompt = "remove it"', combine='"zip"'))
    pairs = [("photos/bird.jpg", "make it rain"), ("photos/cat.jpg", "make it snow"), ("photos/dog.jpg", "remove it")]
    assert columns(rows, "input_image", "prompt") == pairs
    assert ids(rows) < ids(expand(recipe(PHOTOS, WEATHER, '[[edits]]\nprompt = "remove it"')))


@pytest.mark.parametrize("combine", ['"product"', "{sample = 2}"])
def test_a_condition_leaves_pairs_out(expand: Expand, combine: str) -> None:
    when = """when = "input.stem != 'cat' and not (weather == 'snow' and input.stem == 'dog')"\n"""
    rows = expand(recipe(PHOTOS, WEATHER + when, combine=combine))
    everything = [("bird", "rain"), ("bird", "snow"), ("dog", "rain")]
    pairs = [(f"photos/{stem}.jpg", f"make it {weather}") for stem, weather in everything]
    assert set(columns(rows, "input_image", "prompt")) <= set(pairs)
    assert len(rows) == (3 if combine == '"product"' else 2)
    assert ids(rows) <= ids(expand(recipe(PHOTOS, WEATHER)))


def test_a_condition_that_nothing_fulfils_is_a_note(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_text(recipe(PHOTOS, WEATHER, '[[edits]]\nprompt = "x"\nwhen = "input.stem == \'Cat\'"'))
    (manifest,) = read_manifests([path])
    problems = ManifestProblems().of("r.toml", 0)
    assert read_table(manifest, problems)
    assert problems.notes == ["r.toml: line 13: no input fulfils the condition of this edit"]


def test_tables_carry_columns_and_name_pictures_relative_to_themselves(expand: Expand, folder: Path) -> None:
    (folder / "tables").mkdir()
    lines = ["../photos/cat.jpg,a cat,1", "https://e.org/x.jpg?size=2,,2"]
    (folder / "tables" / "t.csv").write_text("\n".join(["picture,subject,key", *lines]))
    typed = {"input_image": ["photos/dog.jpg"], "subject": ["a dog"], "year": [1999]}
    pq.write_table(pa.table(typed), folder / "t.parquet")
    rows = expand(
        recipe(
            '[[inputs]]\ntable = "tables/t.csv"\nimage = "picture"\ncolumns = ["subject"]\nid = "key"',
            '[[inputs]]\ntable = "t.parquet"\ncolumns = ["year", "subject"]',
            '[[edits]]\nprompt = "[{{ input.subject }}] {{ input.stem }}"',
        )
    )
    assert columns(rows, "input_image", "prompt", "subject", "year") == [
        ("photos/cat.jpg", "[a cat] cat", "a cat", None),
        ("https://e.org/x.jpg?size=2", "[] x", "", None),
        ("photos/dog.jpg", "[a dog] dog", "a dog", 1999),
    ]


def test_the_same_picture_is_edited_for_each_row_with_an_id_of_its_own(expand: Expand, folder: Path) -> None:
    (folder / "t.csv").write_text("input_image,key\nphotos/cat.jpg,a\nphotos/cat.jpg,b\n")
    rows = expand(recipe('[[inputs]]\ntable = "t.csv"\nid = "key"', WEATHER))
    assert len(ids(rows)) == 4


def test_files_are_found_in_every_way(expand: Expand, folder: Path, make_picture: Callable[..., Path]) -> None:
    for name in ("deep/er/a.JPG", "deep/b [1].png", "deep/.hidden.jpg"):
        make_picture(folder / name, name.encode())
    (folder / "deep" / "notes.txt").write_text("no picture")
    outside = make_picture(folder.parent / f"{folder.name}-outside" / "o.jpg")
    files = [
        "deep",
        "deep/**/*.JPG",
        "deep/b [1].png",
        str(outside),
        f"../{outside.parent.name}/*.jpg",
        "HTTPS://e.org/*",
    ]
    text = recipe(f"[[inputs]]\nfiles = {json.dumps(files)}", '[[edits]]\nprompt = "x"')
    with pytest.raises(ManifestError, match=r"is outside the folders .* to KONTEXT_INPUT_ROOTS"):
        expand(text)
    rows = expand(text, input_roots=(outside.parent,))
    assert [row["input_image"] for row in rows] == [
        "deep/b [1].png",
        "deep/er/a.JPG",
        str(outside),
        f"../{outside.parent.name}/o.jpg",
        "HTTPS://e.org/*",
    ]


def test_without_inputs_each_edit_is_a_prompt(expand: Expand) -> None:
    rows = expand(recipe(WEATHER))
    assert columns(rows, "prompt", "input_image") == [("make it rain", None), ("make it snow", None)]
    assert len(ids(rows)) == 2


def test_a_recipe_on_another_file_system(folder: Path) -> None:
    there = UPath(f"memory://{folder.name}")
    for name in ("photos/a.jpg", "photos/b.jpg", "more/c.jpg"):
        (there / name).write_bytes(b"picture")
    files = json.dumps(["photos", "mo*/*.jpg"])
    (there / "r.toml").write_text(
        recipe(f"[[inputs]]\nfiles = {files}", f'[[inputs]]\nfiles = "{there}/photos/*"', WEATHER)
    )
    (manifest,) = read_manifests([there / "r.toml"])
    raw = read_table(manifest, ManifestProblems().of("r.toml", 0))
    assert raw is not None
    assert raw.table["input_image"].to_pylist()[::2] == [
        *("photos/a.jpg", "photos/b.jpg", "more/c.jpg"),
        *(f"memory:///{folder.name}/photos/{name}.jpg" for name in "ab"),
    ]
