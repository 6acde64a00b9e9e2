"""The samples of a batch: its metadata table, joined with the review's decisions and the quality measures.

Exports and the review page both read this table.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.quality.quality_tables import read_quality
from kontext_pipeline.dataset.storage import read_batch

REVIEW_SCHEMA: Final = pa.schema(
    [
        ("decision", pa.string()),
        ("reason", pa.string()),
        ("reviewer", pa.string()),
        ("decided_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""The columns of a review: `keep` or `reject`, why, by whom and when. Null where nobody has decided."""
QUALITY_SCHEMA: Final = pa.schema([("issues", pa.list_(pa.string())), ("input_group", pa.string())])
"""The quality columns that every table of samples has, null where nothing was measured. The measures follow them:
a column for each, in batches that were measured."""


class ReviewDecision(Protocol):
    """What a reviewer decided about a picture."""

    @property
    def decision(self) -> str:
        """`keep` or `reject`."""

    @property
    def reason(self) -> str:
        """Why, in the reviewer's words; may be empty."""

    @property
    def reviewer(self) -> str:
        """Who decided; may be empty."""

    @property
    def decided_at(self) -> datetime:
        """When, with a time zone."""


def batch_samples(data_dir: UPath, key: str, decisions: Mapping[str, ReviewDecision]) -> pa.Table:
    """Return the metadata table of batch `key` with the columns of `REVIEW_SCHEMA`, `QUALITY_SCHEMA` and the measures.

    A row for each row of the metadata table, in its order. A user's own column with the name of a review or quality
    column is in the table as `manifest_<name>`.

    Args:
        data_dir: The data directory.
        key: The key of the batch.
        decisions: The latest decision about each picture, by fingerprint.

    Raises:
        DatasetError: The metadata table doesn't exist or can't be read.
    """
    return joined(read_batch(data_dir, key), decisions, read_quality(data_dir, key))


def joined(metadata: pa.Table, decisions: Mapping[str, ReviewDecision], quality: pa.Table | None) -> pa.Table:
    """Return `metadata` with the columns of decisions and of a quality table, as `batch_samples` does."""
    fingerprints = metadata["fingerprint"]
    added = dict(zip(REVIEW_SCHEMA.names, _decided(fingerprints, decisions), strict=True))
    measured = {} if quality is None else _measured(fingerprints, quality)
    for field in QUALITY_SCHEMA:
        found = measured.pop(field.name, None)
        added[field.name] = pa.nulls(len(fingerprints), field.type) if found is None else found.cast(field.type)
    added.update(measured)
    renamed = renamed_columns(metadata.column_names, added)
    table = metadata.rename_columns([renamed.get(name, name) for name in metadata.column_names])
    for name, values in added.items():
        table = table.append_column(name, values)
    return table


def renamed_columns(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Return new names of those columns that have a name in `taken`, whatever the case: `manifest_<name>`."""
    old = list(names)
    # DuckDB ignores case.
    used = {name.casefold() for name in taken}
    renamed: dict[str, str] = {}
    for name in old:
        new = name
        while new.casefold() in used or (new != name and new in old):
            new = f"manifest_{new}"
        if new != name:
            renamed[name] = new
    return renamed


def _decided(fingerprints: pa.ChunkedArray, decisions: Mapping[str, ReviewDecision]) -> list[pa.Array]:
    found = [decisions.get(fingerprint) for fingerprint in fingerprints.to_pylist()]
    return [
        pa.array([None if one is None else getattr(one, field.name) for one in found], field.type)
        for field in REVIEW_SCHEMA
    ]


def _measured(fingerprints: pa.ChunkedArray, quality: pa.Table) -> dict[str, pa.ChunkedArray]:
    rows = pc.index_in(fingerprints, quality["fingerprint"].combine_chunks()).combine_chunks()
    taken = quality.drop_columns(["fingerprint"]).take(rows)
    return {name: taken[name] for name in taken.column_names}
