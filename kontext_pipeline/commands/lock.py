"""`kontext lock` and `kontext verify`: the lock of a data directory, and its comparison with the disk. Both cost nothing."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
from upath import UPath

from kontext_pipeline import console
from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.data_directory import data_dir_of
from kontext_pipeline.dataset.lock.listed_files import with_hashes
from kontext_pipeline.dataset.lock.lock_file import (
    LOCK_NAME,
    TABLE_COLUMNS,
    files_of,
    other_line,
    sorted_rows,
    write_lock,
)
from kontext_pipeline.dataset.lock.sorted_files import SortedFiles
from kontext_pipeline.dataset.lock.verification import Verification
from kontext_pipeline.dataset.storage import DatasetError, batch_path, read_batch, written_batches
from kontext_pipeline.exits import Exit
from kontext_pipeline.planning.plan import Plan, load_plan
from kontext_pipeline.segmind.model import MODEL
from kontext_pipeline.settings import Settings

_OF_THE_FILE: Final = frozenset({"format", "source", "size", "together"})
"""Members of a plan's origin that say where the manifest was, not what it asks for."""


def lock(settings: Settings) -> Exit:
    """Write the lock of the settings' data directory.

    Raises:
        PlanError: nothing was planned yet.
        DatasetError: a batch has no metadata table, or one that can't be read or is older than the plan.
        OSError: the lock can't be written.
    """
    data_dir = data_dir_of(settings)
    plan = load_plan(data_dir)
    written = write_lock_of(data_dir, plan)
    console.say(f"{console.many(written, 'row')} locked in {data_dir / LOCK_NAME}")
    return Exit.DONE


def write_lock_of(data_dir: UPath, plan: Plan) -> int:
    """Write the lock of a data directory, and return how many rows it has.

    Raises:
        DatasetError: a batch has no metadata table, or one that can't be read or is older than the plan.
        OSError: the lock can't be written.
    """
    count = 0
    with sorted_rows(_current_tables(data_dir, plan), model=MODEL) as rows, SortedFiles() as files:

        def lines() -> Iterator[str]:
            nonlocal count
            for _, line in rows:
                for path, sha256 in files_of(json.loads(line)):
                    files.add(path, sha256)
                count += 1
                yield line

        def others() -> Iterator[str]:
            # Begins when the rows are written, so all of their files are known.
            unnamed = ((path, "") for path, expected, _ in files.beside(data_dir) if expected is None)
            for path, _, sha256 in with_hashes(data_dir, unnamed):
                yield other_line(path, sha256)

        write_lock(data_dir / LOCK_NAME, manifests=manifests_of(plan), rows=lines(), others=others())
    return count


def verify(settings: Settings, lock_path: str | None) -> Exit:
    """Compare the settings' data directory with its lock, or with the lock at `lock_path`, and print every difference.

    Raises:
        LockError: there is no lock, or it can't be read.
        OSError: a folder or a file can't be read.
    """
    data_dir = data_dir_of(settings)
    path = data_dir / LOCK_NAME if lock_path is None else UPath(lock_path)
    verification = Verification(data_dir, path, model=MODEL, rebuilt=lock_path is not None)
    plan = _plan_of(data_dir)
    problems: list[str] = []
    for line in verification.differences(
        _tables(data_dir, plan, problems), None if plan is None else manifests_of(plan)
    ):
        console.say(line)
    for line in problems:
        console.say(line)
    counts = verification.counts
    differences = counts["differences"] + len(problems)
    console.say(
        f"{counts['same_rows']:,} of {console.many(counts['rows'], 'row')} are as in the lock; "
        f"{counts['same_pictures']:,} of {console.many(counts['pictures'], 'picture')} have the sha256 of the lock"
    )
    console.say(f"{console.many(differences, 'difference')}." if differences else "Nothing differs from the lock.")
    return Exit.SOME_FAILED if differences else Exit.DONE


def manifests_of(plan: Plan) -> list[dict[str, Any]]:
    """Return what the plan of each manifest follows from, by name: its digest and the settings that count."""
    return [
        {"name": name, **{field: value for field, value in sorted(origin.items()) if field not in _OF_THE_FILE}}
        for name, origin in sorted(plan.origins.items())
    ]


def _current_tables(data_dir: UPath, plan: Plan) -> Iterator[pa.Table]:
    for key in plan.batch_keys:
        table = read_batch(data_dir, key, columns=TABLE_COLUMNS)
        if not _is_of(table, plan, key):
            raise DatasetError(f"The metadata of batch {key} is older than the plan. Run the batch first.")
        yield table


def _tables(data_dir: UPath, plan: Plan | None, problems: list[str]) -> Iterator[pa.Table]:
    """Yield the tables as they are. Where one can't be read, its rows are those of the plan, without outcomes."""
    for key in written_batches(data_dir) if plan is None else plan.batch_keys:
        try:
            table = read_batch(data_dir, key, columns=TABLE_COLUMNS)
        except DatasetError as error:
            what = "can't be read" if batch_path(data_dir, key).exists() else "missing"
            problems.append(f"table {what}: batch {key}" if what == "missing" else f"table {what}: {error}")
            if plan is None:
                continue
            planned = plan.batch_table(key)
            table = pa.table(
                {
                    name: planned[name] if name in planned.column_names else pa.nulls(len(planned), field.type)
                    for name, field in ((name, TABLE_SCHEMA.field(name)) for name in TABLE_COLUMNS)
                }
            )
        else:
            if plan is not None and not _is_of(table, plan, key):
                problems.append(f"table older than the plan: batch {key}")
        yield table


def _is_of(table: pa.Table, plan: Plan, key: str) -> bool:
    planned = plan.batch_table(key)
    return all(
        table[name].combine_chunks().equals(planned[name].combine_chunks()) for name in ("fingerprint", "id", "variant")
    )


def _plan_of(data_dir: UPath) -> Plan | None:
    """Return the plan of all manifests; None where the data directory has been copied without one."""
    folder = data_dir / "plan"
    return load_plan(data_dir) if folder.is_dir() and any(folder.glob("*.parquet")) else None
