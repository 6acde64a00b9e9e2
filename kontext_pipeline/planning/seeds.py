"""Which row is which, and which seed each of its pictures gets.

A row is known by its `id`, or else by what it asks for; never by its place in the file, so inserting or
sorting rows asks for no other pictures. What these functions return is the same on every machine and for
ever: a change here would ask for every picture again.
"""

import hashlib
import json
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.hashing import Digests, json_strings, sha256_of
from kontext_pipeline.segmind.model import SEEDS

DERIVED_SEEDS: Final = range(2**31)
"""Seeds that are derived rather than given: what a signed four-byte integer takes as well."""
SHORT_ID_DIGITS: Final = 12
"""How many hex digits of the identity make the id of a row that has none."""


def identity_of_id(row_id: str) -> str:
    """Return the identity of a row that has an id. Its requests may be edited and keep their seeds."""
    return f"id:{row_id}"


def identity_of_content(
    *,
    prompt: str,
    canonical_image: str | None,
    aspect_ratio: str,
    output_format: str,
    safety_tolerance: int,
    seed: int | None,
) -> str:
    """Return the identity (64 hex digits) of a row without an id: a sha256 of what it asks for.

    `canonical_image` is the URI of the input image, or `sha256:` and the digest of a local file;
    `safety_tolerance` is what the manifest says, whatever is sent; `seed` is the one the manifest gives, or
    None. Rows that are equal in all of this ask for the same picture. `variants` is not part of it: a row
    that asks for more pictures keeps those it has.
    """
    content = {
        "aspect_ratio": aspect_ratio,
        "input_image": canonical_image,
        "output_format": output_format,
        "prompt": prompt,
        "safety_tolerance": safety_tolerance,
        "seed": seed,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identities_of_content(rows: pa.Table) -> Digests:
    """Return `identity_of_content` of many rows, given by columns of its parameters' names."""
    content = pc.binary_join_element_wise(
        '{"aspect_ratio":',
        json_strings(rows["aspect_ratio"]),
        ',"input_image":',
        json_strings(rows["canonical_image"]),
        ',"output_format":',
        json_strings(rows["output_format"]),
        ',"prompt":',
        json_strings(rows["prompt"]),
        ',"safety_tolerance":',
        rows["safety_tolerance"].cast(pa.string()),
        ',"seed":',
        pc.fill_null(rows["seed"].cast(pa.string()), "null"),
        "}",
        "",
    )
    return sha256_of(content)


def seed_of_variant(*, given: int | None, project_seed: int, identity: str, variant: int) -> int:
    """Return the seed of a row's picture number `variant` (1-based).

    A given seed counts up from variant to variant and wraps at the end of `SEEDS`; otherwise the seed is
    derived from `project_seed` (`KONTEXT_SEED`), the row's identity and the variant, and is in
    `DERIVED_SEEDS`.
    """
    if given is not None:
        return (given + variant - 1) % SEEDS.stop
    digest = hashlib.sha256(f"{project_seed}\n{identity}\n{variant}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % DERIVED_SEEDS.stop


def seeds_of_variants(
    *, given: pa.ChunkedArray, project_seed: int, identities: pa.ChunkedArray, variants: pa.ChunkedArray
) -> npt.NDArray[np.int64]:
    """Return `seed_of_variant` of many pictures, given by columns of its parameters."""
    counted: npt.NDArray[np.int64] = (
        np.asarray(pc.fill_null(given, 0)) + np.asarray(variants) - 1
    ) % SEEDS.stop
    if given.null_count == 0:
        return counted
    texts = pc.binary_join_element_wise(f"{project_seed}\n", identities, "\n", variants.cast(pa.string()), "")
    first_four = np.ascontiguousarray(sha256_of(texts)[:, :4]).view(">u4").ravel()
    derived = first_four.astype(np.int64) % DERIVED_SEEDS.stop
    return np.where(np.asarray(pc.is_valid(given)), counted, derived)
