"""All problems of manifests are reported together, each with its location and what is allowed."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from kontext_pipeline.planning.problems import ManifestProblems, quoted


def problems_of(*patterns: Path | str) -> list[str]:
    """Return the problems of manifests, without the folder that they are in."""
    with pytest.raises(ManifestError) as caught:
        read_rows(read_manifests(patterns), {})
    return [line.removeprefix(f"{Path(patterns[0]).parent}/") for line in caught.value.problems]


def csv(folder: Path, text: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("aspect_ratio", "16x9", "'16x9' is not allowed; allowed: match_input_image, 1:1, 16:9, 9:16"),
        ("output_format", "webp", "'webp' is not allowed; allowed: png, jpg"),
        ("safety_tolerance", "0", "'0' is not allowed; allowed: whole numbers from 1 to 6"),
        ("safety_tolerance", "7", "'7' is not allowed; allowed: whole numbers from 1 to 6"),
        ("safety_tolerance", "2.5", "'2.5' is not allowed; allowed: whole numbers from 1 to 6"),
        ("seed", "-1", "'-1' is not allowed; allowed: whole numbers from 0 to 4294967295"),
        ("seed", "4294967296", "'4294967296' is not allowed"),
        ("seed", "9" * 40, "'9999"),
        ("seed", "1.23E+09", "'1.23E+09' is not allowed"),
        ("seed", "12 345", "'12 345' is not allowed"),
        ("variants", "0", "'0' is not allowed; allowed: whole numbers from 1 to 1000"),
        ("variants", "1001", "'1001' is not allowed; allowed: whole numbers from 1 to 1000"),
        ("variants", "two", "'two' is not allowed"),
        ("input_image", "mailto:a@example.org", "'mailto:a@example.org': is not allowed; allowed: a whole http://"),
        ("input_image", "nosuch://bucket/a.png", "nosuch:// is not known; allowed: a whole http://"),
        ("input_image", "git:///etc/a.png", "git:// is not known"),
        ("input_image", "memory://a::file:///etc/a.png", "a URL within a URL (::) is not allowed"),
        ("input_image", "file://a.png", "file:// must be followed by an absolute path, as in file:///data/a.png"),
        ("input_image", "https://", "'https://': is not allowed"),
        ("input_image", "https://example.org/my photo.png", "without spaces"),
        ("input_image", "missing.png", "'missing.png': no file is there ("),
        ("input_image", "m.csv/a.png", "'m.csv/a.png': no file is there ("),
        ("input_image", ".", "'.': is a folder or a device, not a file"),
        ("input_image", "m.csv", "'m.csv': the file is no picture of a known format (JPEG, PNG"),
        (
            "input_image",
            "data:text/plain;base64,eHh4eA==",
            "a data URI must be data:image/<format>;base64,<data>",
        ),
        ("input_image", "data:image/png;base64,?", "the base64 data of the URI is broken"),
        (
            "input_image",
            "data:image/png;base64,eHh4eA==",
            "the data of the URI is no picture of a known format",
        ),
        ("id", "a\tb", "holds a control character; remove it"),
    ],
)
def test_a_cell_that_is_not_allowed(tmp_path: Path, column: str, value: str, said: str) -> None:
    path = csv(tmp_path, f'prompt,{column}\na cat,\na dog,"{value}"\n')
    (problem,) = problems_of(path)
    assert problem.startswith(f"m.csv, row 2, column {column}: {said}") or said in problem
    assert problem.startswith(f"m.csv, row 2, column {column}: ")


@pytest.mark.parametrize("prompt", ["", "   ", '" \t "'])
def test_an_empty_prompt(tmp_path: Path, prompt: str) -> None:
    assert problems_of(csv(tmp_path, f"prompt,seed\na cat,1\n{prompt},2\n")) == [
        "m.csv, row 2, column prompt: is empty; every row needs a prompt"
    ]


def test_a_prompt_with_a_nul(tmp_path: Path) -> None:
    assert problems_of(csv(tmp_path, b"prompt\na\0cat\n")) == [
        "m.csv, row 1, column prompt: holds a NUL character; remove it"
    ]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("promt,seed", "; if 'promt' holds the prompts, say so with --column prompt=promt or KONTEXT_COLUMNS"),
        ("Prompt,seed", "; if 'Prompt' holds the prompts, say so with --column prompt=Prompt or KONTEXT_COLUMNS"),
        ("Edit Prompts,seed", "; name the column that holds the prompts with --column prompt=NAME or KONTEXT_COLUMNS"),
        ("Caption,seed", "; if 'Caption' holds the prompts, say so with --column prompt=Caption or KONTEXT_COLUMNS"),
        ("the prompt,seed", "--column 'prompt=the prompt' or KONTEXT_COLUMNS"),
        ("picture,seed", "; name the column that holds the prompts with --column prompt=NAME or KONTEXT_COLUMNS"),
    ],
)
def test_a_missing_prompt_column(tmp_path: Path, header: str, hint: str) -> None:
    (problem,) = problems_of(csv(tmp_path, f"{header}\nx,1\n"))
    assert problem.startswith("m.csv, column prompt: is missing; every manifest needs it (columns here: ")
    assert problem.partition("'seed')")[2].endswith(hint)


def test_a_table_with_another_separator(tmp_path: Path) -> None:
    (problem,) = problems_of(csv(tmp_path, "prompt;seed\nx;1\n"))
    assert "separated by something else than commas" in problem


def test_all_problems_come_together_ordered_by_file_and_row(tmp_path: Path) -> None:
    first = csv(tmp_path, "prompt,seed,output_format\nx,a,gif\n,1,\ny,b,\n", "first.csv")
    second = csv(tmp_path, "prompt,variants\nx,0\n", "second.csv")
    locations = [problem.split(": ")[0] for problem in problems_of(first, second)]
    assert [one.removeprefix(f"{tmp_path}/") for one in locations] == [
        "first.csv, row 1, column output_format",
        "first.csv, row 1, column seed",
        "first.csv, row 2, column prompt",
        "first.csv, row 3, column seed",
        "second.csv, row 1, column variants",
    ]


def test_a_missing_file_does_not_hide_the_problems_of_the_others(tmp_path: Path) -> None:
    there = csv(tmp_path, "prompt,seed\nx,a\n")
    problems = problems_of(there, tmp_path / "gone.csv", f"{tmp_path}/*.parquet", tmp_path / "notes.txt", tmp_path)
    assert problems == [
        "m.csv, row 1, column seed: 'a' is not allowed; allowed: whole numbers from 0 to 4294967295",
        "gone.csv: there is no such file",
        "*.parquet: no file matches this glob",
        "notes.txt: there is no such file",
        f"{tmp_path}: is a folder; name its files, as in {tmp_path}/*.csv",
    ]


def test_an_unknown_file_type(tmp_path: Path) -> None:
    assert problems_of(csv(tmp_path, "prompt\nx\n", "m.xlsx")) == [
        "m.xlsx: unknown file type '.xlsx'; allowed: .csv, .tsv, .jsonl, .ndjson, .csv.gz, .tsv.gz, .jsonl.gz, "
        ".ndjson.gz, .parquet, .toml"
    ]
    (problem,) = problems_of(csv(tmp_path, "", "m.parquet.gz"))
    assert problem.startswith("m.parquet.gz: unknown file type '.parquet.gz'; allowed: ")


def test_no_manifest_at_all() -> None:
    with pytest.raises(ManifestError, match="none is given"):
        read_manifests([])


def test_a_url_that_nobody_can_open() -> None:
    (problem,) = problems_of("nosuch://bucket/m.csv")
    assert problem.startswith("nosuch://bucket/m.csv: ")


def test_two_manifests_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = csv(tmp_path, "prompt\nx\n"), csv(tmp_path / "other", "prompt\ny\n", "M.csv")
    (problem,) = problems_of(one, two)
    assert "has the same name (m) as" in problem


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    path = csv(tmp_path, "prompt\nx\n")
    assert [
        manifest.name for manifest in read_manifests([path, f"{tmp_path}/*.csv", tmp_path / "x" / ".." / "m.csv"])
    ] == ["m"]


def test_only_the_first_problems_are_put_into_words(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,seed\n" + "x,a\n" * 1000 + ",1\n")
    with pytest.raises(ManifestError) as caught:
        read_rows(read_manifests([path]), {})
    assert len(caught.value.problems) == 100
    assert caught.value.more == 901
    assert "row 100, " in caught.value.problems[-1]
    assert str(caught.value).endswith("... and 901 more")


def test_an_id_given_twice_names_both_locations(tmp_path: Path) -> None:
    one = csv(tmp_path, "prompt,id\nx,a\ny,\nz,\nw, b \n", "one.csv")
    two = csv(tmp_path, "prompt,id\nx,c\ny,b\nz,c\n", "two.csv")
    problems = [problem.replace(f"{tmp_path}/", "") for problem in problems_of(one, two)]
    assert problems == [
        "two.csv, row 2, column id: 'b' is the id of one.csv, row 4 already; an id may be given once",
        "two.csv, row 3, column id: 'c' is the id of two.csv, row 1 already; an id may be given once",
    ]


def test_rows_of_uneven_length_do_not_shift_the_numbers_of_others(tmp_path: Path) -> None:
    path = csv(tmp_path, 'prompt,seed\n"a\nb",1\nx,1,2\n\ny\nz,q\n')
    assert [problem.split(";")[0] for problem in problems_of(path)] == [
        "m.csv, row 2: has 3 values where the header has 2 columns",
        "m.csv, row 3: has 1 values where the header has 2 columns",
        "m.csv, row 4, column seed: 'q' is not allowed",
    ]


def test_rows_are_counted_across_blocks_of_a_large_file(tmp_path: Path) -> None:
    good = "x" * 996 + ",1\n"
    path = csv(tmp_path, "prompt,seed\n" + good * 20_000 + "x\n" + good * 10_000 + "y,q\n")
    assert [problem.split(":")[0] for problem in problems_of(path)] == [
        "m.csv, row 20001",
        "m.csv, row 30002, column seed",
    ]


@pytest.mark.parametrize(
    ("content", "location"),
    [
        (
            b'prompt,label\nx,1\n"a\n""b"" c",ok\n\nz,caf\xe9\n',
            "m.csv, row 3, column number 2: byte 38 of the file (0xe9)",
        ),
        (
            b"\xef\xbb\xbfprompt\na\xed\xa0\x80b\n",
            "m.csv, row 1, column number 1: byte 11 of the file (0xed)",
        ),
        (b"pr\xffompt\nx\n", "m.csv, column number 1: byte 2 of the file (0xff)"),
        ("prompt\nx\n".encode("utf-16"), "m.csv, column number 1: byte 0 of the file (0xff)"),
    ],
)
def test_bytes_that_are_not_utf_8(tmp_path: Path, content: bytes, location: str) -> None:
    (problem,) = problems_of(csv(tmp_path, content))
    assert problem.startswith(location)
    assert problem.endswith("isn't UTF-8; save the file as CSV in UTF-8 encoding")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "m.csv: is empty; its first line must name the columns, prompt among them"),
        ("\n\n", "m.csv: is empty; its first line must name the columns, prompt among them"),
        ("prompt,seed\n", "m.csv: has no rows"),
        ("prompt,seed\n,\n,\n", "m.csv: has no rows"),
    ],
)
def test_a_manifest_with_nothing_in_it(tmp_path: Path, content: str, said: str) -> None:
    assert problems_of(csv(tmp_path, content)) == [said]


def test_an_unclosed_quote(tmp_path: Path) -> None:
    said = "a double quote opens here and is never closed"
    (problem,) = problems_of(csv(tmp_path, 'prompt,seed\nw,1\n"x,1\ny,2\n'))
    assert problem == f"m.csv, row 2: has 1 values where the header has 2 columns; {said}"
    (problem,) = problems_of(csv(tmp_path, 'seed,prompt\n1,"w\nv"\n1,"x\n2,y\n'))
    assert problem == f"m.csv, row 2: {said}"


def test_columns_of_the_same_name(tmp_path: Path) -> None:
    assert problems_of(csv(tmp_path, "prompt,label, label,prompt\nx,1,2,y\n")) == [
        "m.csv, column label: there are 2 columns of this name",
        "m.csv, column prompt: there are 2 columns of this name",
    ]
    table = pa.table([pa.array(["x"]), pa.array(["y"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "p.parquet")
    assert problems_of(tmp_path / "p.parquet") == ["p.parquet, column prompt: there are 2 columns of this name"]


@pytest.mark.parametrize("name", ["fingerprint", "batch", "row", "manifest", "cost_usd", "input_sha256", "width"])
def test_a_column_that_the_metadata_table_has(tmp_path: Path, name: str) -> None:
    assert problems_of(csv(tmp_path, f"prompt,{name}\nx,1\n")) == [
        f"m.csv, column {name}: the metadata table has a column of this name; rename it"
    ]


def test_a_column_that_the_metadata_table_has_and_was_meant_otherwise(tmp_path: Path) -> None:
    (problem,) = problems_of(csv(tmp_path, "prompt,variant\nx,1\n"))
    assert problem.endswith("rename it; did you mean variants?")


def test_files_that_are_not_what_their_names_say(tmp_path: Path) -> None:
    assert problems_of(csv(tmp_path, "prompt\nx\n", "m.parquet"))[0].startswith("m.parquet: can't be read as Parquet: ")


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("prompt", pa.array([1]), "column prompt: holds int64; text is needed"),
        (
            "prompt",
            pa.array([b"\xff"], pa.binary()),
            "column prompt: holds binary that can't be read as UTF-8 text",
        ),
        ("seed", pa.array([[1]]), "column seed: holds list<element: int64>; whole numbers are needed"),
        ("seed", pa.array([1.5]), "row 1, column seed: 1.5 is not allowed; allowed: whole numbers"),
        ("seed", pa.array([float("inf")]), "row 1, column seed: inf is not allowed"),
        (
            "seed",
            pa.array([2**64 - 1], pa.uint64()),
            "row 1, column seed: 18446744073709551615 is not allowed",
        ),
        ("variants", pa.array([True]), "row 1, column variants: True is not allowed"),
        ("input_image", pa.array([{"bytes": b"x"}]), "row 1, column input_image: the value is no picture"),
        ("id", pa.array([1.5]), "column id: holds double with a fraction"),
    ],
)
def test_parquet_columns_that_hold_something_else(tmp_path: Path, column: str, values: pa.Array, said: str) -> None:
    pq.write_table(pa.table({"prompt": ["x"], column: values}), tmp_path / "m.parquet")
    (problem,) = problems_of(tmp_path / "m.parquet")
    assert problem.replace("'", "").startswith("m.parquet, " + said.replace("'", ""))


def test_a_parquet_string_that_is_not_utf_8(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"a\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": ["x"], "label": broken}), tmp_path / "m.parquet")
    (problem,) = problems_of(tmp_path / "m.parquet")
    assert problem.startswith("m.parquet, column label: isn't valid: ")


def test_own_columns_of_one_name_and_two_types(tmp_path: Path) -> None:
    one = csv(tmp_path, "prompt,label\nx,001\n", "one.csv")
    pq.write_table(pa.table({"prompt": ["x"], "label": [1]}), tmp_path / "two.parquet")
    (problem,) = problems_of(one, tmp_path / "two.parquet")
    assert problem.startswith("two.parquet, column label: holds int64, and string in ")
    assert "one.csv; manifests that are used together need the same type" in problem


def test_a_picture_that_can_not_be_read(tmp_path: Path, make_picture: Callable[[Path], Path]) -> None:
    make_picture(tmp_path / "good.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    path = csv(tmp_path, "prompt,input_image\nx,good.png\ny,loop.png\n")
    (problem,) = problems_of(path)
    assert problem.startswith("m.csv, row 2, column input_image: 'loop.png': can't be read: ")


def test_names_of_files_and_columns_stay_on_one_line_and_steer_nothing() -> None:
    problems = ManifestProblems()
    problems.of("a\x1b]0;x\x07\nb.csv", 0).add("is wrong", row=3, column="c\x9b2J\u202e")
    with pytest.raises(ManifestError) as raised:
        problems.raise_if_any()
    assert raised.value.problems == ["a\\u001b]0;x\\u0007\\nb.csv, row 3, column c\\u009b2J\\u202e: is wrong"]
    assert quoted("a\x1b\u202e\nb") == r"'a\x1b\u202e\nb'"
