"""A request: a validated, complete API body, and its identity, the fingerprint.

The provider has defaults of its own for `seed` (123) and `input_image` (a demo picture). Neither may apply by
accident: a request always has a seed, and a request without an input image is meant as text-to-image.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from kontext_pipeline.segmind.model import DEFAULT_ASPECT_RATIO, DEFAULT_OUTPUT_FORMAT, DEFAULT_SAFETY_TOLERANCE


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one picture.

    `input_image` is an http(s) or data URI, or the path of a local file. A local file is identified by its
    content, `input_sha256` (64 hex digits), so that a moved file does not lead to a new request.
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

        The canonical form is JSON of every parameter and the backend's name, with sorted keys, without spaces
        and without escapes. It must never change: every picture ever stored is named by its hash.
        """
        image = f"sha256:{self.input_sha256}" if self.input_sha256 else self.input_image
        canonical = {**self.body(None), "backend": backend, "input_image": image}
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def body(self, input_image_uri: str | None) -> dict[str, Any]:
        """Return the JSON body of the API call.

        `input_image_uri` is the URI that is sent for `input_image`: the same URI, or the URL of an uploaded
        local file. None leaves the field out, which means text-to-image.
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
