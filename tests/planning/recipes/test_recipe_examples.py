"""The recipes of the documents and the shipped one give what is said of them."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_pipeline.planning.manifests import read_manifests, read_rows
from tests.planning.recipes.conftest import Expand

ROOT = Path(__file__).parents[3]


def examples(document: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def files(folder: Path, make_picture: Callable[..., Path]) -> None:
    make_picture(folder / "more" / "deep" / "ant.png")
    (folder / "photographs.csv").write_text("url,subject\nhttps://e.org/a.jpg,horse\n")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("index", "count"), [(0, 6), (1, 5), (2, 7), (3, 4)])
def test_the_guides_examples(expand: Expand, index: int, count: int) -> None:
    recipes = examples("docs/recipes.md")
    assert len(recipes) == 4
    rows = expand(recipes[index])
    assert len(rows) == count
    if index == 0:
        assert all(row["label"] == "weather" and row["inverse"].startswith("Remove the ") for row in rows)
        assert [name for name, value in rows[0].items() if name in {"id", "label", "inverse"} and value] == [
            *("id", "label", "inverse"),
        ]


@pytest.mark.usefixtures("files")
def test_the_readmes_example(expand: Expand) -> None:
    (recipe,) = examples("README.md")
    assert len(recipe.splitlines()) == 10
    rows = expand(recipe)
    assert [(row["input_image"], row["prompt"]) for row in rows[:2]] == [
        ("photos/bird.jpg", "Make it heavy rain, keep everything else"),
        ("photos/bird.jpg", "Make it falling snow, keep everything else"),
    ]
    assert len(rows) == 3 * 2


def test_the_shipped_recipe() -> None:
    (found,) = read_rows(read_manifests([ROOT / "data" / "recipe.toml"]), {})
    rows = found.table.to_pylist()
    photographs = {f"photos/{path.name}" for path in (ROOT / "data" / "photos").iterdir()}
    assert Counter(row["input_image"] for row in rows) == dict.fromkeys(photographs, 17)
    labels = {"weather": 32, "season": 32, "time of day": 24, "style": 32, "caption": 16}
    assert Counter(row["label"] for row in rows) == labels
    assert all(row["inverse"] and row["inverse"] != row["prompt"] for row in rows)
    assert len({(row["input_image"], row["prompt"]) for row in rows}) == len(rows) == 136
    assert found.notes == []
    with (ROOT / "data" / "demo.csv").open(encoding="utf-8", newline="") as file:
        assert not {row["id"] for row in rows} & {row["id"] for row in csv.DictReader(file)}
