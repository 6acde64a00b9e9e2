"""Data directories with real pictures, and metadata tables that name them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from upath import UPath

from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.quality.batch_measuring import BatchMeasuring
from kontext_pipeline.dataset.quality.neighbours import update_neighbours
from kontext_pipeline.dataset.quality.plug_ins import PlugIn
from kontext_pipeline.dataset.quality.quality_tables import Row, read_rows
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.dataset.storage import write_batch
from tests.dataset.tables import fingerprint, generations, plan

PHOTOS = Path(__file__).parents[3] / "data" / "photos"


def photo(name: str = "coffee", size: tuple[int, int] = (192, 128)) -> Image.Image:
    """Return a photograph, small enough for quick tests."""
    with Image.open(PHOTOS / f"{name}.jpg") as image:
        return image.convert("RGB").resize(size, Image.Resampling.BOX)


@dataclass
class Made:
    """A generated picture: an image, bytes as they are, or None for a file that is missing; and its input picture."""

    name: str
    output: Image.Image | bytes | None
    source: Image.Image | None = None
    row: int | None = None
    asked_ratio: str = "match_input_image"
    cost_usd: float = 0.1


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_pictures(
    data_dir: UPath, made: Sequence[Made], *, key: str = "demo-00000", own: Mapping[str, Sequence[Any]] | None = None
) -> None:
    """Write the pictures of a batch and its metadata table; `own`: the values of the user's own columns."""
    facts = []
    for one in made:
        data = png(one.output) if isinstance(one.output, Image.Image) else one.output
        path = data_dir / "images" / f"{one.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
        fact: dict[str, Any] = {
            "fingerprint": one.name,
            "image_path": f"images/{one.name}.png",
            "image_sha256": hashlib.sha256(data or b"").hexdigest(),
            "cost_usd": one.cost_usd,
        }
        if one.source is not None:
            data = png(one.source)
            sha256 = hashlib.sha256(data).hexdigest()
            path = data_dir / "inputs" / f"{sha256}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            fact |= {"input_path": f"inputs/{sha256}.png", "input_kept_sha256": sha256}
        facts.append(fact)
    planned = plan([one.name for one in made], batch=key, **{k: pa.array(v) for k, v in (own or {}).items()})
    rows = pa.array([one.row or number for number, one in enumerate(made, start=1)], planned.schema.field("row").type)
    ratios = pa.array([one.asked_ratio for one in made])
    planned = planned.set_column(planned.schema.get_field_index("row"), planned.schema.field("row"), rows)
    planned = planned.set_column(planned.schema.get_field_index("aspect_ratio"), "aspect_ratio", ratios)
    unique = {fact["fingerprint"]: fact for fact in facts}
    table = metadata_table(planned, generations(*unique.values()), backend="sandbox")
    origin = hashlib.sha256(repr(facts).encode()).hexdigest()
    write_batch(table, data_dir, key, made_from=origin)


def measured(
    data_dir: UPath,
    key: str = "demo-00000",
    *,
    thresholds: Thresholds | None = None,
    plug_ins: Sequence[PlugIn] = (),
) -> dict[str, Row]:
    """Measure a batch, update the neighbours of all, and return the rows by the short names of pictures."""
    thresholds = thresholds or Thresholds()
    BatchMeasuring(data_dir, thresholds, plug_ins=plug_ins).measure(key)
    update_neighbours(data_dir, thresholds)
    return {name.lstrip("0"): row for name, row in read_rows(data_dir, key).items()}


def short(name: str | None) -> str | None:
    """Return the short name of a fingerprint."""
    return None if name is None else name.lstrip("0")


__all__ = ["Made", "fingerprint", "measured", "photo", "png", "short", "write_pictures"]
