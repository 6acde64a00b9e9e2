"""A plan of a recipe is the plan of the manifest that the recipe stands for, and notices what the recipe finds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from upath import UPath

from kontext_pipeline.cli import main
from kontext_pipeline.planning.expanded_file import write_expanded
from kontext_pipeline.planning.manifests import read_manifests
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


def planned(manifest: Path, *, batch_size: int = 4) -> Plan:
    options: dict[str, Any] = {"backend": "sandbox", "seed": 3, "clamp_safety_tolerance": False}
    data_dir = manifest.parent / "data"
    return make_plan(read_manifests([manifest]), data_dir=data_dir, batch_size=batch_size, **options)


def rows(plan: Plan) -> list[dict[str, Any]]:
    return [row for key in plan.batch_keys for row in plan.batch_table(key).to_pylist()]


def requests(plan: Plan) -> list[tuple[Any, ...]]:
    names = ("id", "variant", "prompt", "seed", "fingerprint", "aspect_ratio", "label", "inverse", "subject", "row")
    return [tuple(row[name] or None for name in names) for row in rows(plan)]


@pytest.mark.parametrize("out", ["out.csv", "elsewhere/deep/out.parquet", "out.jsonl"])
def test_the_written_manifest_asks_for_the_same_pictures(recipe: Path, out: str) -> None:
    path = recipe.parent / out
    assert write_expanded(str(recipe), str(path)) == 12
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path = path.with_suffix(".parquet")
        pq.write_table(pa.Table.from_pylist(lines), path)
    expected = requests(planned(recipe))
    assert len(expected) == 20
    assert requests(planned(path)) == expected


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
    remote = f"memory://{folder.name}/out.parquet"
    assert expand(recipe, "--out", remote).exit_code == 0
    assert len(pq.read_table(UPath(remote).open("rb"))) == 12


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
