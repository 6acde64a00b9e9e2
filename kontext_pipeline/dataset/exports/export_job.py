"""What all layouts share: what they read from and write to, and how they count."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from kontext_pipeline.dataset.exports.export_folder import ExportFolder
from kontext_pipeline.dataset.exports.export_options import ExportOptions
from kontext_pipeline.dataset.exports.sample_pictures import PICTURE_VERSION, Picture, PictureReader, Sample, samples_of
from kontext_pipeline.dataset.exports.sample_rows import SampleRows

ROWS_AT_ONCE: Final = 1000
"""Rows that are read and written together where pictures are files of their own."""
DECODED_BY_ALL: Final = frozenset({"png", "jpg"})
"""The formats that the decoders of all readers of `webdataset` and `pairs` know."""


@dataclass(slots=True)
class Part:
    """What was written of a configuration and split: rows, bytes of their pictures, and ids by reason of those left out."""

    config: str
    split: str
    rows: int = 0
    bytes: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, ids: Sequence[str]) -> None:
        """Count samples that were left out."""
        self.left_out.setdefault(reason, []).extend(ids)


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What the layouts write from and to.

    `extensions` are the formats of the pictures in shards, by configuration. `advance` is told how many further samples are
    done.
    """

    options: ExportOptions
    folder: ExportFolder
    reader: PictureReader
    rows: SampleRows
    extensions: Mapping[str, tuple[str | None, ...]]
    advance: Callable[[int], None]


def chunks(table: pa.Table, config: str) -> Iterator[tuple[list[Sample], pa.Table]]:
    """Yield the samples of rows of a selection, and these rows, a few at a time."""
    for start in range(0, table.num_rows, ROWS_AT_ONCE):
        rows = table.slice(start, ROWS_AT_ONCE)
        yield samples_of(rows, config), rows


def content_digest(picture: Picture, extension: str | None) -> str:
    """Return the digest of what a file with a picture alone follows from: its sha256, if it keeps its bytes."""
    if extension in (None, picture.extension) and picture.sha256:
        return picture.sha256
    content = picture.sha256 or f"{picture.path} {picture.bytes}"
    return hashlib.sha256(f"{PICTURE_VERSION} {content} {extension}".encode()).hexdigest()
