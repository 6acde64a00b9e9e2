"""No picture is on both sides of a split, whatever is added."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.dataset.exports.splits import group_names, side_of, split_name, split_names
from tests.dataset.exports.made_datasets import MadeDataset, export

NONE = pa.nulls(4, pa.string())


def groups(pictures: list[str], *links: list[str | None], used: list[int] | None = None) -> list[str]:
    arrays = [pa.array(link, pa.string()) for link in links]
    found: list[str] = group_names(pa.array(pictures), arrays, pa.array(used or list(range(len(pictures))))).to_pylist()
    return found


def test_rows_of_a_picture_are_a_group() -> None:
    assert groups(["a", "b", "a", "c"]) == ["a", "b", "a", "c"]


def test_links_join_groups_across_each_other() -> None:
    joined = groups(["a", "b", "c", "d", "e"], ["x", "x", None, None, None], [None, "y", "y", None, None])
    assert joined == ["a", "a", "a", "d", "e"]


def test_a_link_may_name_a_picture() -> None:
    """A generated picture that is edited again belongs to the group of its own input picture."""
    assert groups(["a", "b", "c"], ["b", None, None]) == ["a", "a", "c"]


def test_the_picture_that_was_used_first_names_the_group() -> None:
    assert groups(["z", "a"], ["x", "x"], used=[1, 2]) == ["z", "z"]
    assert groups(["z", "a", "b"], ["x", "x", "x"], used=[1, 2, 3]) == ["z", "z", "z"]
    assert groups(["z", "a"], ["x", "x"], used=[5, 2]) == ["a", "a"]


def test_a_larger_share_moves_groups_one_way() -> None:
    names = [str(number) for number in range(2000)]
    for few, many in ((0.0, 0.05), (0.05, 0.2)):
        small = {name for name in names if side_of(name, validation=few, seed=1) == "validation"}
        large = {name for name in names if side_of(name, validation=many, seed=1) == "validation"}
        assert small < large
        assert len(large) == pytest.approx(2000 * many, rel=0.25)


def test_the_manifests_split_wins_and_leaks_are_named() -> None:
    found = split_names(
        pa.array(["a", "a", "b", "b", "c"]),
        pa.array(["val", None, "train", "test", ""]),
        validation=0.0,
        seed=0,
    )
    assert found.names.to_pylist() == ["validation", "validation", "train", "test", "train"]
    assert found.leaks == 1
    assert found.shown == ["group b: train, test"]


@pytest.mark.parametrize("name", ["a b", "../x", "ä", "x" * 65])
def test_names_of_splits_are_checked(name: str) -> None:
    with pytest.raises(ExportError, match="letters, digits"):
        split_name(name)


def inputs_by_split(out: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in (out / "data").glob("*.parquet"):
        table = pq.read_table(path, columns=["input_sha256"])
        found.setdefault(path.name.partition("-")[0], set()).update(table["input_sha256"].to_pylist())
    return found


def sides(out: Path) -> dict[str, str]:
    return {sha256: split for split, found in inputs_by_split(out).items() for sha256 in found}


def shared(found: Iterable[set[str]]) -> set[str]:
    first, second = found
    return first & second


@pytest.mark.parametrize("direction", ["forward", pytest.param("both", marks=pytest.mark.long)])
def test_no_input_picture_is_on_both_sides_also_after_growth(
    dataset: MadeDataset, tmp_path: Path, direction: str
) -> None:
    """A thousand rows are added: of known pictures, of new ones, and edits of pictures that were generated before."""
    made = dataset.add([{"input": number % 40} for number in range(120)], inverse_prompt=["back"] * 120)
    export(dataset, tmp_path / "out", "parquet", validation=0.3, direction=direction)
    before = inputs_by_split(tmp_path / "out")
    assert min(map(len, before.values())) > 5
    assert shared(before.values()) == set()
    chained = [
        {"input": None, "input_image": "generated.png"}
        | {"input_path": row["image_path"].replace("images", "inputs"), "input_kept_sha256": row["image_sha256"]}
        for row in made[:100]
    ]
    for row in made[:100]:
        data = (dataset.data_dir / row["image_path"]).read_bytes()
        # The input store names a picture by its content.
        dataset.write(f"inputs/{row['image_sha256'][:2]}/{row['image_sha256']}.png", data)
    for row, its in zip(chained, made[:100], strict=True):
        row["input_path"] = f"inputs/{its['image_sha256'][:2]}/{its['image_sha256']}.png"
    grown = [*chained, *({"input": number % 200} for number in range(900))]
    dataset.add(grown, inverse_prompt=["back"] * 1000)
    made_again = export(dataset, tmp_path / "out", "parquet", validation=0.3, direction=direction)
    after = inputs_by_split(tmp_path / "out")
    assert made_again.samples == 1120 * (2 if direction == "both" else 1)
    assert shared(after.values()) == set()
    # And every picture stays where it was.
    assert (
        sides(tmp_path / "out").items()
        >= {sha256: split for split, found in before.items() for sha256 in found}.items()
    )
