"""Identities, seeds and fingerprints of many requests at once.

A row is identified by its `id`, or else by what it requests; never by its position in the file. So inserting or
sorting rows changes no request. These functions return the same values on every machine, forever: a change here
would request every picture again.
"""

import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.hashing import Digests, canonical_json, json_values, sha256_of
from kontext_pipeline.segmind.model import SEEDS

DERIVED_SEEDS: Final = range(2**31)
"""Seeds that are derived instead of given: they fit a signed 32-bit integer."""
SHORT_ID_DIGITS: Final = 12
"""Hex digits of the identity in the id of a row that has none."""


def canonical_images(input_image: pa.ChunkedArray, input_sha256: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what identifies input images: the digest of a local file, else the URI, else null."""
    return pc.coalesce(pc.binary_join_element_wise("sha256:", input_sha256, ""), input_image)


def with_json_texts(rows: pa.Table) -> pa.Table:
    """Return the columns of `identities_of_content` with texts as JSON, which identities and fingerprints share."""
    for name in ("prompt", "canonical_image", "aspect_ratio", "output_format"):
        rows = rows.set_column(rows.column_names.index(name), name, json_values(rows[name]))
    return rows


def identities_of_ids(row_ids: Any) -> Any:
    """Return the identities of rows that have an id; null stays null. An edited row keeps its seeds."""
    return pc.binary_join_element_wise("id:", row_ids, "")


def identities_of_content(rows: pa.Table) -> Digests:
    """Return the identities of rows without an id: a sha256 of what they request.

    `rows` has the columns `prompt`, `canonical_image` (see `canonical_images`), `aspect_ratio`, `output_format`
    (see `with_json_texts`), `safety_tolerance` and `seed` (integers), as in the manifest. `variants` is left out, so a
    row that requests more pictures keeps those that it has.
    """
    return sha256_of(canonical_json(_members(rows)))


def fingerprints(requests: pa.Table, backend: str) -> Digests:
    """Return the fingerprints of requests. The hex digits are those of `GenerationRequest.fingerprint`.

    `requests` has the columns of `identities_of_content`, as they are sent.
    """
    return sha256_of(canonical_json({**_members(requests), "backend": json.dumps(backend, ensure_ascii=False)}))


def seeds_of_variants(
    *, given: pa.ChunkedArray, project_seed: int, identities: pa.ChunkedArray, variants: pa.ChunkedArray
) -> npt.NDArray[np.int64]:
    """Return the seeds of pictures. All columns have an element for each picture.

    A seed in the manifest increases by one with each variant (from 1) and wraps at the end of `SEEDS`. Otherwise the
    seed is derived from the project's seed (`KONTEXT_SEED`), the row's identity and the variant.
    """
    counted: npt.NDArray[np.int64] = (np.asarray(pc.fill_null(given, 0)) + np.asarray(variants) - 1) % SEEDS.stop
    if given.null_count == 0:
        return counted
    texts = pc.binary_join_element_wise(f"{project_seed}\n", identities, "\n", variants.cast(pa.string()), "")
    first_four = np.ascontiguousarray(sha256_of(texts)[:, :4]).view(">u4").ravel()
    derived = first_four.astype(np.int64) % DERIVED_SEEDS.stop
    return np.where(np.asarray(pc.is_valid(given)), counted, derived)


def _members(rows: pa.Table) -> dict[str, Any]:
    return {
        **{name: rows[name] for name in ("prompt", "aspect_ratio", "output_format")},
        **{name: json_values(rows[name]) for name in ("safety_tolerance", "seed")},
        "input_image": rows["canonical_image"],
    }
