"""Reading a manifest's file into a table, one reader for each file type.

A reader takes the values as the file has them: text from CSV, typed columns from Parquet. Which columns there are
and what their values mean is checked later.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from kontext_pipeline.planning.problems import FileProblems
from kontext_pipeline.planning.sources import Manifest

_BLOCK_BYTES: Final = 2**20
_LARGEST_BLOCK_BYTES: Final = 2**30
_UNCLOSED_QUOTE: Final = "a double quote opens here and is never closed"


@dataclass(slots=True)
class RawTable:
    """The content of a manifest's file. Names of columns may be blank or there more than once.

    `numbers` has the number of each row in the file, from 1, without the header and blank lines. With `has_bad_rows`,
    rows are missing because they can't be read, and are problems already.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    has_bad_rows: bool = False


def read_table(manifest: Manifest, problems: FileProblems) -> RawTable | None:
    """Return the content of the file, or None where it can't be read, which is a problem."""
    try:
        return READERS[manifest.path.suffix.lower()](manifest, problems)
    except OSError as error:
        problems.add(f"can't be read: {error.strerror or error}")
        return None


def _read_parquet(manifest: Manifest, problems: FileProblems) -> RawTable | None:
    try:
        with pq.ParquetFile(manifest.for_arrow()) as file:
            table = file.read()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        problems.add(f"can't be read as Parquet: {error}")
        return None
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            problems.add(f"isn't valid: {error}", column=name)
            return None
    return RawTable(table, np.arange(1, table.num_rows + 1, dtype=np.int64))


def _read_csv(manifest: Manifest, problems: FileProblems) -> RawTable | None:
    try:
        table, bad_rows = _parsed_csv(manifest)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            _add_undecodable(manifest, problems)
        elif "Empty CSV file" in str(error):
            problems.add("is empty; its first line must name the columns, prompt among them")
        else:
            problems.add(f"can't be read as CSV: {error}")
        return None
    bad_numbers = [row.number - 1 for row in bad_rows]
    problems.add_rows(bad_numbers, lambda index: _uneven(bad_rows[index]))
    numbers = np.arange(1, table.num_rows + len(bad_rows) + 1, dtype=np.int64)
    numbers = np.delete(numbers, np.array(bad_numbers, np.int64) - 1)
    if _ends_in_open_quote(manifest, table):
        problems.add(_UNCLOSED_QUOTE, row=int(numbers[-1]))
    return RawTable(table, numbers, has_bad_rows=bool(bad_rows))


def _parsed_csv(manifest: Manifest, block: int = _BLOCK_BYTES) -> tuple[pa.Table, list[pa_csv.InvalidRow]]:
    """Return all columns as strings, and the rows with too few or too many values."""
    bad_rows: list[pa_csv.InvalidRow] = []

    def open_csv(types: dict[str, pa.DataType], on_bad_row: Callable[[Any], str]) -> Any:
        return pa_csv.open_csv(
            manifest.for_arrow(),
            # With several threads, rows are not read in order and have no numbers.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=block),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_bad_row),
            convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )

    def skip(row: pa_csv.InvalidRow) -> str:
        bad_rows.append(row)
        return "skip"

    try:
        with open_csv({}, lambda _: "skip") as reader:
            names = reader.schema.names
        with open_csv(dict.fromkeys(names, pa.string()), skip) as reader:
            return reader.read_all(), bad_rows
    except pa.ArrowInvalid as error:
        if "straddling object" not in str(error) or block >= _LARGEST_BLOCK_BYTES:
            raise
    # A cell is larger than a block.
    return _parsed_csv(manifest, 8 * block)


def _uneven(row: pa_csv.InvalidRow) -> str:
    has = f"has {row.actual_columns} values where the header has {row.expected_columns} columns; "
    if row.text.count('"') % 2:
        return has + _UNCLOSED_QUOTE
    return has + "a value with a comma or a line break in it must be in double quotes"


def _ends_in_open_quote(manifest: Manifest, table: pa.Table) -> bool:
    """Return whether an unclosed quote has made the rest of the file into the last cell."""
    last = table.columns[-1][-1].as_py() if table.num_rows else ""
    if "\n" not in last and "\r" not in last:
        return False
    # A cell with a line break is in quotes. If it is the last one, its closing quote ends the file.
    with manifest.path.open("rb") as file:
        file.seek(max(0, manifest.size - _BLOCK_BYTES))
        return not file.read().rstrip().endswith(b'"')


def _add_undecodable(manifest: Manifest, problems: FileProblems) -> None:
    """Add where the first bytes are that aren't UTF-8."""
    content = manifest.path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        start = error.start
        row, column = _cell_after(content[:start].removeprefix(codecs.BOM_UTF8))
        text = (
            f"byte {start:,} of the file (0x{content[start]:02x}) isn't UTF-8; save the file as CSV in UTF-8 encoding"
        )
        problems.add(text, row=row, column=f"number {column}")
    else:
        problems.add("isn't UTF-8 text")


def _cell_after(before: bytes) -> tuple[int, int]:
    """Return the row (0: the header) and the column (from 1) of the byte after `before` in a CSV file."""
    row, record, quotes = 0, b"", 0
    for line in before.splitlines(keepends=True):
        record += line
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith((b"\n", b"\r")):
            row += bool(record.strip())
            record, quotes = b"", 0
    return row, 1 + sum(part.count(b",") for part in record.split(b'"')[::2])


def _read_recipe(manifest: Manifest, problems: FileProblems) -> RawTable | None:
    # Only a recipe needs jinja2.
    from kontext_pipeline.planning.recipes.recipe_reader import expand

    def read(table: Manifest, its_problems: FileProblems) -> pa.Table | None:
        raw = read_table(table, its_problems)
        return None if raw is None else raw.table

    rows = expand(manifest, tuple(READERS), read, problems)
    return None if rows is None else RawTable(rows, np.arange(1, rows.num_rows + 1, dtype=np.int64))


READERS: Final = {".csv": _read_csv, ".parquet": _read_parquet, ".toml": _read_recipe}
"""The reader for each file type, by its extension."""
