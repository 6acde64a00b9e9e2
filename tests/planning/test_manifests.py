"""What a manifest says is read as its writer meant it, and what isn't ours stays as it was."""

import io
import uuid
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from kontext_pipeline.planning.rows import ManifestRows
from kontext_pipeline.planning.sources import manifest_name


def rows_of(*patterns: Any, options: ManifestOptions | None = None) -> list[ManifestRows]:
    return read_rows(read_manifests(patterns), {}, options)


def csv(folder: Path, content: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def column(rows: ManifestRows, name: str) -> list[Any]:
    values: list[Any] = rows.table[name].to_pylist()
    return values


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_csv_with_quoted_newlines_and_commas(tmp_path: Path, bom: bytes, newline: bytes) -> None:
    lines = [b"prompt,label", b'"a cat,', b'""and"" a dog",x', b"caf\xc3\xa9,", b""]
    (rows,) = rows_of(csv(tmp_path, bom + newline.join(lines)))
    assert column(rows, "prompt") == ["a cat," + newline.decode() + '"and" a dog', "café"]
    assert column(rows, "label") == ["x", ""]


def test_defaults_are_filled_in_and_nothing_else(tmp_path: Path) -> None:
    (rows,) = rows_of(csv(tmp_path, "prompt\n  a cat \n"))
    assert rows.table.to_pylist() == [
        {
            "id": None,
            "prompt": "  a cat ",
            "input_image": None,
            "aspect_ratio": "16:9",
            "output_format": "png",
            "safety_tolerance": 2,
            "seed": None,
            "variants": 1,
            "input_source": None,
        }
    ]


@pytest.mark.parametrize("blank", ["", " ", '"  "', '""'])
def test_blank_cells_are_not_given(tmp_path: Path, blank: str) -> None:
    names = "input_image,aspect_ratio,output_format,safety_tolerance,seed,variants,id"
    (rows,) = rows_of(csv(tmp_path, f"prompt,{names}\nx{f',{blank}' * 7}\n"))
    (plain,) = rows_of(csv(tmp_path, "prompt\nx\n", "plain.csv"))
    assert rows.table.to_pylist() == plain.table.to_pylist()


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("seed", "3.0", 3),
        ("seed", "3.", 3),
        ("seed", " +07 ", 7),
        ("seed", "0", 0),
        ("seed", "-0", 0),
        ("seed", "0000000000000000000000012", 12),
        ("seed", "4294967295.00", 4294967295),
        ("seed", "nan", None),
        ("seed", "NaN", None),
        ("seed", "<NA>", None),
        ("variants", "2.0", 2),
        ("safety_tolerance", "6.0", 6),
        ("output_format", "PNG", "png"),
        ("output_format", " JPEG ", "jpg"),
        ("output_format", "Jpg", "jpg"),
        ("aspect_ratio", " 21:9", "21:9"),
        ("aspect_ratio", "Match_Input_Image", "match_input_image"),
        ("input_image", " HTTPS://example.org/a.png ", "HTTPS://example.org/a.png"),
        ("id", " 007 ", "007"),
    ],
)
def test_values_that_are_plain_enough(tmp_path: Path, name: str, written: str, meant: Any) -> None:
    (rows,) = rows_of(csv(tmp_path, f"prompt,{name}\nx,{written}\n"))
    assert column(rows, name) == [meant]


def test_own_columns_of_a_csv_stay_text(tmp_path: Path) -> None:
    (rows,) = rows_of(csv(tmp_path, "prompt,label,when, note ,empty\nx,001,2024-01-02,  n ,\ny,1e3,NaN,NULL,\n"))
    own = rows.table.select(rows.own_names)
    assert own.schema == pa.schema([(name, pa.string()) for name in ("label", "when", "note", "empty")])
    assert own.to_pylist() == [
        {"label": "001", "when": "2024-01-02", "note": "  n ", "empty": ""},
        {"label": "1e3", "when": "NaN", "note": "NULL", "empty": ""},
    ]


