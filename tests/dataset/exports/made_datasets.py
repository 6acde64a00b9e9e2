"""Data directories with real pictures and metadata tables, as runs leave them, made without a run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from upath import UPath

from kontext_pipeline.columns import GENERATION_SCHEMA, PLAN_SCHEMA
from kontext_pipeline.dataset.exports.export_options import ExportOptions, Layout
from kontext_pipeline.dataset.exports.exporting import Export, export_dataset
from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.storage import write_batch

_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def picture(seed: int | str, kind: str = "png", size: tuple[int, int] = (24, 16)) -> bytes:
    """Return a picture that no other seed gives."""
    digest = hashlib.sha256(str(seed).encode()).digest()
    noise = np.random.default_rng(list(digest)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, _FORMATS[kind])
    return out.getvalue()


@dataclass
class MadeDataset:
    """A data directory that grows by batches."""

    data_dir: UPath
    batches: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, rows: Sequence[dict[str, Any]], **own: Sequence[Any]) -> list[dict[str, Any]]:
        """Add a batch and return its rows. Each may change what a row has otherwise.

        Keys besides those of the tables: `input` (seed of the input picture, None: text-to-image), `input_kind` and `kind`
        (formats).
        """
        key = f"demo-{self.batches:05}"
        made = [self._row(key, number, dict(row)) for number, row in enumerate(rows)]
        plan = pa.Table.from_pylist(made, schema=PLAN_SCHEMA)
        for name, values in own.items():
            plan = plan.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
        known = {row["fingerprint"]: row for row in made}
        generations = pa.Table.from_pylist(list(known.values()), schema=GENERATION_SCHEMA).drop_columns(["batch"])
        table = metadata_table(plan, generations, backend="segmind")
        write_batch(table, self.data_dir, key, made_from="test")
        self.batches += 1
        self.rows += made
        return made

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the data directory."""
        target = self.data_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def _row(self, key: str, number: int, changes: dict[str, Any]) -> dict[str, Any]:
        name = f"{key}-{number}"
        fingerprint = changes.get("fingerprint") or hashlib.sha256(name.encode()).hexdigest()
        seed, kind = changes.pop("input", number), changes.pop("kind", "png")
        input_kind = changes.pop("input_kind", "jpg")
        data = changes.pop("image", None) or picture(fingerprint, kind)
        path = f"images/{fingerprint[:2]}/{fingerprint}.{kind}"
        self.write(path, data)
        row: dict[str, Any] = {
            "manifest": "demo",
            "row": number + 1,
            "id": name,
            "batch": key,
            "variant": 1,
            "prompt": f"Make it {name}",
            "aspect_ratio": "match_input_image",
            "output_format": kind,
            "safety_tolerance": 2,
            "safety_tolerance_asked": 2,
            "seed": number,
            "fingerprint": fingerprint,
            "status": "succeeded",
            "status_code": 200,
            "attempts": 1,
            "cost_usd": 0.1,
            "cost_estimated": False,
            "possibly_charged_usd": 0.0,
            "latency_s": 24.34,
            "image_path": path,
            "image_sha256": hashlib.sha256(data).hexdigest(),
            "width": 24,
            "height": 16,
            "bytes": len(data),
            "started_at": _START + timedelta(seconds=self.batches * 1000 + number),
            "finished_at": _START + timedelta(seconds=self.batches * 1000 + number + 25),
        }
        if seed is not None:
            source = picture(f"input {seed}", input_kind)
            sha256 = hashlib.sha256(source).hexdigest()
            kept = f"inputs/{sha256[:2]}/{sha256}.{input_kind}"
            self.write(kept, source)
            row |= {
                "input_image": f"photos/{seed}.{input_kind}",
                "input_path": kept,
                "input_kept_sha256": sha256,
                "input_sha256": sha256,
                "input_width": 24,
                "input_height": 16,
            }
        return row | changes


def export(dataset: MadeDataset, out: Path | UPath, layout: Layout, **options: Any) -> Export:
    """Export a dataset."""
    return export_dataset(dataset.data_dir, UPath(out), ExportOptions(layout, **options))


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but the lock, by their paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".kontext-export.lock"
    }
