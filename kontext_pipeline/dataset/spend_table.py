"""The table of what was spent: by day, run, manifest and backend. It is made from the ledger, and kept as one file.

<data directory>/spend.parquet
"""

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from kontext_pipeline.files import write_atomically

SPEND_FILE: Final = "spend.parquet"
AMOUNTS: Final = ("charged_usd", "possibly_charged_usd", "reserved_usd")
"""The columns of amounts, by how certain these are."""
COUNTS: Final = ("attempts", "pictures")
_NAMES: Final = ("day", "backend", "run_id", "manifest", "kind")
SPEND_SCHEMA: Final = pa.schema(
    [
        pa.field("day", pa.date32(), False, {"meaning": "UTC day on which the attempts began"}),
        pa.field("backend", pa.string(), False),
        pa.field("run_id", pa.string(), False),
        pa.field("manifest", pa.string(), False),
        pa.field("kind", pa.string(), False, {"meaning": "generation, or resample: requests sent again"}),
        pa.field("attempts", pa.int64(), False, {"meaning": "requests that were sent or are about to be"}),
        pa.field("pictures", pa.int64(), False),
        *(pa.field(name, pa.float64(), False) for name in AMOUNTS),
    ]
)
_NUMBER: Final = re.compile(r"-[0-9]{5,}$")
"""The end of a batch's key behind the name of its manifest."""
_MICROS: Final = 1_000_000


def spend_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return the table (schema `SPEND_SCHEMA`) of amounts by batch, with the keys of the ledger's report of spending.

    Sums are exact to a millionth of a USD. The order is that of the rows.
    """
    named = (
        {
            **row,
            "day": datetime.date.fromisoformat(row["day"]),
            "manifest": _NUMBER.sub("", row["batch"]),
        }
        for row in rows
    )
    return pa.Table.from_pylist(sums_by(named, *_NAMES), schema=SPEND_SCHEMA)


def sums_by(rows: Iterable[Mapping[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Return the counts and amounts of rows of a spend table by some of its columns, in the order of the rows."""
    sums: dict[tuple[Any, ...], Counter[str]] = {}
    for row in rows:
        counts = sums.setdefault(tuple(row[column] for column in columns), Counter())
        counts.update({name: row[name] for name in COUNTS})
        counts.update({name: round(row[name] * _MICROS) for name in AMOUNTS})
    return [
        {
            **dict(zip(columns, key, strict=True)),
            **{name: counts[name] for name in COUNTS},
            **{name: counts[name] / _MICROS for name in AMOUNTS},
        }
        for key, counts in sums.items()
    ]


def write_spend_table(table: pa.Table, data_dir: UPath | Path) -> UPath:
    """Write the table into a data directory in place of the one that is there, and return its path.

    Raises:
        OSError: The file can't be written; the old one is untouched.
    """
    path = UPath(data_dir) / SPEND_FILE
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))
    return path
