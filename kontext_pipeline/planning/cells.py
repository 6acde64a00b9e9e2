"""What the cells of a manifest say: Arrow columns of any kind made into text, choices and whole numbers.

Everything works on whole columns and knows neither files nor messages: each function returns the values
and where it could not make sense of them. "Not given" is null, whatever the file wrote for it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

_INT64_DIGITS: Final = 18
_EXACT_IN_FLOAT64: Final = 2**53


class UnreadableColumnError(Exception):
    """The column's type can't hold what is asked of it; its text says what it holds."""


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column without its encoding: dictionaries and runs spelled out, values untouched."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_run_end_encoded(column.type):
        return each_chunk(pc.run_end_decode, column)
    return column


def each_chunk(function: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Apply `function` chunk by chunk, so that what it makes on the way is never as large as the column."""
    if column.num_chunks == 0:
        return pa.chunked_array([function(pa.array([], column.type))])
    return pa.chunked_array([function(chunk) for chunk in column.chunks])


def text(column: pa.ChunkedArray, *, trim: bool) -> pa.ChunkedArray:
    """Return the column as strings, blank ones null; with `trim`, without surrounding white space.

    Raises `UnreadableColumnError` when the column holds neither text nor nothing.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind) and column.null_count + _count(pc.is_nan(column)) == len(column):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    if not _holds_text(kind):
        raise UnreadableColumnError(f"holds {kind}; text is needed")
    try:
        column = column.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise UnreadableColumnError(f"holds {kind} that can't be read as UTF-8 text") from error

    def without_blanks(chunk: pa.Array) -> pa.Array:
        blank = pc.or_(pc.equal(pc.binary_length(chunk), 0), pc.utf8_is_space(chunk))
        kept = pc.utf8_trim_whitespace(chunk) if trim else chunk
        return pc.if_else(blank, pa.scalar(None, pa.string()), kept) if pc.any(blank).as_py() else kept

    return each_chunk(without_blanks, column)


def names(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as ids: trimmed text, or whole numbers written without a fraction.

    Raises `UnreadableColumnError` when they are neither.
    """
    column = plain(column)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        try:
            return column.cast(pa.int64()).cast(pa.string())
        except pa.ArrowInvalid as error:
            raise UnreadableColumnError(
                f"holds {column.type} with a fraction; text or whole numbers are needed"
            ) from error
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    return text(column, trim=True)


def choices(column: pa.ChunkedArray, spellings: Mapping[str, str]) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the column with each value replaced by what `spellings` says, and where it has no such value.

    Case and surrounding white space don't matter. Both columns are as long as the given one.
    """
    given = each_chunk(pc.utf8_lower, text(column, trim=True))
    known = pa.array(list(spellings), pa.string())
    meant = pa.array(list(spellings.values()), pa.string())
    index = pc.index_in(given, value_set=known)
    bad = pc.and_(pc.is_valid(given), pc.is_null(index))
    return _chunked(meant.take(_one_chunk(index))), bad


def whole_numbers(column: pa.ChunkedArray, allowed: range) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the column as int64, and where its value is no whole number in `allowed`.

    A whole number may have arrived as 3.0; NaN and blank text are null. Raises `UnreadableColumnError`
    when the column's type has no numbers in it.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.int64()), pa.chunked_array([pa.array([False] * len(column), pa.bool_())])
    if pa.types.is_integer(kind):
        bad = (
            pc.greater(column, pa.scalar(2**63 - 1, kind)) if pa.types.is_uint64(kind) else pc.is_null(column)
        )
        number = column.cast(pa.int64(), safe=False)
        bad = pc.and_(bad, pc.is_valid(column))
    elif pa.types.is_floating(kind):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), _EXACT_IN_FLOAT64))
        bad = pc.invert(pc.fill_null(whole, True))
        number = pc.if_else(bad, pa.scalar(None, pa.float64()), column).cast(pa.int64())
    else:
        number, bad = _parsed(column)
    outside = pc.or_(pc.less(number, allowed.start), pc.greater_equal(number, allowed.stop))
    return number, pc.or_(bad, pc.fill_null(outside, False))


def _parsed(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    if not _holds_text(column.type):
        if not (pa.types.is_decimal(column.type) or pa.types.is_boolean(column.type)):
            raise UnreadableColumnError(f"holds {column.type}; whole numbers are needed")
        column = column.cast(pa.string())
    given = text(column, trim=True)
    not_given = pc.match_substring_regex(given, "^(?i:nan|<na>)$")
    given = pc.if_else(not_given, pa.scalar(None, pa.string()), given)
    reads = pc.match_substring_regex(given, rf"^[+-]?0*[0-9]{{1,{_INT64_DIGITS}}}(\.0*)?$")
    digits = pc.replace_substring_regex(given, r"^\+?(-?)0*([0-9]+?)(\.0*)?$", r"\1\2")
    number = pc.if_else(reads, digits, pa.scalar(None, pa.string())).cast(pa.int64())
    return number, pc.fill_null(pc.invert(reads), False)


def _holds_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _chunked(array: Any) -> pa.ChunkedArray:
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
