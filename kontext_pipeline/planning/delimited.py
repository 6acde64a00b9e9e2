"""Reading CSV and TSV manifests. All columns are strings; `""` and a missing value are the same.

A double quote at the start of a CSV value opens a quoted one. In TSV that depends on the program that wrote the file:
some quote values as CSV does, others write quotes as they are. The whole file shows which it was.
"""

import codecs
import contextlib
import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from kontext_pipeline.planning.cells import each_chunk, matches
from kontext_pipeline.planning.content_stream import ContentStream
from kontext_pipeline.planning.manifest_options import ManifestOptions, TooLargeError
from kontext_pipeline.planning.problems import MOST_SHOWN, FileProblems
from kontext_pipeline.planning.raw_table import LARGEST_ROW_BYTES, RawTable
from kontext_pipeline.planning.sources import Manifest

_BLOCK_BYTES: Final = 2**20
_UNCLOSED_QUOTE: Final = "a double quote opens here and is never closed"
_QUOTED: Final = '^"(?:[^"]|"")*"$'


@dataclass(slots=True)
class _Parsed:
    """A parsed file: its rows, the numbers of those with too few or too many values, and the first of these."""

    table: pa.Table
    quotes: bool
    last_byte: bytes
    bad_numbers: list[int] = field(default_factory=list)
    bad_rows: list[pa_csv.InvalidRow] = field(default_factory=list)

    @property
    def ends_in_open_quote(self) -> bool:
        """Whether an unclosed quote has made the rest of the file into the last cell."""
        last = self.table.columns[-1][-1].as_py() if self.table.num_rows else ""
        # A cell with a line break is in quotes. If it is the last one, its closing quote ends the file.
        return self.quotes and ("\n" in last or "\r" in last) and self.last_byte != b'"'


def read_csv(manifest: Manifest, problems: FileProblems, options: ManifestOptions) -> RawTable | None:
    """Read a file of values that are separated by commas."""
    return _read(manifest, problems, options, ",")


def read_tsv(manifest: Manifest, problems: FileProblems, options: ManifestOptions) -> RawTable | None:
    """Read a file of values that are separated by tabs."""
    return _read(manifest, problems, options, "\t")


def _read(manifest: Manifest, problems: FileProblems, options: ManifestOptions, separator: str) -> RawTable | None:
    kind = "CSV" if separator == "," else "TSV"
    try:
        parse = _parsed_csv if separator == "," else _parsed_tsv
        parsed = parse(manifest, options)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
            _add_undecodable(manifest, problems, options, separator)
        elif "Empty CSV file" in str(error):
            problems.add("is empty; its first line must name the columns, prompt among them")
        else:
            problems.add(f"can't be read as {kind}: {error}")
        return None
    bad = parsed.bad_numbers
    problems.add_rows(bad, lambda index: _uneven(parsed.bad_rows[index], separator))
    numbers = np.arange(1, parsed.table.num_rows + len(bad) + 1, dtype=np.int64)
    numbers = np.delete(numbers, np.array(bad, np.int64) - 1)
    if parsed.ends_in_open_quote:
        problems.add(_UNCLOSED_QUOTE, row=int(numbers[-1]))
    return RawTable(parsed.table, numbers, has_bad_rows=bool(bad))


def _parsed_csv(manifest: Manifest, options: ManifestOptions) -> _Parsed:
    return _parsed(manifest, options, ",", quotes=True)


def _parsed_tsv(manifest: Manifest, options: ManifestOptions) -> _Parsed:
    """Return the values of a TSV, without quotes where the program that wrote it quotes as CSV does."""
    plain = _parsed(manifest, options, "\t", quotes=False)
    if not plain.bad_numbers:
        if _is_quoted(plain.table):
            plain.table = _unquoted(plain.table)
        return plain
    # A line break or a tab in quotes makes uneven lines.
    with contextlib.suppress(pa.ArrowInvalid, TooLargeError):
        quoted = _parsed(manifest, options, "\t", quotes=True)
        if not quoted.bad_numbers and not quoted.ends_in_open_quote:
            return quoted
    return plain


def _is_quoted(table: pa.Table) -> bool:
    """Return whether there are quotes, and every value that has any is one that CSV quotes.

    A program that quotes would not have written a bare quote.
    """
    found = False
    for values in (pa.chunked_array([pa.array(table.column_names)]), *table.columns):
        with_quotes = values.filter(pc.match_substring(values, '"'))
        if len(with_quotes):
            found = True
            if not pc.all(matches(with_quotes, _QUOTED)).as_py():
                return False
    return found


