"""Fingerprints of many requests at once, equal to `GenerationRequest.fingerprint` to the last digit.

That method says what a fingerprint is; here the same canonical text is put together column by column,
because a million request objects would take most of a minute to make.
"""

import hashlib
from collections.abc import Iterable
from json.encoder import encode_basestring


def canonical_image(input_image: str | None, input_sha256: str | None) -> str | None:
    """Return what stands for an input image in a fingerprint: a local file's content, or the URI."""
    return f"sha256:{input_sha256}" if input_sha256 else input_image


def fingerprints(
    backend: str,
    prompts: Iterable[str],
    images: Iterable[str | None],
    aspect_ratios: Iterable[str],
    output_formats: Iterable[str],
    safety_tolerances: Iterable[int],
    seeds: Iterable[int],
) -> list[str]:
    """Return the fingerprint (64 hex digits) of each request, given by columns of equal length.

    `images` is what `canonical_image` returns; the other columns are fields of `GenerationRequest`.
    """
    sha256, escaped = hashlib.sha256, encode_basestring
    for_backend = escaped(backend)
    return [
        sha256(
            f'{{"aspect_ratio":{escaped(ratio)},"backend":{for_backend},'
            f'"input_image":{"null" if image is None else escaped(image)},'
            f'"output_format":{escaped(form)},"prompt":{escaped(prompt)},'
            f'"safety_tolerance":{tolerance},"seed":{seed}}}'.encode()
        ).hexdigest()
        for prompt, image, ratio, form, tolerance, seed in zip(
            prompts, images, aspect_ratios, output_formats, safety_tolerances, seeds, strict=True
        )
    ]
