"""The renderer: draws pictures in a few threads, remembers the latest, and never draws one twice at a time."""

import asyncio
import hashlib
import io
import json
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from PIL import Image, ImageOps

from kontext_pipeline.sandbox.drawing.encode import encode
from kontext_pipeline.sandbox.drawing.picture import draw_picture
from kontext_pipeline.sandbox.drawing.plain import plain_picture
from kontext_pipeline.sandbox.drawing.portrait import draw_portrait
from kontext_pipeline.sandbox.drawing.scene import draw_scene
from kontext_pipeline.sandbox.drawing.sizes import picture_size
from kontext_pipeline.sandbox.drawing.wishes import read_wishes
from kontext_pipeline.sandbox.inputs import DEMO_INPUT, FORMATS, InputImage
from kontext_pipeline.sandbox.store import FileStore

MAX_SIDE: Final = 1600
"""Pixels along the longer side that a photograph is reduced to before it's edited."""
MAX_PHOTOGRAPHS: Final = 8
"""Decoded photographs in memory, up to 8 MB each."""


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


class Renderer:
    """Pictures by recipe."""

    def __init__(self, store: FileStore, *, draw: bool, cache_bytes: int) -> None:
        self._store = store
        self._draws = draw
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._max_cached_bytes = cache_bytes
        self._underway: dict[tuple[str, str], asyncio.Future[bytes]] = {}
        self._photographs: OrderedDict[str, Image.Image] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 1)), thread_name_prefix="sandbox-renderer")

    async def picture(self, recipe: Recipe) -> bytes:
        """Return the picture's bytes: from memory, or drawn in a thread, once for all who ask meanwhile."""
        if not self._draws:
            return plain_picture(recipe.size, recipe.output_format, recipe.digest)
        key = (recipe.digest, recipe.output_format)
        picture = self._cache.get(key)
        if picture is not None:
            self._cache.move_to_end(key)
            return picture
        drawing = self._underway.get(key)
        if drawing is None:
            drawing = asyncio.get_running_loop().run_in_executor(self._pool, self._draw, recipe)
            self._underway[key] = drawing
            drawing.add_done_callback(lambda _: self._underway.pop(key, None))
        picture = await asyncio.shield(drawing)
        self._remember(key, picture)
        return picture

    async def thumbnail(self, recipe: Recipe, width: int) -> bytes:
        """Return the picture as a small JPEG."""
        picture = await self.picture(recipe)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _thumbnail, picture, width)

    def close(self) -> None:
        """Stop drawing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _remember(self, key: tuple[str, str], picture: bytes) -> None:
        if key in self._cache or len(picture) > self._max_cached_bytes:
            return
        self._cache[key] = picture
        self._cached_bytes += len(picture)
        while self._cached_bytes > self._max_cached_bytes:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def _draw(self, recipe: Recipe) -> bytes:
        photograph = None if recipe.input_image is None else self._photograph(recipe.input_image)
        image = draw_picture(recipe.prompt, recipe.size, recipe.digest, photograph)
        return encode(image, recipe.output_format)

    def _photograph(self, source: InputImage) -> Image.Image:
        """Return the RGB photograph to edit, at most `MAX_SIDE` long; a few are remembered."""
        with self._lock:
            known = self._photographs.get(source.key)
        if known is not None:
            return known
        photograph = self._prepare(source)
        with self._lock:
            self._photographs[source.key] = photograph
            while len(self._photographs) > MAX_PHOTOGRAPHS:
                self._photographs.popitem(last=False)
        return photograph

    def _prepare(self, source: InputImage) -> Image.Image:
        if source == DEMO_INPUT:
            return draw_portrait()
        data = self._store.read(source.key)
        if data is None:
            # A stand-in, or an upload that went before its time: a landscape of its own takes the place.
            size = (source.width, source.height)
            return draw_scene(picture_size("match_input_image", size), read_wishes(""), source.key)
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))
            upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            flat = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            flat.alpha_composite(upright.convert("RGBA"))
            upright = flat
        photograph = upright.convert("RGB")
        photograph.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return photograph


def _thumbnail(picture: bytes, width: int) -> bytes:
    with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")) as image:
        image.draft("RGB", (width * 2, width * 2))
        small = image.convert("RGB")
    small.thumbnail((width, width * 2), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return encode(small, "jpg")