def test_parquet_with_every_kind_of_column(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", "b", "b"]).dictionary_encode(),
            "input_image": pa.array([None, "https://example.org/a.png", " "], pa.large_string()),
            "aspect_ratio": pa.array([None, "1:1", None]).dictionary_encode(),
            "output_format": pa.array(["jpg", None, "png"], pa.string_view()),
            "safety_tolerance": pa.array([3.0, float("nan"), None]),
            "seed": pa.array([None, 7, 2**32 - 1], pa.uint64()),
            "variants": pa.array([Decimal("2.00"), None, Decimal("1.00")]),
            "id": pa.array([1.0, float("nan"), 3.0]),
            "label": pa.array(["x", None, "x"]).dictionary_encode(),
            "when": pa.array([date(2024, 1, 2), None, None]),
            "vector": pa.array([[1.5], None, []], pa.list_(pa.float32())),
            "flag": pa.array([True, None, False]),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    (rows,) = rows_of(tmp_path / "m.parquet")
    expected = [
        ("prompt", ["a", "b", "b"]),
        ("input_image", [None, "https://example.org/a.png", None]),
        ("aspect_ratio", ["16:9", "1:1", "16:9"]),
        ("output_format", ["jpg", "png", "png"]),
        ("safety_tolerance", [3, 2, 2]),
        ("seed", [None, 7, 2**32 - 1]),
        ("variants", [2, 1, 1]),
        ("id", ["1", None, "3"]),
        ("label", ["x", None, "x"]),
        ("when", [date(2024, 1, 2), None, None]),
        ("vector", [[1.5], None, []]),
        ("flag", [True, None, False]),
    ]
    assert [(name, column(rows, name)) for name, _ in expected] == expected
    assert [str(rows.table[name].type) for name in rows.own_names] == [
        "string",
        "date32[day]",
        "list<element: float>",
        "bool",
    ]


def test_what_pandas_writes(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "prompt": pd.Categorical(["a", "b", "a"]),
            "seed": pd.array([1, None, 3], dtype="Int64"),
            "variants": [1.0, float("nan"), 2.0],
            "input_image": [float("nan")] * 3,
            "label": ["01", None, "03"],
        }
    )
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_csv(tmp_path / "c.csv")
    parquet, text = rows_of(tmp_path / "p.parquet", tmp_path / "c.csv")
    for rows in (parquet, text):
        assert column(rows, "prompt") == ["a", "b", "a"]
        assert column(rows, "seed") == [1, None, 3]
        assert column(rows, "variants") == [1, 1, 2]
        assert column(rows, "input_image") == [None] * 3
    assert text.notes == [f"{tmp_path}/c.csv: column number 1 has no name and is left out"]


def test_rows_of_nothing_are_left_out_and_still_counted(tmp_path: Path) -> None:
    (rows,) = rows_of(csv(tmp_path, "prompt,seed,label\n,,\nx,1,\n , ,\n,,\n"))
    assert rows.numbers.tolist() == [2]
    pq.write_table(pa.table({"prompt": [None, "x"], "seed": [float("nan"), 1.0]}), tmp_path / "p.parquet")
    (rows,) = rows_of(tmp_path / "p.parquet")
    assert rows.numbers.tolist() == [2]


def test_trailing_commas_of_a_spreadsheet(tmp_path: Path) -> None:
    (rows,) = rows_of(csv(tmp_path, "prompt,seed,,\nx,1,,\n"))
    assert rows.table.column_names[-1] == "input_source"
    assert rows.notes == []


