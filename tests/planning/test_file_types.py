"""Manifests of every file type are read as their writers meant them, and none is larger than the settings allow."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kontext_pipeline.planning import delimited, json_lines
from tests.planning.reading import problems_of, rows_of, values

PROMPTS_LIKE_PUBLISHED_ONES = """\
Prompt\tCategory\tChallenge\tNote
tea\tAbstract\tBasic\tOne word
A robot by a wall. The words "Mind the step" are on it.\tOutdoor Scenes\tComplex\t
"Hello", says a parrot\tAnimals\tQuantity\t
a poster that says "open\tArts\tWriting & Symbols\t
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def jsonl(folder: Path, *rows: Any, name: str = "m.jsonl") -> Path:
    texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    return write(folder, name, "".join(f"{text}\n" for text in texts))


@pytest.mark.parametrize("name", ["parti.tsv", "parti.tsv.gz", "PARTI.TSV"])
def test_a_tsv_whose_quotes_are_text(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "m.tsv" + (".gz" if name.endswith(".gz") else ""), PROMPTS_LIKE_PUBLISHED_ONES)
    path = path.rename(tmp_path / name)
    (rows,) = rows_of(path, columns={"prompt": "Prompt"})
    assert rows.manifest.name == "parti"
    assert values(rows, "prompt") == [
        "tea",
        'A robot by a wall. The words "Mind the step" are on it.',
        '"Hello", says a parrot',
        'a poster that says "open',
    ]
    assert rows.own_names == ["Category", "Challenge", "Note"]
    assert values(rows, "Note") == ["One word", "", "", ""]


@pytest.mark.parametrize("line_break", ["", "\n"])
def test_a_tsv_whose_program_quotes_as_csv_does(tmp_path: Path, line_break: str) -> None:
    text = f'prompt\t"my label"\n"a ""red"" {line_break}hat"\tx\nplain\t"with, comma"\n'
    (rows,) = rows_of(write(tmp_path, "m.tsv", text))
    assert values(rows, "prompt") == [f'a "red" {line_break}hat', "plain"]
    assert values(rows, "my label") == ["x", "with, comma"]


def test_a_tsv_row_with_too_many_values(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path, "m.tsv", 'prompt\tlabel\nx\ty\tz\na 5" nail\tb\n'))
    assert problem.startswith("m.tsv, row 1: has 3 values where the header has 2 columns; a value can't have a tab")


def test_a_tsv_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_bytes(b'prompt\tlabel\n"x\ty\nz\tcaf\xe9\n')
    (problem,) = problems_of(tmp_path / "m.tsv")
    assert problem.startswith("m.tsv, row 2, column number 2: byte 23 of the file (0xe9) isn't UTF-8; save")


def test_json_lines_with_values_of_every_kind(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"prompt": "a\ncat", "seed": 7, "id": 1, "n": 1, "x": 1, "tags": ["a"], "meta": {"a": 1}, "odd": 1},
        "",
        {"prompt": "ä", "seed": "8", "id": "b", "n": 2.5, "tags": [], "meta": {"b": {"c": [None]}}, "odd": "1"},
        {"prompt": "c", "seed": None, "flag": True, "when": "2024-01-02", "odd": {"k": [1, "é"]}, "big": 2**70},
        {"prompt": "d", "tags": None, "list": [1, "x"], "empty": {}, "null": None, "half": [1]},
    )
    (rows,) = rows_of(path)
    assert rows.numbers.tolist() == [1, 2, 3, 4]
    assert [values(rows, name) for name in ("prompt", "seed", "id")] == [
        ["a\ncat", "ä", "c", "d"],
        [7, 8, None, None],
        ["1", "b", None, None],
    ]
    own = {name: values(rows, name) for name in rows.own_names}
    assert own == {
        "n": [1.0, 2.5, None, None],
        "x": [1, None, None, None],
        "tags": [["a"], [], None, None],
        "meta": [{"a": 1, "b": None}, {"a": None, "b": {"c": [None]}}, None, None],
        "odd": ["1", '"1"', '{"k": [1, "é"]}', None],
        "flag": [None, None, True, None],
        "when": [None, None, "2024-01-02", None],
        "big": [None, None, str(2**70), None],
        "list": [None, None, None, '[1, "x"]'],
        "empty": [None, None, None, "{}"],
        "null": [None] * 4,
        "half": [None, None, None, [1]],
    }


