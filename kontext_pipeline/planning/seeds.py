"""Identities, seeds and fingerprints of a million requests at once.

A row is identified by its `id`, or else by what it requests; never by its position in the file. So inserting or
sorting rows changes no request. These functions return the same values on every machine, forever: a change here
would request every picture again.

Arrow builds the texts that are hashed, a whole column at a time. Python only hashes them.
"""

import hashlib
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.cells import each_chunk
from kontext_pipeline.segmind.model import SEEDS

Digests = npt.NDArray[np.uint8]
"""Digests of n texts: n rows of 32 bytes."""

DIGEST_BYTES: Final = 32
SHORT_ID_DIGITS: Final = 12
"""Hex digits of the identity in the id of a row that has none."""
_DERIVED_SEEDS: Final = 2**31
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False).encode
_ESCAPED: Final = r'[\x00-\x1f"\\]'


def with_json_texts(rows: pa.Table) -> pa.Table:
    """Return the rows with texts as JSON, which identities and fingerprints share.

    The new column `canonical_image` has what identifies the input image: the digest of a local file, else the URI,
    else null.
    """
    digests = pc.binary_join_element_wise("sha256:", rows["input_sha256"], "")
    rows = rows.append_column("canonical_image", pc.coalesce(digests, rows["input_image"]))
    for name in ("prompt", "canonical_image", "aspect_ratio", "output_format"):
        rows = rows.set_column(rows.column_names.index(name), name, json_values(rows[name]))
    return rows


def identities_of_ids(row_ids: Any) -> Any:
    """Return the identities of rows that have an id; null stays null. An edited row keeps its seeds."""
    return pc.binary_join_element_wise("id:", row_ids, "")


def identities_of_content(rows: pa.Table) -> Digests:
    """Return the identities of rows without an id: a sha256 of what they request.

    `rows` are `with_json_texts`, and have `safety_tolerance` and `seed` (integers) as in the manifest. `variants` is
    left out, so a row that requests more pictures keeps those that it has.
    """
    return _hashed(rows)


def fingerprints(requests: pa.Table, backend: str) -> Digests:
    """Return the fingerprints of requests. The hex digits are those of `GenerationRequest.fingerprint`.

    `requests` has the columns of `identities_of_content`, as they are sent.
    """
    return _hashed(requests, backend=json.dumps(backend, ensure_ascii=False))


def seeds_of_variants(
    *, given: pa.ChunkedArray, project_seed: int, identities: pa.ChunkedArray, variants: pa.ChunkedArray
) -> npt.NDArray[np.int64]:
    """Return the seeds of pictures. All columns have an element for each picture.

    A seed in the manifest increases by one with each variant (from 1) and wraps at the end of `SEEDS`. Otherwise the
    seed is derived from the project's seed (`KONTEXT_SEED`), the row's identity and the variant, and fits a signed
    32-bit integer.
    """
    counted: npt.NDArray[np.int64] = (np.asarray(pc.fill_null(given, 0)) + np.asarray(variants) - 1) % SEEDS.stop
    if given.null_count == 0:
        return counted
    texts = pc.binary_join_element_wise(f"{project_seed}\n", identities, "\n", variants.cast(pa.string()), "")
    first_four = np.ascontiguousarray(sha256_of(texts)[:, :4]).view(">u4").ravel()
    derived = first_four.astype(np.int64) % _DERIVED_SEEDS
    return np.where(np.asarray(pc.is_valid(given)), counted, derived)


def _hashed(rows: pa.Table, **same_in_all: str) -> Digests:
    """Return the digests of the rows as JSON objects: sorted keys, no spaces, as few escapes as JSON allows."""
    members = {name: rows[name] for name in ("prompt", "aspect_ratio", "output_format")}
    members |= {name: json_values(rows[name]) for name in ("safety_tolerance", "seed")}
    members |= {"input_image": rows["canonical_image"], **same_in_all}
    parts: list[Any] = []
    for key in sorted(members):
        parts += [f'{"," if parts else "{"}"{key}":', members[key]]
    return sha256_of(pc.binary_join_element_wise(*parts, "}", ""))


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