def test_misspelt_columns_are_noted(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,aspectratio,Seed,safety-tolerance,label,kid\nx,1:1,2,3,4,5\n")
    (rows,) = rows_of(path)
    assert [note.removeprefix(f"{path}: column ") for note in rows.notes] == [
        "aspectratio is carried along and means nothing here; did you mean aspect_ratio?",
        "Seed is carried along and means nothing here; did you mean seed?",
        "safety-tolerance is carried along and means nothing here; did you mean safety_tolerance?",
    ]
    assert column(rows, "seed") == [None]


def test_local_pictures_are_found_from_the_manifests_folder(
    tmp_path: Path, make_picture: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = make_picture(tmp_path / "set" / "photos" / "a b.png")
    outside = make_picture(tmp_path / "c.png")
    folder = tmp_path / "set"
    csv(folder, f"prompt,input_image\nx,photos/a b.png\ny,../c.png\nz,{inside}\nw,https://example.org/a\n")
    monkeypatch.chdir(tmp_path)
    (rows,) = rows_of("set/m.csv", options=ManifestOptions(input_roots=(tmp_path,)))
    assert column(rows, "input_source") == [str(inside), str(outside), str(inside), None]
    assert column(rows, "input_image")[0] == "photos/a b.png"
    assert set(rows.input_files) == {str(inside), str(outside)}


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff\xe0" + bytes(12),
        b"GIF89a" + bytes(10),
        b"RIFF\x24\0\0\0WEBPVP8 ",
        b"\0\0\0\x1cftypavif" + bytes(4),
        b"II*\0" + bytes(12),
    ],
)
def test_pictures_of_many_kinds(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(head)
    (rows,) = rows_of(csv(tmp_path, "prompt,input_image\nx,a.bin\n"))
    assert len(rows.input_files) == 1


def test_data_uris(tmp_path: Path) -> None:
    uri = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC"
    (rows,) = rows_of(csv(tmp_path, f'prompt,input_image\nx,"{uri}"\n'))
    assert column(rows, "input_image") == [uri]
    assert column(rows, "input_source") == [None]


def test_a_cell_larger_than_a_block(tmp_path: Path) -> None:
    (rows,) = rows_of(csv(tmp_path, f"prompt,label\nx,{'y' * 9_000_000}\nz,\n"))
    assert [len(text) for text in column(rows, "label")] == [9_000_000, 0]


def test_a_quote_within_a_value_is_not_an_unclosed_one(tmp_path: Path) -> None:
    (rows,) = rows_of(csv(tmp_path, 'label,prompt\n1,a 5" frame\n2,"two\nlines"\n'))
    assert column(rows, "prompt") == ['a 5" frame', "two\nlines"]


def test_globs_and_several_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.csv", "a.csv", "deep/er/c.csv"):
        csv(tmp_path, "prompt\nx\n", name)
    found = read_manifests([f"{tmp_path}/*.csv", f"{tmp_path}/**/*.csv"])
    assert [manifest.name for manifest in found] == ["a", "b", "c"]
    strange = csv(tmp_path, "prompt\nx\n", "one[1].csv")
    assert [manifest.path for manifest in read_manifests([strange])] == [strange]


def test_manifests_in_memory_of_fsspec() -> None:
    folder = UPath(f"memory://{uuid.uuid4().hex}")
    (folder / "m.csv").write_text("prompt,label\nx,1\n")
    with (folder / "p.parquet").open("wb") as file:
        content = io.BytesIO()
        pq.write_table(pa.table({"prompt": ["y"]}), content)
        file.write(content.getvalue())
    rows = rows_of(f"{folder}/*.csv", folder / "p.parquet")
    assert [column(one, "prompt") for one in rows] == [["x"], ["y"]]


def test_urls_of_local_files(tmp_path: Path, make_picture: Callable[[Path], Path]) -> None:
    make_picture(tmp_path / "a.png")
    path = csv(tmp_path, "prompt,input_image\nx,a.png\n")
    for url in (f"file://{path}", f"file://{tmp_path}/*.csv"):
        (rows,) = rows_of(url)
        assert rows.manifest.path == path
        assert column(rows, "input_source") == [str(tmp_path / "a.png")]


def test_own_columns_of_several_manifests_are_unified(tmp_path: Path) -> None:
    csv(tmp_path, "prompt,label,split\nx,a,train\n", "a.csv")
    table = pa.table(
        {"prompt": ["y"], "split": pa.array(["test"]).dictionary_encode(), "size": pa.array([1], pa.int32())}
    )
    pq.write_table(table, tmp_path / "b.parquet")
    pq.write_table(pa.table({"prompt": ["z"], "size": [2**40], "label": pa.nulls(1)}), tmp_path / "c.parquet")
    found = rows_of(tmp_path / "a.csv", tmp_path / "b.parquet", tmp_path / "c.parquet")
    assert len({str(rows.table.schema) for rows in found}) == 1
    own = [rows.table.select(rows.own_names).to_pylist()[0] for rows in found]
    assert own == [
        {"label": "a", "split": "train", "size": None},
        {"label": None, "split": "test", "size": 1},
        {"label": None, "split": None, "size": 2**40},
    ]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("photos", "photos"),
        ("My Photos (2)", "my-photos-2"),
        ("a_b-c.final", "a_b-c-final"),
        ("Ärger", "arger"),
        ("照片", "manifest-7b50017a"),
        ("фото1", "1-af07c18f"),
        ("видео1", "1-44dd2a00"),
        ("...", "manifest-ab5df625"),
    ],
)
def test_names_of_manifests(stem: str, name: str) -> None:
    assert manifest_name(stem) == name


def test_long_names_of_manifests_are_cut_and_stay_different() -> None:
    names = {manifest_name("x" * 100 + ending) for ending in "ab"}
    assert len(names) == 2
    assert {len(name) for name in names} == {64}
