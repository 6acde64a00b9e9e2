"""A request: one validated, complete API body, and the fingerprint that is its identity.

The provider has defaults of its own for `seed` (123) and `input_image` (a demo picture). Neither may
ever apply by accident, so a request always has a seed, and one without an input image sends no such
field and is text-to-image by intent.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from kontext_pipeline.segmind.model import (
    DEFAULT_ASPECT_RATIO,
    DEFAULT_OUTPUT_FORMAT,
    DEFAULT_SAFETY_TOLERANCE,
)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One picture that was asked for.

    `input_image` is an http(s) or data URI, or the path of a local file; a local file is known by
    its content, `input_sha256` (64 hex digits), so that moving it asks for no new picture.
    """

    prompt: str
    seed: int
    input_image: str | None = None
    input_sha256: str | None = None
    aspect_ratio: str = DEFAULT_ASPECT_RATIO
    output_format: str = DEFAULT_OUTPUT_FORMAT
    safety_tolerance: int = DEFAULT_SAFETY_TOLERANCE

    def fingerprint(self, backend: str) -> str:
        """Return the sha256 (64 hex digits) of the canonical form for `backend`.

        The canonical form is JSON with sorted keys, no spaces and no escapes, of every parameter
        and the backend's name. It never changes: every picture ever stored is named by it.
        """
        image = f"sha256:{self.input_sha256}" if self.input_sha256 else self.input_image
        canonical = {
            "aspect_ratio": self.aspect_ratio,
            "backend": backend,
            "input_image": image,
            "output_format": self.output_format,
            "prompt": self.prompt,
            "safety_tolerance": self.safety_tolerance,
            "seed": self.seed,
        }
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def body(self, input_image_uri: str | None) -> dict[str, Any]:
        """Return the JSON body of the API call.

        `input_image_uri` is the URI that stands for `input_image` on the wire: the same one, or where
        a local file was uploaded. The field is left out for text-to-image.
        """
        body: dict[str, Any] = {
            "prompt": self.prompt,
            "seed": self.seed,
            "aspect_ratio": self.aspect_ratio,
            "output_format": self.output_format,
            "safety_tolerance": self.safety_tolerance,
        }
        if input_image_uri is not None:
            body["input_image"] = input_image_uri
        return body
