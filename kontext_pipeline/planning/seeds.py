"""Identities, seeds and fingerprints of many requests at once.

A row is identified by its `id`, or else by what it requests; never by its position in the file. So inserting or
sorting rows changes no request. These functions return the same values on every machine, forever: a change here
would request every picture again.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.hashing import Digests, canonical_json, sha256_of
from kontext_pipeline.segmind.model import SEEDS

DERIVED_SEEDS: Final = range(2**31)
"""Seeds that are derived instead of given: they fit a signed 32-bit integer."""
SHORT_ID_DIGITS: Final = 12
"""Hex digits of the identity in the id of a row that has none."""


def canonical_images(input_image: pa.ChunkedArray, input_sha256: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what identifies input images: the digest of a local file, else the URI, else null."""
    return pc.coalesce(pc.binary_join_element_wise("sha256:", input_sha256, ""), input_image)


def identities_of_ids(row_ids: Any) -> Any:
    """Return the identities of rows that have an id; null stays null.

    Such a row may be edited and keeps its seeds.
    """
    return pc.binary_join_element_wise("id:", row_ids, "")


def identities_of_content(rows: pa.Table) -> Digests:
    """Return the identities of rows without an id: a sha256 of what they request.

    Rows with equal columns have the same identity. The column `variants` has no influence, so a row that requests
    more pictures keeps those that it has.

    Args:
        rows: The columns `prompt`, `canonical_image` (see `canonical_images`), `aspect_ratio`, `output_format`
            (strings), `safety_tolerance` and `seed` (integers, as the manifest has them).
    """
    return sha256_of(canonical_json(_members(rows)))


def fingerprints(requests: pa.Table, backend: str) -> Digests:
    """Return the fingerprints of requests. The hex digits are those of `GenerationRequest.fingerprint`.

    Args:
        requests: The columns of `identities_of_content`, as they are sent.
        backend: What makes the pictures.
    """
    return sha256_of(canonical_json({**_members(requests), "backend": backend}))


def seeds_of_variants(
    *, given: pa.ChunkedArray, project_seed: int, identities: pa.ChunkedArray, variants: pa.ChunkedArray
) -> npt.NDArray[np.int64]:
    """Return the seeds of pictures, one for each element of the columns.

    A given seed increases by one with each variant and wraps at the end of `SEEDS`. Otherwise the seed is derived from
    the project's seed, the identity and the variant, and is in `DERIVED_SEEDS`.

    Args:
        given: Seeds in the manifest, or null.
        project_seed: `KONTEXT_SEED`.
        identities: Identities of the rows: `identities_of_ids`, or the hex digits of `identities_of_content`.
        variants: Numbers of the pictures among those of their row, from 1.
    """
    counted: npt.NDArray[np.int64] = (
        np.asarray(pc.fill_null(given, 0)) + np.asarray(variants) - 1
    ) % SEEDS.stop
    if given.null_count == 0:
        return counted
    texts = pc.binary_join_element_wise(f"{project_seed}\n", identities, "\n", variants.cast(pa.string()), "")
    first_four = np.ascontiguousarray(sha256_of(texts)[:, :4]).view(">u4").ravel()
    derived = first_four.astype(np.int64) % DERIVED_SEEDS.stop
    return np.where(np.asarray(pc.is_valid(given)), counted, derived)


def _members(rows: pa.Table) -> dict[str, Any]:
    names = ("prompt", "aspect_ratio", "output_format", "safety_tolerance", "seed")
    return {**{name: rows[name] for name in names}, "input_image": rows["canonical_image"]}
