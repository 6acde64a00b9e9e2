"""The registry of columns: every column that the plan, the ledger's result and the metadata table have.

A new column is one line at the end of `COLUMNS`, with `Position.LAST` if the metadata table has it. The schemas below
follow from it. Names, types and order of existing columns never change: users' files have them.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import pyarrow as pa


class Source(Enum):
    """Who determines a column's values."""

    MANIFEST = auto()
    """The user, in a manifest's column of the same name. The plan keeps the value that is sent."""
    PLAN = auto()
    """Planning."""
    LEDGER = auto()
    """The ledger, once the request has been sent."""
    DERIVED = auto()
    """`metadata_table`, when it makes a table."""


class Position(Enum):
    """Where the metadata table has a column."""

    REGISTERED = auto()
    """In the order of `COLUMNS`."""
    LAST = auto()
    """After all that are `REGISTERED`. New columns are here, so that no existing column moves."""
    ABSENT = auto()
    """Nowhere."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: The name, the same in every file.
        type: The Arrow type, the same in every file.
        source: Who determines the values.
        meaning: What a value says, for readers of the metadata table.
        position: Where the metadata table has the column.
        in_plan: Whether a plan file has the column.
        unsent: The value in the metadata table for a request that was never sent.
        billed: The value is money: of the rows that share a picture, one has the value, the others `unsent`.
    """

    name: str
    type: pa.DataType
    source: Source
    meaning: str
    position: Position = Position.REGISTERED
    in_plan: bool = False
    unsent: Any = None
    billed: bool = False


def _manifest(name: str, kind: pa.DataType, meaning: str, **options: Any) -> Column:
    return Column(name, kind, Source.MANIFEST, meaning, in_plan=True, **options)


def _plan(name: str, kind: pa.DataType, meaning: str, **options: Any) -> Column:
    return Column(name, kind, Source.PLAN, meaning, in_plan=True, **options)


def _ledger(name: str, kind: pa.DataType, meaning: str, **options: Any) -> Column:
    return Column(name, kind, Source.LEDGER, meaning, **options)


def _billed(name: str, kind: pa.DataType, meaning: str, unsent: Any, **options: Any) -> Column:
    return _ledger(name, kind, meaning, unsent=unsent, billed=True, **options)


_LAST: Final = Position.LAST
_STRING: Final = pa.string()
_TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

COLUMNS: Final = (
    _plan("manifest", _STRING, "name of the manifest", position=_LAST),
    _plan("row", pa.int64(), "data row in that manifest, from 1, header not counted", position=_LAST),
    _manifest("id", _STRING, "the manifest's id of the row, or the one that planning gave"),
    _plan("batch", _STRING, "key of the batch; in files, the name of the folder has it (see storage)"),
    _plan("variant", pa.int32(), "number of this picture among those of its row, from 1"),
    _manifest("prompt", _STRING, "as sent"),
    _manifest("input_image", _STRING, "as in the manifest; null is text-to-image"),
    _plan(
        "input_source", _STRING, "absolute path of a local input image; URL of a relative one", position=Position.ABSENT
    ),
    _plan("input_sha256", _STRING, "sha256 of a local or embedded input image; null for a URL", position=_LAST),
    _manifest("aspect_ratio", _STRING, "as sent"),
    _manifest("output_format", _STRING, "png or jpg"),
    _manifest("safety_tolerance", pa.int32(), "as sent, 1 (strict) to 6"),
    _plan("safety_tolerance_asked", pa.int32(), "as in the manifest; differs where a setting lowered it"),
    _manifest("seed", pa.int64(), "as sent"),
    _plan("fingerprint", _STRING, "identity of the picture, 64 hex digits; equal ones share a picture"),
    _ledger("status", _STRING, "succeeded, failed, pending or unknown", unsent="pending"),
    _ledger("status_code", pa.int32(), "HTTP status of the last answer; null where none came"),
    _ledger("error", _STRING, "why there is no picture, in the server's words where it sent any"),
    _ledger("attempts", pa.int32(), "how many times the request was sent", unsent=0),
    _billed("cost_usd", pa.float64(), "USD billed; 0 where another row of the same picture has it", 0.0),
    _billed("cost_estimated", pa.bool_(), "the cost is the list price, as the answer named none", False),
    _billed("possibly_charged_usd", pa.float64(), "USD perhaps billed for answers that were lost", 0.0),
    _ledger("latency_s", pa.float64(), "seconds that the last attempt took"),
    _ledger("request_id", _STRING, "the provider's id of the request"),
    _ledger("image_path", _STRING, "relative to the data directory; null where there is no picture"),
    _ledger("image_sha256", _STRING, "sha256 of the picture's file, 64 hex digits"),
    _ledger("width", pa.int32(), "pixels"),
    _ledger("height", pa.int32(), "pixels"),
    _ledger("bytes", pa.int64(), "size of the picture's file"),
    Column("backend", _STRING, Source.DERIVED, "what made the picture: sandbox or segmind"),
    _ledger("run_id", _STRING, "id of the run that made the last attempt"),
    _ledger("started_at", _TIMESTAMP, "when the first attempt started"),
    _ledger("finished_at", _TIMESTAMP, "when the last attempt ended"),
    Column("variants", pa.int32(), Source.MANIFEST, "pictures that the row requests", Position.ABSENT),
    _ledger("input_path", _STRING, "kept input picture, relative to the data directory", position=_LAST),
    _ledger("input_kept_sha256", _STRING, "sha256 of the kept input picture's file", position=_LAST),
    _ledger("input_width", pa.int32(), "pixels of the kept input picture, turned upright", position=_LAST),
    _ledger("input_height", pa.int32(), "pixels of the kept input picture, turned upright", position=_LAST),
)
"""Every column. The plan and the ledger's result have theirs in this order."""

MANIFEST_COLUMNS: Final = tuple(column for column in COLUMNS if column.source is Source.MANIFEST)
"""The columns of a manifest that are not the user's own ones."""

LEDGER_COLUMNS: Final = tuple(column for column in COLUMNS if column.source is Source.LEDGER)

TABLE_COLUMNS: Final = tuple(
    column for position in (Position.REGISTERED, Position.LAST) for column in COLUMNS if column.position is position
)
"""The columns of the metadata table, in its order; the user's own ones follow."""

RESERVED_NAMES: Final = frozenset(column.name for column in COLUMNS if column.source is not Source.MANIFEST)
"""Names that a user's own columns can't have."""


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([(column.name, column.type) for column in columns])


PLAN_SCHEMA: Final = _schema(tuple(column for column in COLUMNS if column.in_plan))
"""The columns of a plan file; the user's own ones follow."""

GENERATION_SCHEMA: Final = pa.schema(
    [PLAN_SCHEMA.field("fingerprint"), PLAN_SCHEMA.field("batch"), *_schema(LEDGER_COLUMNS)]
)
"""What the ledger knows of requests, one row each. `batch` is the batch whose table has the cost."""

TABLE_SCHEMA: Final = _schema(TABLE_COLUMNS)
"""The metadata table without the user's own columns."""
