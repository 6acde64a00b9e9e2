"""Fingerprints of many requests at once, equal to `GenerationRequest.fingerprint` to the last digit.

That method says what a fingerprint is; here the same canonical text is put together column by column,
because a million request objects would take most of a minute to make.
"""

import json

import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.hashing import Digests, json_strings, sha256_of


def canonical_images(input_image: pa.ChunkedArray, input_sha256: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what stands for input images: a local file's content, else the URI, else null."""
    return pc.coalesce(pc.binary_join_element_wise("sha256:", input_sha256, ""), input_image)


def fingerprints(requests: pa.Table, backend: str) -> Digests:
    """Return the fingerprint of each request; its hex digits are what `GenerationRequest.fingerprint` returns.

    `requests` has the columns `prompt`, `canonical_image` (see `canonical_images`), `aspect_ratio`,
    `output_format` (strings), `safety_tolerance` and `seed` (integers).
    """
    canonical = pc.binary_join_element_wise(
        '{"aspect_ratio":',
        json_strings(requests["aspect_ratio"]),
        f',"backend":{json.dumps(backend, ensure_ascii=False)},"input_image":',
        json_strings(requests["canonical_image"]),
        ',"output_format":',
        json_strings(requests["output_format"]),
        ',"prompt":',
        json_strings(requests["prompt"]),
        ',"safety_tolerance":',
        requests["safety_tolerance"].cast(pa.string()),
        ',"seed":',
        requests["seed"].cast(pa.string()),
        "}",
        "",
    )
    return sha256_of(canonical)