def _unquoted(table: pa.Table) -> pa.Table:
    def without_quotes(values: pa.Array) -> pa.Array:
        inner = pc.replace_substring(pc.utf8_slice_codeunits(values, 1, -1), '""', '"')
        return pc.if_else(pc.match_substring(values, '"'), inner, values)

    names = without_quotes(pa.array(table.column_names, pa.string())).to_pylist()
    return pa.table([each_chunk(without_quotes, column) for column in table.columns], names)


def _parsed(
    manifest: Manifest, options: ManifestOptions, separator: str, *, quotes: bool, block: int = _BLOCK_BYTES
) -> _Parsed:
    bad_numbers: list[int] = []
    bad_rows: list[pa_csv.InvalidRow] = []

    def open_csv(content: ContentStream, types: dict[str, pa.DataType], on_bad_row: Callable[[Any], str]) -> Any:
        return pa_csv.open_csv(
            content,
            # With several threads, rows are not read in order and have no numbers.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=block),
            parse_options=pa_csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quotes else False,
                double_quote=quotes,
                newlines_in_values=quotes,
                invalid_row_handler=on_bad_row,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=False, quoted_strings_can_be_null=False
            ),
        )

    def skip(row: pa_csv.InvalidRow) -> str:
        bad_numbers.append(row.number - 1)
        if len(bad_rows) < MOST_SHOWN:
            bad_rows.append(row)
        return "skip" if len(bad_numbers) <= options.max_rows else "error"

    try:
        with ContentStream(manifest.path, options) as content:
            options.check_columns(_columns_at_least(content, separator))
        with ContentStream(manifest.path, options) as content, open_csv(content, {}, lambda _: "skip") as reader:
            names = reader.schema.names
        options.check_columns(len(names))
        batches, rows = [], 0
        with (
            ContentStream(manifest.path, options) as content,
            open_csv(content, dict.fromkeys(names, pa.string()), skip) as reader,
        ):
            for batch in reader:
                rows += batch.num_rows
                options.check_rows(rows + len(bad_numbers))
                batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
            return _Parsed(table, quotes, content.last_byte, bad_numbers, bad_rows)
    except pa.ArrowInvalid as error:
        options.check_rows(len(bad_numbers))
        if "straddling object" not in str(error):
            raise
    if block >= LARGEST_ROW_BYTES:
        raise TooLargeError(
            f"has a row of more than {LARGEST_ROW_BYTES // 2**20} MB, which is not allowed; perhaps a double quote is "
            "never closed"
        )
    # A cell is larger than a block.
    return _parsed(manifest, options, separator, quotes=quotes, block=8 * block)


def _columns_at_least(content: ContentStream, separator: str) -> int:
    """Return the columns of the header, as far as the first block has it. Arrow would make a builder for each."""
    start = content.read(_BLOCK_BYTES) or b""
    with contextlib.suppress(csv.Error):
        header = csv.reader(io.StringIO(start.decode(errors="replace")), delimiter=separator)
        return len(next(header, []))
    return 0


def _uneven(row: pa_csv.InvalidRow, separator: str) -> str:
    has = f"has {row.actual_columns} values where the header has {row.expected_columns} columns; "
    if separator == "\t":
        return has + "a value can't have a tab or a line break in it, unless the whole file quotes values as CSV does"
    if row.text.count('"') % 2:
        return has + _UNCLOSED_QUOTE
    return has + "a value with a comma or a line break in it must be in double quotes"


def _add_undecodable(manifest: Manifest, problems: FileProblems, options: ManifestOptions, separator: str) -> None:
    """Add where the first bytes are that aren't UTF-8."""
    position, row, record, quotes = 0, 0, b"", 0
    with io.BufferedReader(ContentStream(manifest.path, options), _BLOCK_BYTES) as content:
        while line := content.readline(LARGEST_ROW_BYTES):
            if position == 0 and line.startswith(codecs.BOM_UTF8):
                position, line = len(codecs.BOM_UTF8), line[len(codecs.BOM_UTF8) :]
            try:
                line.decode()
                good = line
            except UnicodeDecodeError as error:
                good = line[: error.start]
            for part in good.splitlines(keepends=True):
                record += part
                quotes += part.count(b'"') if separator == "," else 0
                if quotes % 2 == 0 and part.endswith((b"\n", b"\r")):
                    row += bool(record.strip())
                    record, quotes = b"", 0
            position += len(good)
            if good is not line:
                cells = record.split(b'"')[::2] if separator == "," else [record]
                column = 1 + sum(part.count(separator.encode()) for part in cells)
                kind = "CSV" if separator == "," else "TSV"
                text = (
                    f"byte {position:,} of the file (0x{line[len(good)]:02x}) isn't UTF-8; save the file as {kind} in "
                    "UTF-8 encoding"
                )
                problems.add(text, row=row, column=f"number {column}")
                return
    problems.add("isn't UTF-8 text")
