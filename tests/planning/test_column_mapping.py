"""Columns with other names: what is mapped, what isn't, and what a changed mapping does."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.planning.reading import plan_of, planned_rows, problems_of, rows_of, values


def csv(folder: Path, text: str, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_mapped_columns_are_ours_and_the_others_keep_their_names(tmp_path: Path) -> None:
    one = csv(tmp_path, " Prompt ,Ratio,Category\na cat,1:1,Animals\n", "one.csv")
    two = csv(tmp_path, "prompt,aspect_ratio\na dog,4:3\n", "two.csv")
    found = rows_of(one, two, columns={"prompt": "Prompt", "aspect_ratio": "Ratio"})
    assert [values(rows, "prompt") for rows in found] == [["a cat"], ["a dog"]]
    assert [values(rows, "aspect_ratio") for rows in found] == [["1:1"], ["4:3"]]
    assert [rows.own_names for rows in found] == [["Category"], ["Category"]]
    assert [rows.mapped for rows in found] == [{"prompt": "Prompt", "aspect_ratio": "Ratio"}, {}]


def test_one_column_may_be_two_of_ours(tmp_path: Path) -> None:
    path = csv(tmp_path, "text,name\na cat,https://example.org/a.png\n")
    (rows,) = rows_of(path, columns={"prompt": "text", "id": "name", "input_image": "name"})
    assert values(rows, "id") == values(rows, "input_image") == ["https://example.org/a.png"]


def test_columns_may_change_names(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,id\n1,a cat\n")
    (rows,) = rows_of(path, columns={"prompt": "id", "id": "prompt"})
    assert (values(rows, "prompt"), values(rows, "id")) == (["a cat"], ["1"])


def test_a_column_of_our_name_beside_the_mapped_one(tmp_path: Path) -> None:
    assert problems_of(csv(tmp_path, "prompt,My Prompt\nx,y\n"), columns={"prompt": "My Prompt"}) == [
        "m.csv, column prompt: is there beside 'My Prompt', which --column 'prompt=My Prompt' names as prompt; rename or "
        "remove one of them, or leave the option out"
    ]


def test_a_mapping_that_fits_no_manifest(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,Ratio,label\nx,1:1,\n")
    assert problems_of(path, columns={"aspect_ratio": "ratios"}) == [
        "column mapping (--column, KONTEXT_COLUMNS): no manifest has a column 'ratios' (columns there: 'prompt', "
        "'Ratio', 'label'); did you mean --column aspect_ratio=Ratio?"
    ]


def test_a_mapped_column_of_a_type_that_is_not_suitable_is_named_as_ours(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1]}), tmp_path / "m.parquet")
    (problem,) = problems_of(tmp_path / "m.parquet", columns={"prompt": "text"})
    assert problem == "m.parquet, column prompt: holds int64; text is needed"


def test_a_changed_mapping_plans_again_and_shows_in_the_plan(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b\nx,y\n")
    first = plan_of(tmp_path / "data", path, columns={"prompt": "a"})
    file = tmp_path / "data" / "plan" / "m.parquet"
    inode = file.stat().st_ino
    assert first.mapped_columns == {"prompt": "a"}
    assert plan_of(tmp_path / "data", path, columns={"prompt": "a"}).mapped_columns == {"prompt": "a"}
    assert file.stat().st_ino == inode
    assert [row["prompt"] for row in planned_rows(plan_of(tmp_path / "data", path, columns={"prompt": "b"}))] == ["y"]


def test_json_lines_with_other_names(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"Prompt": "a cat", "photo": 7}\n')
    columns = {"prompt": "Prompt", "input_image": "photo"}
    assert problems_of(tmp_path / "m.jsonl", columns=columns) == [
        "m.jsonl, row 1, column photo: holds '7', which is a number; text is needed"
    ]
