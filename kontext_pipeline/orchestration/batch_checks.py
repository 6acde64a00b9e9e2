"""What the checks of a batch look at: its table against the plan, the ledger and the files of the pictures.

Nothing here knows Dagster's events; `check_evaluations` makes them.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa
    from upath import UPath

    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.plan import Plan

BOOKS_BALANCE: Final = "books_balance"
EVERY_ROW: Final = "every_row_has_its_picture"
PLANNED_ROWS: Final = "every_planned_row_is_in_the_table"
FEW_FAILED: Final = "few_rows_failed"
UNCHANGED: Final = "pictures_are_unchanged"

AMOUNTS: Final = {"cost_usd": "charged", "possibly_charged_usd": "possibly charged"}
"""Columns of amounts that tables and ledger share, and what differences call them."""
IDENTITY: Final = ("manifest", "row", "variant", "fingerprint")
"""The columns by which a row of the table is a row of the plan."""


@dataclass(frozen=True)
class Limits:
    """What the checks allow, and how much they read."""

    failed_share: float = 0.1
    """The largest share of a batch's rows that may be failed or unknown, 0 to 1."""
    hashed: int = 3
    """Pictures of each batch, drawn at random, whose files are read and hashed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found in one batch."""

    check: str
    figures: dict[str, int | float] = field(default_factory=dict)
    """What was counted. The figures of several batches may be added."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    """What is wrong, each with a sentence in `what`."""
    failed: str | None = None
    """Why the check failed, a sentence; None: the batch passed."""


def check_batch(
    pipeline: "Pipeline", plan: "Plan", key: str, table: "pa.Table", *, names: Sequence[str], limits: Limits
) -> list[Outcome]:
    """Run the checks `names` on a batch, of which `table` is the metadata table in the data directory."""
    checks: dict[str, Callable[[], Outcome]] = {
        BOOKS_BALANCE: lambda: _books_balance(pipeline, key, table),
        EVERY_ROW: lambda: _every_row(table),
        PLANNED_ROWS: lambda: _planned_rows(plan, key, table),
        FEW_FAILED: lambda: _few_failed(table, limits.failed_share),
        UNCHANGED: lambda: _unchanged(pipeline.data_dir, table, limits.hashed),
    }
    return [check() for name, check in checks.items() if name in names]


def _books_balance(pipeline: "Pipeline", key: str, table: "pa.Table") -> Outcome:
    import pyarrow.compute as pc

    problems = [{"what": what, "fingerprint": fingerprint} for fingerprint, what in _differences(pipeline, key, table)]
    sums = {name: round(pc.sum(table[name]).as_py() or 0.0, 6) for name in AMOUNTS}
    failed = None
    if problems:
        count = f"{len(problems):,} differences between table, ledger and pictures"
        failed = f"{count}; the first: {problems[0]['what']}"
    return Outcome(BOOKS_BALANCE, {**sums, "differences": len(problems)}, problems, failed)


def _differences(pipeline: "Pipeline", key: str, table: "pa.Table") -> Iterator[tuple[str, str]]:
    """Yield the fingerprint of each picture that is not as the table says, and what differs.

    Amounts are compared in millionths of a USD. A picture that several batches request is charged to the batch
    that the ledger names.
    """
    from kontext_pipeline.generation.ledger.money import micros

    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in table.select(["fingerprint", *AMOUNTS, "image_path", "bytes"]).to_pylist():
        rows_of.setdefault(row["fingerprint"], []).append(row)
    known = {row["fingerprint"]: row for row in pipeline.ledger.generations(list(rows_of)).to_pylist()}
    for fingerprint, rows in rows_of.items():
        generation = known.get(fingerprint, {"batch": None, "status": None})
        for column, name in AMOUNTS.items():
            here = sum(micros(row[column]) for row in rows)
            there = micros(generation[column]) if generation["batch"] == key else 0
            if here != there:
                yield fingerprint, f"{name}: {here / 1e6:.6f} USD in the table, {there / 1e6:.6f} in the ledger"
        path, size = rows[0]["image_path"], rows[0]["bytes"]
        if path is None and generation["status"] == "succeeded":
            yield fingerprint, "the ledger has a picture, the table has none: materialize metadata again"
        elif path is not None and (state := _file_differs(pipeline.data_dir / path, size)):
            yield fingerprint, f"{path} {state}; the table says {size:,}"


def _file_differs(path: "UPath", size: int) -> str | None:
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        return "does not exist"
    return None if actual == size else f"has {actual:,} bytes"


def _every_row(table: "pa.Table") -> Outcome:
    by_status = _by_status(table)
    lacking = sum(count for status, count in by_status.items() if status != "succeeded")
    figures: dict[str, int | float] = {"rows": table.num_rows, "rows_without_picture": lacking}
    if not lacking:
        return Outcome(EVERY_ROW, figures)
    counts = {status: count for status, count in by_status.items() if status != "succeeded"}
    said = f"{lacking:,} of {table.num_rows:,} rows have no picture"
    return Outcome(EVERY_ROW, figures, [{"what": said, "rows": table.num_rows, **counts}], said)


def _planned_rows(plan: "Plan", key: str, table: "pa.Table") -> Outcome:
    planned = _identities(plan.batch_table(key)) if plan.has_batch(key) else []
    found = _identities(table)
    missing, unplanned = len(set(planned) - set(found)), len(set(found) - set(planned))
    repeated = len(found) - len(set(found))
    problems = [
        {"what": f"{count:,} {what}"}
        for count, what in (
            (missing, "planned rows are not in the table"),
            (unplanned, "rows of the table are not planned"),
            (repeated, "rows are in the table more than once"),
        )
        if count
    ]
    failed = "; ".join(problem["what"] for problem in problems) or None
    figures: dict[str, int | float] = {"planned_rows": len(planned), "rows": len(found)}
    return Outcome(PLANNED_ROWS, figures, problems, f"{failed}: materialize the batch again" if failed else None)


def _identities(table: "pa.Table") -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in IDENTITY), strict=True))


def _few_failed(table: "pa.Table", most: float) -> Outcome:
    by_status = _by_status(table)
    failed = by_status["failed"] + by_status["unknown"]
    figures: dict[str, int | float] = {"rows": table.num_rows, "rows_failed": failed}
    if failed <= most * table.num_rows:
        return Outcome(FEW_FAILED, figures)
    said = f"{failed:,} of {table.num_rows:,} rows failed or are unknown, more than {most:.1%}"
    return Outcome(FEW_FAILED, figures, [{"what": said}], said)


def _unchanged(data_dir: "UPath", table: "pa.Table", most: int) -> Outcome:
    """Read some of the batch's pictures, and compare their hashes with those in the table."""
    pictures = table.select(["image_path", "image_sha256"]).filter(table["image_path"].is_valid())
    hashes = dict(zip(*(pictures[name].to_pylist() for name in pictures.column_names), strict=True))
    drawn = secrets.SystemRandom().sample(sorted(hashes), min(most, len(hashes)))
    problems = [
        {"what": f"{path} {state}"} for path in drawn if (state := _hash_differs(data_dir / path, hashes[path]))
    ]
    figures: dict[str, int | float] = {"pictures_hashed": len(drawn), "pictures_changed": len(problems)}
    failed = f"{problems[0]['what']}: restore it from a backup" if problems else None
    return Outcome(UNCHANGED, figures, problems, failed)


def _hash_differs(path: "UPath", sha256: str) -> str | None:
    try:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "does not exist"
    return None if actual == sha256 else "is not the picture that was received: its sha256 is another one"


def _by_status(table: "pa.Table") -> dict[str, int]:
    from kontext_pipeline.dataset.summary import STATUSES

    statuses = table["status"].to_pylist()
    return {status: statuses.count(status) for status in STATUSES}
