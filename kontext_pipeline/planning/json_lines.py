"""Reading JSON Lines manifests: an object a line, whose keys are columns.

A key that has values of one kind in all lines becomes a typed column, also where the values are lists or objects. A key
with values of several kinds becomes a column of JSON text.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa

from kontext_pipeline.planning.content_stream import ContentStream
from kontext_pipeline.planning.manifest_options import ManifestOptions, TooLargeError
from kontext_pipeline.planning.portable_types import encode_json
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.raw_table import LARGEST_ROW_BYTES, RawTable
from kontext_pipeline.planning.sources import Manifest

_ROWS_AT_ONCE: Final = 8192
_BYTES_AT_ONCE: Final = 2**24
_BLOCK_BYTES: Final = 2**20
_TEXTS: Final = ("prompt", "input_image", "aspect_ratio", "output_format")
_VALUES: Final = ("id", "safety_tolerance", "seed", "variants")
_AN_OBJECT_A_LINE: Final = "JSON Lines has a whole object on each line"
_ARROW_TYPES: Final[Mapping[frozenset[type], pa.DataType]] = {
    frozenset({str}): pa.string(),
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}
_SCAN: Final[Callable[[str, int], tuple[Any, int]]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
"""Like `json.loads`, which takes twice the time of a short line."""
_NOT_CONVERTIBLE: Final = (pa.ArrowException, OverflowError, TypeError, ValueError)


def read_json_lines(manifest: Manifest, problems: FileProblems, options: ManifestOptions) -> RawTable | None:
    """Read a file of JSON Lines."""
    rows = _Rows(problems, options)
    with ContentStream(manifest.path, options) as content:
        for block in _blocks(content):
            rows.add(block)
    return rows.result()


def _blocks(content: ContentStream) -> Iterator[bytes]:
    """Yield the content in blocks of whole lines."""
    rest = (content.read(_BLOCK_BYTES) or b"").removeprefix(codecs.BOM_UTF8)
    while block := content.read(_BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        if len(rest) > LARGEST_ROW_BYTES:
            raise TooLargeError(
                f"has a line of more than {LARGEST_ROW_BYTES // 2**20} MB, which is not allowed; {_AN_OBJECT_A_LINE}"
            )
    yield rest


class _Rows:
    """The rows that were read so far: the latest ones as objects, those before as Arrow arrays."""

    def __init__(self, problems: FileProblems, options: ManifestOptions) -> None:
        self._problems = problems
        self._options = options
        self._texts = {*_TEXTS, *(options.columns[name] for name in _TEXTS if name in options.columns)}
        self._values = {*_VALUES, *(options.columns[name] for name in _VALUES if name in options.columns)}
        self._prompts = {"prompt", options.columns.get("prompt")}
        self._latest: list[dict[str, Any]] = []
        self._bytes = 0
        self._count = 0
        self._numbers: list[int] = []
        self._columns: dict[str, _Column] = {}
        self._has_bad = False

    def add(self, block: bytes) -> None:
        """Add some lines. A line that is no object of valid text is a problem."""
        lines = list(filter(None, map(bytes.strip, block.split(b"\n"))))
        self._options.check_rows(self._count + len(lines))
        has_surrogates = b"\\ud" in block or b"\\uD" in block
        for number, line in enumerate(lines, self._count + 1):
            try:
                text = line.decode()
                row, end = _SCAN(text, 0)
                if end < len(text) or type(row) is not dict or has_surrogates:
                    row = _checked_row(text)
            except _BadRowError as error:
                self._add_bad(number, str(error), error.column)
            except UnicodeDecodeError as error:
                self._add_bad(number, f"byte {error.start:,} of the line isn't UTF-8; save the file in UTF-8 encoding")
            except RecursionError:
                self._add_bad(number, "is nested too deeply")
            except (StopIteration, ValueError):
                self._add_bad(number, _fault(line.decode()))
            else:
                self._latest.append(row)
                self._numbers.append(number)
        self._count += len(lines)
        self._bytes += len(block)
        if len(self._latest) >= _ROWS_AT_ONCE or self._bytes >= _BYTES_AT_ONCE:
            self._convert()

    def _add_bad(self, number: int, text: str, column: str = "") -> None:
        self._problems.add(text, row=number, column=column)
        self._has_bad = True

    def _convert(self) -> None:
        rows, self._latest, self._bytes = self._latest, [], 0
        before = len(self._numbers) - len(rows)
        for name in dict.fromkeys(chain.from_iterable(rows)):
            if name not in self._columns:
                self._columns[name] = _Column(before)
                self._options.check_columns(len(self._columns))
        for name, column in self._columns.items():
            values = [row.get(name) for row in rows]
            if name.strip() in self._texts:
                self._check(name, values, before, _as_address if "image" in name else _no_text, {str})
            elif name.strip() in self._values:
                self._check(name, values, before, _no_text, {str, int, float, bool})
            column.add(values)

    def _check(
        self, name: str, values: list[Any], before: int, convert: Callable[[Any], str | None], allowed: set[type]
    ) -> None:
        """Replace values of other types than are `allowed` by what `convert` makes of them; none is a problem."""
        if set(map(type, values)) <= {*allowed, type(None)}:
            return
        for index, value in enumerate(values):
            if value is not None and type(value) not in allowed:
                values[index] = convert(value)
                if values[index] is None:
                    text = f"holds {quoted(encode_json(value))}, which is {_kind(value)}; text is needed"
                    self._problems.add(text, row=self._numbers[before + index], column=name)
                    # An empty prompt would be a second problem.
                    values[index] = "?" if name.strip() in self._prompts else None

    def result(self) -> RawTable | None:
        """Return the table of all rows, or None without any."""
        self._convert()
        if not self._columns:
            if not self._has_bad:
                self._problems.add(f"is empty; {_AN_OBJECT_A_LINE}, with a prompt among its keys")
            return None
        table = pa.table(
            [column.result(plain=name.strip() in self._values) for name, column in self._columns.items()],
            list(self._columns),
        )
        return RawTable(table, np.array(self._numbers, np.int64), has_bad_rows=self._has_bad)


class _Column:
    """The values of one key.

    A chunk is typed, or JSON text: of lists and objects, whose common type is known in the end, and of mixed kinds.
    """

    def __init__(self, rows_before: int) -> None:
        self._kinds: set[type] = set()
        self._chunks: list[tuple[pa.Array, bool]] = [(pa.nulls(rows_before), False)] if rows_before else []
        self._nested_types: set[pa.DataType] = set()

    def add(self, values: list[Any]) -> None:
        kinds = set(map(type, values)) - {type(None)}
        self._kinds |= kinds
        try:
            if not kinds:
                self._chunks.append((pa.nulls(len(values)), False))
                return
            if kind := _ARROW_TYPES.get(frozenset(kinds)):
                self._chunks.append((pa.array(values, kind), False))
                return
            if kinds in ({list}, {dict}):
                self._nested_types.add(pa.array(values).type)
        except _NOT_CONVERTIBLE:
            # Such as a number of more than 64 bits, or a list of numbers and strings.
            self._kinds.add(object)
        self._chunks.append((pa.array(map(encode_json, values), pa.string()), True))

    def result(self, *, plain: bool) -> pa.ChunkedArray:
        """Return the column. With `plain`, strings among values of several kinds stay without JSON's quotes."""
        try:
            return self._typed()
        except _NOT_CONVERTIBLE:
            encode: Callable[[Any], str | None] = _plain if plain else encode_json
            chunks = [
                pa.array((encode(value) for value in _values(chunk, is_json=is_json)), pa.string())
                for chunk, is_json in self._chunks
            ]
            return pa.chunked_array(chunks, pa.string())

    def _typed(self) -> pa.ChunkedArray:
        """Raise one of `_NOT_CONVERTIBLE` where the values have no common type."""
        if self._kinds in ({list}, {dict}):
            schemas = [pa.schema([("", kind)]) for kind in sorted(self._nested_types, key=str)]
            kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
            chunks = [pa.array(_values(chunk, is_json=is_json), kind) for chunk, is_json in self._chunks]
            return pa.chunked_array(chunks, kind)
        kind = _ARROW_TYPES.get(frozenset(self._kinds)) if self._kinds else pa.string()
        if kind is None:
            raise TypeError("several kinds of values")
        return pa.chunked_array([chunk.cast(kind) for chunk, _ in self._chunks], kind)


