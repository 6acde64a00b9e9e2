"""The renderer: draws pictures in a few threads, caches the latest, and never draws the same one twice at a time."""

import asyncio
import functools
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from PIL import Image, ImageOps

from kontext_pipeline.sandbox.drawing.encoding import encode, plain_picture
from kontext_pipeline.sandbox.drawing.picture import draw_picture, draw_stand_in
from kontext_pipeline.sandbox.drawing.sizes import picture_size
from kontext_pipeline.sandbox.input_resolver import FORMATS, InputImage, InputResolver

MAX_SIDE: Final = 1600
"""Pixels of the longer side to which a photograph is reduced before it is edited."""
MAX_PHOTOS: Final = 8
"""Decoded photographs in memory, up to 8 MB each."""
MAX_PICTURES: Final = 64
"""Drawn pictures in memory, about 1 MB each. Older ones are drawn again when they are requested."""


@dataclass(frozen=True)
class PictureSpec:
    """Everything that decides how a picture looks."""

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
        """64 hex digits that seed the drawing. The output format is no part of them."""
        key = None if self.input_image is None else self.input_image.key
        text = json.dumps([self.prompt, self.seed, self.size, key], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def media_type(self) -> str:
        """The picture's content type."""
        return "image/jpeg" if self.output_format == "jpg" else "image/png"


class Renderer:
    """Draws pictures by their specs."""

    def __init__(self, inputs: InputResolver, *, draw: bool) -> None:
        self._inputs = inputs
        self._draws = draw
        self._photo = functools.lru_cache(MAX_PHOTOS)(self._load_photo)
        self._drawing = functools.lru_cache(MAX_PICTURES)(self._start)
        workers = max(2, min(4, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sandbox-renderer")

    async def picture(self, spec: PictureSpec) -> bytes:
        """Return the picture's bytes, from memory or drawn in a thread."""
        if not self._draws:
            return plain_picture(spec.size, spec.output_format, spec.digest)
        # Several requests may wait for one drawing: none of them may cancel it.
        return await asyncio.shield(self._drawing(spec))

    def close(self) -> None:
        """Stop drawing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, spec: PictureSpec) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().run_in_executor(self._pool, self._draw, spec)

    def _draw(self, spec: PictureSpec) -> bytes:
        photo = None if spec.input_image is None else self._photo(spec.input_image)
        return encode(draw_picture(spec.prompt, spec.size, spec.digest, photo), spec.output_format)

    def _load_photo(self, source: InputImage) -> Image.Image:
        """Return the RGB photograph to edit, its longer side at most `MAX_SIDE`."""
        data = self._inputs.read(source.file_name)
        if data is None:
            # It was never fetched, or it has expired since the request was accepted.
            size = picture_size("match_input_image", (source.width, source.height))
            return draw_stand_in(source.host, size, source.key)
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
        upright.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        photo = Image.new("RGB", upright.size, (255, 255, 255))
        photo.paste(upright, mask=upright.getchannel("A"))
        return photo