def test_kinds_that_change_far_into_a_file(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": "x", "a": n, "b": [n], "c": n} for n in range(20_500)]
    rows += [{"prompt": "y", "a": 0.5, "b": ["s"], "c": "s", "late": {"k": 1}}]
    (found,) = rows_of(jsonl(tmp_path, *rows))
    ends = {name: [values(found, name)[index] for index in (0, -1)] for name in found.own_names}
    assert ends == {"a": [0.0, 0.5], "b": ["[0]", '["s"]'], "c": ["0", '"s"'], "late": [None, {"k": 1}]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "x"', "row 2: isn't JSON (Expecting ',' delimiter at character 15 of the line); JSON Lines has a"),
        ("[", "row 2: isn't JSON"),
        ('["x"]', """row 2: is no JSON object, but '["x"]'; JSON Lines has a whole object on each line"""),
        ('{"prompt": 5}', "row 2, column prompt: holds '5', which is a number; text is needed"),
        ('{"prompt": {"a": 1}}', "row 2, column prompt: holds"),
        ('{"prompt": "x", "id": [1]}', "row 2, column id: holds '[1]', which is a list"),
        ('{"prompt": "x", "seed": 1.5}', "row 2, column seed: '1.5' is not allowed; allowed: whole numbers"),
        ('{"prompt": "x", "seed": true}', "row 2, column seed: "),
        ('{"prompt": "cut \\ud83d"}', "row 2, column prompt: holds \\ud83d, half of a character"),
        ('{"prompt": "x", "own": {"k": ["\\uDC00"]}}', "row 2, column own: holds \\udc00, half of a character"),
        ("[" * 100_000, "row 2: is nested too deeply"),
        ('{"prompt": "x", "input_image": {"bytes": "aGk=", "path": null}}', "row 2, column input_image: holds "),
    ],
)
def test_a_line_that_is_not_allowed(tmp_path: Path, line: str, said: str) -> None:
    (problem,) = problems_of(jsonl(tmp_path, {"prompt": "a cat"}, line))
    assert problem.startswith(f"m.jsonl, {said}")


def test_a_line_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "m.ndjson").write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\n{"prompt": "caf\xe9"}\n')
    assert problems_of(tmp_path / "m.ndjson") == [
        "m.ndjson, row 2: byte 15 of the line isn't UTF-8; save the file in UTF-8 encoding"
    ]


def test_json_lines_without_lines(tmp_path: Path) -> None:
    (problem,) = problems_of(jsonl(tmp_path, ""))
    assert problem.startswith("m.jsonl: is empty; JSON Lines has a whole object on each line")


def test_shards_of_json_lines_with_different_keys(tmp_path: Path) -> None:
    one = jsonl(tmp_path, {"prompt": "x", "meta": {"a": 1}}, name="one.jsonl")
    two = jsonl(tmp_path, {"prompt": "y", "meta": {"b": "z"}}, name="two.jsonl")
    found = rows_of(one, two)
    assert [values(rows, "meta") for rows in found] == [[{"a": 1, "b": None}], [{"a": None, "b": "z"}]]


@pytest.mark.parametrize("name", ["m.csv.gz", "m.tsv.gz", "m.jsonl.gz", "m.ndjson.gz"])
def test_gzipped_files(tmp_path: Path, name: str) -> None:
    json_lines = '{"prompt": "x"}\n{"prompt": "y"}\n'
    path = write(tmp_path, name, json_lines if "j" in name else "prompt\nx\ny\n")
    (rows,) = rows_of(path)
    assert (rows.manifest.name, values(rows, "prompt")) == ("m", ["x", "y"])
    path.write_bytes(path.read_bytes()[:-12])
    (problem,) = problems_of(path)
    assert problem.startswith(f"{name}: can't be decompressed: ")
    path.write_bytes(b"prompt\nx\n")
    (problem,) = problems_of(path)
    assert problem.startswith(f"{name}: can't be read: Not a gzipped file")


