"""sha256 of many texts at once, for the identities, seeds and fingerprints of a million rows.

Arrow builds the texts, a whole column at a time. Python only hashes them.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.cells import each_chunk

Digests = npt.NDArray[np.uint8]
"""Digests of n texts: n rows of 32 bytes."""

DIGEST_BYTES: Final = 32
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False).encode
_ESCAPED: Final = r'[\x00-\x1f"\\]'


def canonical_json(members: Mapping[str, pa.ChunkedArray | str]) -> pa.ChunkedArray:
    """Return a JSON object for each row: sorted keys, no spaces, as few escapes as JSON allows.

    `members` has for each key a column of JSON values as text, or one such text for all rows.
    """
    parts: list[Any] = []
    for key in sorted(members):
        parts += [f'{"," if parts else "{"}"{key}":', members[key]]
    return pc.binary_join_element_wise(*parts, "}", "")


def json_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of strings or integers as JSON texts; null is `null`."""
    if pa.types.is_integer(column.type):
        return pc.fill_null(column.cast(pa.string()), "null")
    return each_chunk(_json_strings, column)


def _json_strings(texts: pa.Array) -> pa.Array:
    literals = pc.binary_join_element_wise('"', texts, '"', "")
    escaped = pc.match_substring_regex(texts, _ESCAPED)
    if pc.any(escaped).as_py():
        encoded = pa.array([_ENCODE(text) for text in texts.filter(escaped).to_pylist()], pa.string())
        literals = pc.replace_with_mask(literals, pc.fill_null(escaped, False), encoded)
    return pc.fill_null(literals, "null")


def sha256_of(texts: pa.ChunkedArray | pa.Array) -> Digests:
    """Return the digest of each text's UTF-8 bytes. No text may be null."""
    sha256 = hashlib.sha256
    digests = [sha256(text).digest() for text in texts.cast(pa.binary()).to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def hex_of(digests: Digests, digits: int = 2 * DIGEST_BYTES) -> pa.Array:
    """Return the first `digits` (even) hex digits of each digest, as strings."""
    text = np.ascontiguousarray(digests[:, : digits // 2]).tobytes().hex().encode()
    ends = np.arange(0, len(text) + 1, digits, dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), len(digests), buffers)


def all_different(digests: Digests, digits: int = 16) -> bool:
    """Return whether the first `digits` (at most 16) hex digits of all digests differ.

    Sorting numbers is ten times as fast as counting different texts.
    """
    numbers = np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)
    ordered = np.sort(numbers >> np.uint64(64 - 4 * digits))
    return not (ordered[1:] == ordered[:-1]).any()


def count_different(digests: Digests) -> int:
    """Return how many different digests there are."""
    if all_different(digests):
        return len(digests)
    content = digests.tobytes()
    return len({content[start : start + DIGEST_BYTES] for start in range(0, len(content), DIGEST_BYTES)})
