"""The plan file: one Parquet file for each manifest, `<data dir>/plan/<manifest>.parquet`.

A row is a requested picture, a row group is a batch. The footer says from what the plan was made, and has the figures
for which the rows would have to be read. The file also remembers which row is in which batch, so a manifest that was
edited is planned against its file.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext_pipeline.columns import PLAN_SCHEMA
from kontext_pipeline.errors import PlanError
from kontext_pipeline.files import AnyPath

FORMAT: Final = 1
"""Version of the file format, a part of `Footer.origin`."""
_FOOTER_KEY: Final = b"kontext_plan"
_RENAMED: Final = {"input_path": "input_source"}
"""Columns of plan files that earlier versions wrote, and their names today."""
_ROWS_AT_ONCE: Final = 20_000
_WITHOUT_DICTIONARY: Final = frozenset({"row", "id", "prompt", "input_image", "seed", "fingerprint"})

Origin = dict[str, str | int | bool]
"""All that a plan follows from, except the local input pictures. While it is the same, so is the plan."""


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of a plan file, stored as JSON in its key-value metadata.

    Attributes:
        source, shown: The manifest's absolute path or URL, and the path as the user gave it.
        pictures_digest: `input_files.digest_of` the local input pictures.
        numbers, sizes: Number and requested pictures of each batch, in the order of the row groups.
        next_number: Number of the next new batch. Numbers of batches that are gone are not used again.
        rows, pictures, text_to_image: Rows of the manifest, different requests, rows without an input image.
        above_tolerance: Rows (`first` numbers and `count`) with an input image and a higher safety tolerance than the
            provider allows beside one.
        match_without_image: Rows (the same) with the aspect ratio of their input image, but without one.
        notes: Sentences about the manifest.
        mapped: Our names of columns, with the names that the manifest has for them where these differ.
        private_inputs: Rows with an input image at an address of a private network. None: not counted, by an
            earlier version.
        default_ratio: Rows (`first` and `count`) that edit a picture at the provider's default ratio because they name
            none, and the `pictures` that they request.
        kept_ratio: Rows (the same) that keep the ratio of their pictures although a setting names another one.
        same_edits: Rows (`first` and `count`) whose prompt and input image are those of another row.
    """

    origin: Origin
    source: str
    shown: str
    pictures_digest: str
    numbers: list[int]
    sizes: list[int]
    next_number: int
    rows: int
    pictures: int
    text_to_image: int
    above_tolerance: dict[str, Any]
    match_without_image: dict[str, Any]
    notes: list[str]
    mapped: dict[str, str] = field(default_factory=dict)
    private_inputs: int | None = None
    default_ratio: dict[str, Any] = field(default_factory=dict)
    kept_ratio: dict[str, Any] = field(default_factory=dict)
    same_edits: dict[str, Any] = field(default_factory=dict)


class PlanFile:
    """An open plan file. It stays readable if it is replaced. Safe to use from several threads."""

    def __init__(self, name: str, path: AnyPath) -> None:
        """Open the plan of the manifest `name`.

        Raises:
            PlanError: The file is no plan, or of another version.
            OSError: The file can't be read.
        """
        self.name = name
        self._lock = threading.Lock()
        source = str(path) if isinstance(path, Path) else path.open("rb")
        try:
            self._file = pq.ParquetFile(source)
            footer = json.loads(self._file.metadata.metadata[_FOOTER_KEY])
            if footer["origin"]["format"] != FORMAT:
                raise PlanError(
                    f"{path} was written by another version of kontext-pipeline, whose plans this one "
                    "doesn't know; use that version, or another data directory"
                )
            self.footer = Footer(**footer)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise PlanError(
                f"{path} is no plan that can be read ({type(error).__name__}: {error}); move it away and "
                "plan again: pictures that were generated are kept, but rows may come into other batches"
            ) from error

    def row_group(self, index: int) -> pa.Table:
        """Return a batch."""
        with self._lock:
            table = self._file.read_row_group(index).replace_schema_metadata(None)
        return table.rename_columns([_RENAMED.get(name, name) for name in table.column_names])

    def fingerprints(self) -> Iterator[pa.Array]:
        """Yield the fingerprints of all rows, some at a time."""
        for column in self._column("fingerprint"):
            yield column.combine_chunks()

    def input_images(self) -> Iterator[pa.ChunkedArray]:
        """Yield the input images of all rows, some at a time."""
        yield from self._column("input_image")

    def _column(self, name: str) -> Iterator[pa.ChunkedArray]:
        # Unlike `iter_batches`, this keeps no earlier row group in memory.
        groups = range(self._file.num_row_groups)
        step = max(1, _ROWS_AT_ONCE * len(groups) // self._file.metadata.num_rows)
        for start in groups[::step]:
            with self._lock:
                table = self._file.read_row_groups(groups[start : start + step], columns=[name])
            yield table[name]

    def ratios(self) -> pa.Table:
        """Return `id`, `aspect_ratio` and `fingerprint` of each requested picture."""
        return self._file.read(columns=["id", "aspect_ratio", "fingerprint"])

    def assigned(self) -> pa.Table:
        """Return `id`, `row` and number of the `batch` of each row, sorted by `row`."""
        table = self._file.read(columns=["row", "id", "variant"])
        numbers = pa.array(np.repeat(self.footer.numbers, self.footer.sizes))
        return table.append_column("batch", numbers).filter(pc.equal(table["variant"], 1)).sort_by("row")


def write_plan_file(path: Path, own: pa.Schema, batches: Iterable[Mapping[str, pa.Array]], footer: Footer) -> None:
    """Write a plan file to a local path.

    `own` are the user's own columns, `batches` the columns of each batch in the order of `footer.numbers`.
    """
    schema = pa.schema([*PLAN_SCHEMA, *own])
    with pq.ParquetWriter(
        path,
        schema,
        # Batches are many and small: setting up zstd for each column takes longer than writing the column.
        compression="snappy",
        use_dictionary=[name for name in schema.names if name not in _WITHOUT_DICTIONARY],
        write_statistics=["row"],
    ) as writer:
        for columns in batches:
            batch = pa.table([columns[name] for name in schema.names], schema=schema)
            writer.write_table(batch, row_group_size=batch.num_rows)
        writer.add_key_value_metadata({_FOOTER_KEY: json.dumps(asdict(footer)).encode()})