def _values(chunk: pa.Array, *, is_json: bool) -> Iterable[Any]:
    values: list[Any] = chunk.to_pylist()
    return [None if value is None else json.loads(value) for value in values] if is_json else values


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) else encode_json(value)


def _no_text(_value: Any) -> None:
    return None


def _as_address(value: Any) -> str | None:
    """Return the path of an object as datasets of Hugging Face have it, `{"bytes": null, "path": ...}`."""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"} and not value.get("bytes"):
        path = value.get("path")
        return path if isinstance(path, str) else None
    return None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "true or false"}.get(type(value), "a number")


class _BadRowError(Exception):
    def __init__(self, text: str, column: str = "") -> None:
        super().__init__(text)
        self.column = column


def _checked_row(text: str) -> dict[str, Any]:
    """Return a line's object, or raise a `_BadRowError` or ValueError if there is something else or half a character."""
    row = json.loads(text)
    if not isinstance(row, dict):
        raise _BadRowError(f"is no JSON object, but {quoted(text)}; {_AN_OBJECT_A_LINE}")
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            column = name.encode("utf-8", "backslashreplace").decode()
            said = f"holds \\u{half:04x}, half of a character; perhaps a text was cut within an emoji"
            raise _BadRowError(said, column) from None
    return row


def _fault(text: str) -> str:
    """Return why a line isn't JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"isn't JSON ({error.msg} at character {error.pos + 1} of the line); {_AN_OBJECT_A_LINE}"
    except ValueError as error:
        return f"can't be read: {error}"
    return "isn't JSON"
