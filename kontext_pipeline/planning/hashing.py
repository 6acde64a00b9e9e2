"""sha256 of many texts at once, for the identities, seeds and fingerprints of a million rows.

The texts are put together by Arrow, column by column; what is left to Python is one hash a text.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Digests = npt.NDArray[np.uint8]
"""Digests of n texts: n rows of 32 bytes."""

DIGEST_BYTES: Final = 32


def json_strings(column: Any) -> Any:
    """Return a string column as JSON literals: quoted, escaped as little as JSON allows; null is `null`."""
    # Backslashes first: the others' escapes have them.
    specials = "\\" + '"' + ("".join(map(chr, range(0x20))) if _lowest_byte(column) < 0x20 else "")
    for special in specials:
        if _has_byte(column, ord(special)):
            escaped = json.dumps(special, ensure_ascii=False)[1:-1]
            column = pc.replace_substring(column, pattern=special, replacement=escaped)
    return pc.fill_null(pc.binary_join_element_wise('"', column, '"', ""), "null")


def _lowest_byte(column: Any) -> int:
    return min((int(content.min()) for content in _contents(column)), default=0xFF)


def _has_byte(column: Any, byte: int) -> bool:
    return any(bool((content == byte).any()) for content in _contents(column))


def _contents(column: Any) -> Iterator[npt.NDArray[np.uint8]]:
    for chunk in _chunks(column):
        _, content = _offsets_and_content(chunk)
        if len(content):
            yield np.frombuffer(content, np.uint8)


def _chunks(column: Any) -> list[pa.Array]:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [chunk for chunk in chunks if len(chunk)]


def _offsets_and_content(chunk: pa.Array) -> tuple[npt.NDArray[np.int64], memoryview]:
    """Return where the strings of an array begin and end in its UTF-8 content, and that."""
    chunk = chunk.cast(pa.large_string())
    _, offsets, data = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    content = memoryview(data if data is not None else b"")[ends[0] : ends[-1]]
    return ends - ends[0], content


def sha256_of(texts: pa.ChunkedArray | pa.Array) -> Digests:
    """Return the digest of each text's UTF-8 bytes; none may be null."""
    sha256, digests = hashlib.sha256, []
    for chunk in _chunks(texts):
        ends, content = _offsets_and_content(chunk)
        whole = bytes(content)
        digests += [sha256(whole[start:end]).digest() for start, end in pairwise(ends.tolist())]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def hex_of(digests: Digests, digits: int = 2 * DIGEST_BYTES) -> pa.Array:
    """Return the first `digits` (even) hex digits of each digest, as strings."""
    text = np.ascontiguousarray(digests[:, : digits // 2]).tobytes().hex().encode()
    ends = np.arange(0, len(text) + 1, digits, dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), len(digests), buffers)


def numbers_of(digests: Digests) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each digest as a number: nearly always enough to tell them apart."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)


def all_different(numbers: npt.NDArray[np.uint64]) -> bool:
    """Say whether no number is there twice; in a tenth of the time of numpy's `unique`."""
    ordered = np.sort(numbers)
    return not (ordered[1:] == ordered[:-1]).any()


def count_different(digests: Digests) -> int:
    """Return how many different digests there are."""
    if all_different(numbers_of(digests)):
        return len(digests)
    whole = pa.Array.from_buffers(
        pa.binary(DIGEST_BYTES), len(digests), [None, pa.py_buffer(np.ascontiguousarray(digests))]
    )
    return int(pc.count_distinct(whole).as_py())
