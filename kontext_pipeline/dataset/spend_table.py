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
        pa.field(name, kind, False, {"meaning": meaning})
        for name, kind, meaning in (
            ("day", pa.date32(), "UTC day on which the requests were sent"),
            ("backend", pa.string(), "segmind is paid, sandbox is not"),
            ("run_id", pa.string(), "the run that sent them"),
            ("manifest", pa.string(), "the manifest that asked for them first, or the resample"),
            ("kind", pa.string(), "generation, or resample: requests sent again to compare pictures"),
            ("attempts", pa.int64(), "requests that were sent, or are about to be"),
            ("pictures", pa.int64(), "pictures that came"),
            ("charged_usd", pa.float64(), "what was charged"),
            ("possibly_charged_usd", pa.float64(), "held for answers that were lost"),
            ("reserved_usd", pa.float64(), "held for requests that are not settled"),
        )
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
