"""The values of a manifest's cells: columns of any type, read as text, choices or whole numbers.

These functions know neither files nor messages. Each returns the values of a whole column, and where it has none
that is allowed. A value that is not given is null in the result, however the file has it.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_INT64_DIGITS: Final = 18


class UnreadableColumnError(Exception):
    """The column has an unsuitable type. The text of the error says which."""


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column without dictionary or run-end encoding; the values are the same."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_run_end_encoded(column.type):
        return each_chunk(pc.run_end_decode, column)
    return column


def each_chunk(function: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Apply `function` to each chunk, so that intermediate arrays are small."""
    return pa.chunked_array([function(chunk) for chunk in column.chunks or [pa.array([], column.type)]])


def text(column: pa.ChunkedArray, *, trim: bool) -> pa.ChunkedArray:
    """Return the column as strings, blank ones as null; with `trim`, without surrounding white space.

    Raises:
        UnreadableColumnError: The column has values that aren't text.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind) and pc.all(pc.is_null(column, nan_is_null=True)).as_py():
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


def ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as ids: trimmed text, or whole numbers as text.

    Raises:
        UnreadableColumnError: The column has other values.
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
    """Return the column with each value replaced as `spellings` says, and a mask of the values it doesn't have.

    Ignores case and surrounding white space.

    Raises:
        UnreadableColumnError: The column has values that aren't text.
    """
    given = each_chunk(pc.utf8_lower, text(column, trim=True))
    known = pa.array(list(spellings), pa.string())
    meant = pa.array(list(spellings.values()), pa.string())
    values = each_chunk(lambda chunk: meant.take(pc.index_in(chunk, value_set=known)), given)
    return values, pc.and_(pc.is_valid(given), pc.is_null(values))


def whole_numbers(column: pa.ChunkedArray, allowed: range) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the column as int64, and a mask of the values that aren't whole numbers in `allowed`.

    3.0 is a whole number; NaN and blank text are null.

    Raises:
        UnreadableColumnError: The type of the column has no numbers.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
    if (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind)) or pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    elif not (pa.types.is_null(kind) or _holds_text(kind)):
        raise UnreadableColumnError(f"holds {kind}; whole numbers are needed")
    given = text(column, trim=True)
    not_given = pc.match_substring_regex(given, "^(?i:nan|<na>)$")
    given = pc.if_else(not_given, pa.scalar(None, pa.string()), given)
    reads = pc.match_substring_regex(given, rf"^[+-]?0*[0-9]{{1,{_INT64_DIGITS}}}(\.0*)?$")
    digits = pc.replace_substring_regex(given, r"^\+?(-?)0*([0-9]+?)(\.0*)?$", r"\1\2")
    numbers = pc.if_else(reads, digits, pa.scalar(None, pa.string())).cast(pa.int64())
    is_allowed = pc.and_(pc.greater_equal(numbers, allowed.start), pc.less(numbers, allowed.stop))
    return numbers, pc.and_(pc.is_valid(given), pc.invert(pc.fill_null(is_allowed, False)))


def matches(column: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """Return a mask of the strings in which a regular expression has a match."""
    return pc.fill_null(pc.match_substring_regex(column, pattern), False)


def is_blank(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return a mask of the values that are not given: null, NaN or blank text."""
    try:
        return np.asarray(pc.is_null(text(column, trim=True)))
    except UnreadableColumnError:
        column = plain(column)
        return np.asarray(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))


def _holds_text(kind: pa.DataType) -> bool:
    kinds = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
    return kind in kinds