def test_a_parquet_of_many_rows_is_refused_from_its_footer(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    rows = 2**24
    table = pa.table({"prompt": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), ["x"])})
    pq.write_table(table, path, row_group_size=rows)
    del table
    assert path.stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    (problem,) = problems_of(path)
    assert problem.startswith("m.parquet: has more than 10,000,000 rows; split it, or raise KONTEXT_MAX_ROWS")
    assert pa.total_allocated_bytes() - before < 2**20
    pq.write_table(pa.table({f"c{n}": [1] for n in range(1001)}), path)
    assert problems_of(path)[0].startswith("m.parquet: has 1,001 columns or more, and 1,000 are allowed; drop columns")


def test_the_content_of_a_parquet_is_bounded_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"prompt": pa.array(["x" * 100_000] * 1000).dictionary_encode()}), path)
    (problem,) = problems_of(path, max_bytes=2**20)
    assert problem == (
        "m.parquet: holds more than 1 MB once it is decompressed; split it, or raise KONTEXT_MAX_MANIFEST_MB"
    )


BOUNDED = """
import os, sys, tracemalloc
from pathlib import Path
from tests.planning.reading import problems_of
tracemalloc.start()
(problem,) = problems_of(Path(sys.argv[1]), max_rows=1000, max_bytes=2**20)
print(problem, tracemalloc.get_traced_memory()[1], flush=True)
# Python 3.11 crashes where tracing stops while threads of Arrow are at work.
os._exit(0)
"""


@pytest.mark.parametrize(
    ("name", "start", "block"),
    [
        ("m.csv.gz", "prompt\n", "x\n"),
        ("m.csv.gz", "prompt,label\n", "x\n"),
        ("m.csv.gz", "prompt\n", " " * 63 + "\n"),
        ("m.tsv.gz", "prompt\n", '"x\n'),
        ("m.jsonl.gz", "", " " * 63 + "\n"),
        ("m.jsonl.gz", "", '{"prompt": "x"}\n'),
    ],
)
def test_a_gzipped_bomb_is_bounded_while_it_is_decompressed(tmp_path: Path, name: str, start: str, block: str) -> None:
    path = write(tmp_path, name, start + block * (2**22 // len(block)))
    done = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, check=True)
    problem, peak = done.stdout.strip().rsplit(" ", 1)
    assert "has more than 1,000 rows" in problem or "holds more than 1 MB once it is decompressed" in problem
    assert int(peak) < 2**23


@pytest.mark.parametrize("name", ["m.csv.gz", "m.tsv.gz", "m.jsonl.gz"])
def test_a_row_without_an_end(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (delimited, json_lines):
        monkeypatch.setattr(module, "LARGEST_ROW_BYTES", 2**23)
    path = write(tmp_path, name, ("" if "json" in name else "prompt\n") + '"' + "x" * 2**25)
    (problem,) = problems_of(path)
    assert "of more than 8 MB, which is not allowed" in problem


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl"])
def test_columns_are_bounded(tmp_path: Path, name: str) -> None:
    names = ["prompt", *(f"c{n}" for n in range(1000))]
    separator = "\t" if name == "m.tsv" else ","
    text = json.dumps(dict.fromkeys(names, 1)) if name == "m.jsonl" else separator.join(names)
    (problem,) = problems_of(write(tmp_path, name, text + "\n"))
    assert problem.startswith(f"{name}: has 1,001 columns or more, and 1,000 are allowed")


def test_requested_pictures_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path, "m.csv", "prompt,variants\n" + "x,1000\n" * 11)
    assert problems_of(path, max_rows=10_000) == [
        "m.csv, column variants: requests 11,000 pictures, and 10,000 are allowed; split it, or raise KONTEXT_MAX_ROWS"
    ]
