"""Collectors of input pictures for tests: loopback is allowed, and small pictures are."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from upath import UPath

from kontext_pipeline.inputs.input_collector import InputCollector
from kontext_pipeline.inputs.input_index import InputIndex
from kontext_pipeline.inputs.input_keeper import Fetcher, InputKeeper
from kontext_pipeline.inputs.input_store import InputStore
from kontext_pipeline.inputs.pictures import InputLimits
from kontext_pipeline.inputs.web_fetcher import WebFetcher

SMALL = InputLimits(min_side=1)


def picture(kind: str = "PNG", size: tuple[int, int] = (3, 2), colour: str = "teal", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **options)
    return file.getvalue()


def collector(
    data_dir: Path | UPath,
    *,
    limits: InputLimits = SMALL,
    web: Fetcher | None = None,
    private_allowed: bool = True,
    max_age_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    threads: int = 4,
    per_host: int = 4,
) -> InputCollector:
    web = web or WebFetcher(private_allowed=private_allowed, threads=4)
    keeper = InputKeeper(InputStore(data_dir), InputIndex(data_dir), web, limits=limits, max_age_s=max_age_s)
    return InputCollector(keeper, threads=threads, per_host=per_host, clock=clock)
