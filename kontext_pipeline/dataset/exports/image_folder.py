"""The layout `imagefolder`: pictures as files, beside a table that names them.

    data/<split>/metadata.parquet                     `input_image_file_name`, `edited_image_file_name`, the other columns
    data/<split>/images/<first two hex>/<fingerprint>.<ext>
    data/<split>/inputs/<first two hex>/<sha256>.<ext>

A picture that several samples have is there once. Rows without an input picture are in `text_to_image/`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from kontext_pipeline.dataset.exports.export_job import ExportJob, Part, chunks, content_digest
from kontext_pipeline.dataset.exports.reduced_rows import EDITS
from kontext_pipeline.dataset.exports.sample_pictures import Loaded, Picture, Sample, read_ahead
from kontext_pipeline.dataset.exports.sample_rows import PICTURES
from kontext_pipeline.dataset.exports.shards import READ_AHEAD_BYTES, ShardDigest

METADATA: Final = "metadata.parquet"


def write_image_folder(job: ExportJob, part: Part, table: pa.Table) -> None:
    """Write the samples of one configuration and split, and count them.

    Raises:
        OSError: The export can't be written, or the data directory not read.
    """
    root = f"{'data' if part.config == EDITS else part.config}/{part.split}"
    _Folder(job, part, table, root).write()


class _Folder:
    """A folder of one configuration and split."""

    def __init__(self, job: ExportJob, part: Part, table: pa.Table, root: str) -> None:
        self._job = job
        self._part = part
        self._table = table
        self._root = root
        self._names = PICTURES[part.config]
        self._bytes: dict[str, int] = {}
        self._missing: dict[str, str] = {}

    def write(self) -> None:
        """Write pictures, then the table of those samples that have theirs."""
        extension = self._job.options.image_format
        loaded = read_ahead(
            self._to_write(),
            lambda item: self._job.reader.try_all(Sample("", "", "", (item[0],)), (extension,)),
            weight=lambda item: item[0].bytes_as(extension),
            most=READ_AHEAD_BYTES,
        )
        for (picture, path, made_from), found in loaded:
            if isinstance(found, str):
                self._missing[picture.path] = found
            else:
                entry = self._job.folder.put(path, made_from, partial(_write_bytes, found))
                self._bytes[picture.path] = entry.bytes
        digest = ShardDigest("imagefolder", (extension,))
        for samples, rows in self._rows():
            self._part.rows += len(samples)
            self._part.bytes += sum(self._bytes[picture.path] for one in samples for picture in one.pictures)
            digest.add(samples, rows)
        for samples, _ in chunks(self._table, self._part.config):
            for one in samples:
                if reason := self._problem(one):
                    self._part.leave_out(reason, [one.id])
        self._job.folder.put(f"{self._root}/{METADATA}", digest.hexdigest(), self._write_table)

    def _to_write(self) -> Iterator[tuple[Picture, str, str]]:
        """Yield the pictures that are not there yet: picture, path in the export, and digest."""
        for samples, _ in chunks(self._table, self._part.config):
            for picture in (picture for one in samples for picture in one.pictures):
                if picture.path in self._bytes:
                    continue
                # Asked for once: its size follows when it is written.
                self._bytes[picture.path] = 0
                path = f"{self._root}/{self._place(picture)}"
                made_from = content_digest(picture, self._job.options.image_format)
                entry = self._job.folder.reuse(path, made_from)
                if entry is None:
                    yield picture, path, made_from
                else:
                    self._bytes[picture.path] = entry.bytes
            self._job.advance(len(samples))

    def _place(self, picture: Picture) -> str:
        suffix = f".{self._job.options.image_format or picture.extension}"
        return PurePosixPath(picture.path).with_suffix(suffix).as_posix()

    def _problem(self, sample: Sample) -> str | None:
        return next((self._missing[one.path] for one in sample.pictures if one.path in self._missing), None)

    def _rows(self) -> Iterator[tuple[list[Sample], pa.Table]]:
        """Yield the samples that have their pictures, and the rows of the table, a few at a time."""
        schema = self._schema()
        for samples, part in chunks(self._table, self._part.config):
            there = [number for number, one in enumerate(samples) if self._problem(one) is None]
            rows = self._job.rows.rows(part, self._part.config).take(pa.array(there, pa.int64()))
            found = [samples[number] for number in there]
            for place, name in enumerate(self._names):
                paths = pa.array([self._place(one.pictures[place]) for one in found], pa.string())
                rows = rows.append_column(f"{name}_file_name", paths)
            yield found, rows.select(schema.names)

    def _schema(self) -> pa.Schema:
        columns = self._job.rows.schema(self._part.config)
        first, *rest = (pa.field(f"{name}_file_name", pa.string()) for name in self._names)
        return pa.schema([first, columns.field(0), *rest, *list(columns)[1:]])

    def _write_table(self, path: Path) -> None:
        with pq.ParquetWriter(path, self._schema(), compression="zstd") as writer:
            for _, rows in self._rows():
                if rows.num_rows:
                    writer.write_table(rows)


def _write_bytes(found: list[Loaded], path: Path) -> None:
    path.write_bytes(found[0].data)
