"""A plan of a recipe is the plan of the manifest that the recipe stands for, and notices what the recipe finds."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from upath import UPath

from kontext_pipeline.cli import main
from kontext_pipeline.errors import ManifestError
from kontext_pipeline.planning.expanded_file import Expanded, write_expanded
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.planner import make_plan

RECIPE = """
lists.weather = ["rain", 'snow, "heavy"']
[[inputs]]
files = "photos/*.jpg"
[[inputs]]
table = "t.csv"
columns = ["subject"]
[[edits]]
label = "weather"
prompt = "make it {{ weather }}"
inverse = "remove the {{ weather }}"
variants = 2
[[edits]]
prompt = "add a hat to the {{ input.stem }}"
seed = 7
aspect_ratio = "1:1"
"""


@pytest.fixture
def recipe(folder: Path) -> Path:
    (folder / "t.csv").write_text("input_image,subject\nhttps://e.org/a.jpg,a cat\n")
    path = folder / "r.toml"
    path.write_text(RECIPE)
    return path


def planned(manifest: Path, *, input_roots: Sequence[str] = ()) -> Plan:
    options = ManifestOptions(input_roots=tuple(map(Path, input_roots)))
    return make_plan(
        read_manifests([manifest], options),
        data_dir=manifest.parent / "data",
        backend="sandbox",
        seed=3,
        batch_size=4,
        clamp_safety_tolerance=False,
        options=options,
    )


def rows(plan: Plan) -> list[dict[str, Any]]:
    return [row for key in plan.batch_keys for row in plan.batch_table(key).to_pylist()]


def requests(plan: Plan) -> list[tuple[Any, ...]]:
    names = ("id", "variant", "prompt", "seed", "fingerprint", "aspect_ratio", "label", "inverse", "subject", "row")
    return [tuple(row[name] or None for name in names) for row in rows(plan)]


@pytest.mark.parametrize("out", ["out.csv", "elsewhere/deep/out.parquet", "out.jsonl"])
def test_the_written_manifest_asks_for_the_same_pictures(recipe: Path, out: str) -> None:
    path = recipe.parent / out
    written = write_expanded(str(recipe), str(path))
    assert written == Expanded(12, [str(recipe.parent / "photos")] if "elsewhere" in out else [])
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path = path.with_suffix(".parquet")
        pq.write_table(pa.Table.from_pylist(lines), path)
    expected = requests(planned(recipe))
    assert len(expected) == 20
    assert requests(planned(path, input_roots=written.input_roots)) == expected


def test_a_longer_recipe_keeps_every_picture_and_batch(
    recipe: Path, folder: Path, make_picture: Callable[..., Path]
) -> None:
    before = rows(planned(recipe))
    make_picture(folder / "photos" / "ant.jpg", b"ant")
    recipe.write_text(RECIPE.replace('["rain"', '["fog", "rain"') + '\n[[edits]]\nprompt = "remove it"\n')
    after = {(row["id"], row["variant"]): row for row in rows(planned(recipe))}
    assert len(after) == 5 * (3 * 2 + 1 + 1)
    assert [after[row["id"], row["variant"]] | {"row": row["row"]} for row in before] == before


def test_what_the_recipe_finds_is_noticed(recipe: Path, folder: Path, make_picture: Callable[..., Path]) -> None:
    first = requests(planned(recipe))
    stamp = (folder / "data" / "plan" / "r.parquet").stat().st_mtime_ns
    assert requests(planned(recipe)) == first
    assert (folder / "data" / "plan" / "r.parquet").stat().st_mtime_ns == stamp

    new = make_picture(folder / "photos" / "ant.jpg", b"ant")
    assert len(requests(planned(recipe))) == 25
    new.unlink()
    assert set(requests(planned(recipe))) == set(first)
    (folder / "t.csv").write_text("input_image,subject\nhttps://e.org/a.jpg,a dog\n")
    changed = requests(planned(recipe))
    assert {row[8] for row in changed} == {None, "a dog"}
    assert {row[4] for row in changed} == {row[4] for row in first}
    make_picture(folder / "photos" / "cat.jpg", b"another cat", mtime_s=1_700_000_000)
    assert len({row[4] for row in requests(planned(recipe))} - {row[4] for row in first}) == 5


def expand(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["expand", *map(str, arguments)])


def test_the_command_says_what_it_wrote(recipe: Path, folder: Path) -> None:
    out = folder / "out.csv"
    done = expand(recipe, "--out", out)
    assert (done.exit_code, done.stdout) == (0, f"12 rows written to {out}\n")
    assert out.read_text().splitlines()[1].split(",")[2] == '"photos/bird.jpg"'
    assert done.stderr == ""
    remote = f"memory://{folder.name}/out.parquet"
    assert expand(recipe, "--out", remote).exit_code == 0
    assert len(pq.read_table(UPath(remote).open("rb"))) == 12


def test_the_command_says_which_folders_a_table_elsewhere_needs(
    recipe: Path, folder: Path, make_picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = make_picture(folder.parent / f"{folder.name}-more" / "my cat.jpg").parent
    recipe.write_text(RECIPE + f'[[inputs]]\nfiles = "{there}"\n')
    out = folder / "elsewhere" / "out.csv"
    assert expand(recipe, "--out", out).exit_code == 2
    monkeypatch.setenv("KONTEXT_INPUT_ROOTS", str(there))
    done = expand(recipe, "--out", out)
    assert done.exit_code == 0
    assert f"to plan it, set KONTEXT_INPUT_ROOTS='{there} {folder / 'photos'}'\n" in done.stderr
    for n in range(6):
        make_picture(folder / f"photos-{n}" / "a.jpg", b"%d" % n)
    recipe.write_text('[[inputs]]\nfiles = "photos-*/a.jpg"\n[[edits]]\nprompt = "x"\n')
    assert write_expanded(str(recipe), str(out)).input_roots == [str(folder)]


def test_the_options_of_manifests_hold_for_recipes(recipe: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_MAX_ROWS", "11")
    done = expand(recipe, "--out", folder / "out.csv")
    assert "r.toml, line 1, combine: gives 12 rows; at most 11 are allowed: use fewer" in done.stderr
    assert "KONTEXT_MAX_ROWS" in done.stderr
    outside = folder.parent / f"{folder.name}-tables" / "t.csv"
    outside.parent.mkdir()
    outside.write_text("input_image\nhttps://e.org/a.jpg\n")
    text = f'[[inputs]]\ntable = "{outside}"\n[[edits]]\nprompt = "x"\n'
    recipe.write_text(text)
    with pytest.raises(ManifestError, match=rf"line 2, inputs.table: {outside} is outside .* KONTEXT_INPUT_ROOTS"):
        planned(recipe)
    assert len(rows(planned(recipe, input_roots=[str(outside.parent)]))) == 1
    with pytest.raises(ManifestError, match="is outside the folders of this recipe"):
        planned(recipe)


def test_columns_with_other_names_are_those_of_manifests(recipe: Path, folder: Path) -> None:
    (folder / "t.csv").write_text("input_image,Prompt\nhttps://e.org/a.jpg,a cat\n")
    recipe.write_text(RECIPE.replace('["subject"]', '["Prompt"]'))
    options = ManifestOptions(columns={"prompt": "Prompt"})
    (found,) = read_rows(read_manifests([recipe], options), {}, options)
    assert found.own_names == ["label", "inverse", "Prompt"]
    (folder / "m.tsv").write_text("Prompt\nx\n")
    both = read_rows(read_manifests([recipe, folder / "m.tsv"], options), {}, options)
    assert [rows.mapped for rows in both] == [{}, {"prompt": "Prompt"}]


def test_pictures_in_a_table_of_a_recipe_are_refused(recipe: Path, folder: Path) -> None:
    pq.write_table(pa.table({"input_image": [b"GIF89a" + bytes(20)], "subject": ["x"]}), folder / "t.parquet")
    recipe.write_text(RECIPE.replace("t.csv", "t.parquet"))
    with pytest.raises(ManifestError, match="column input_image: holds pictures; a recipe takes their addresses"):
        planned(recipe)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["r.toml", "--out", "out.txt"], "out.txt: unknown file type '.txt'; allowed: .csv, .jsonl, .parquet"),
        (["t.csv", "--out", "out.csv"], "t.csv: name one recipe, a .toml file"),
        (["missing.toml", "--out", "out.csv"], "missing.toml: there is no such file"),
        (["bad.toml", "--out", "out.csv"], "bad.toml, line 2, edits.prompt: uses wether, and there is no such list"),
        (["empty.toml", "--out", "out.csv"], "empty.toml, row 1, column prompt (edit of line 1): is empty"),
        (["r.toml", "--out", "r.toml/out.csv"], "r.toml/out.csv: can't be written: "),
    ],
)
def test_problems_of_the_command(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(recipe.parent)
    Path("bad.toml").write_text('[[edits]]\nprompt = "{{ wether }}"\n')
    Path("empty.toml").write_text('[[edits]]\nprompt = " "\n')
    done = expand(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not Path("out.csv").exists()


def test_a_column_that_csv_cannot_hold_is_said(recipe: Path, folder: Path) -> None:
    pq.write_table(pa.table({"input_image": ["https://e.org/a.jpg"], "subject": [["a", "b"]]}), folder / "t.parquet")
    recipe.write_text(RECIPE.replace("t.csv", "t.parquet"))
    out = folder / "out.csv"
    done = expand(recipe, "--out", out)
    assert done.exit_code == 2
    assert "can't hold" in done.stderr
    assert not out.exists()
    assert expand(recipe, "--out", folder / "out.jsonl").exit_code == 0
