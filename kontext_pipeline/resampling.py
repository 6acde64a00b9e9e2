"""Resamples: requests of rows of the lock are sent again, to see how far the provider has drifted since.

A resample is a plan of its own, `resamples/<resample>/plan.parquet`, which the pipeline runs as it runs every plan. So a
resample that was killed goes on where it was. Its rows keep the request of the dataset's row; only the fingerprint is
another one.
"""

import hashlib
import heapq
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.columns import PLAN_SCHEMA
from kontext_pipeline.dataset.lock.lock_file import LOCK_NAME, read_lock
from kontext_pipeline.dataset.lock.resample_table import RESULT, SCHEMA, ResampleError, compared, write_result
from kontext_pipeline.dataset.storage import read_batch
from kontext_pipeline.files import write_atomically
from kontext_pipeline.generation.resamples import FOLDER, PREFIX, resample_fingerprint
from kontext_pipeline.input_collection import close_collector, open_collector
from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_collector import InputCollector
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.planning.batches import batch_key
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.plan_file import FORMAT, Footer, PlanFile, write_plan_file

PLAN: Final = "plan.parquet"
_DATE: Final = "%Y%m%dT%H%M%S.%fZ"
_OWN: Final = pa.schema(
    [(name, pa.string()) for name in ("fingerprint", "output_sha256", "date", "image_path", "input_sha256")]
)
"""Facts of the lock's row, in the plan of a resample as columns `locked_...`."""


@dataclass(frozen=True, slots=True)
class Resample:
    """A resample that was begun. `name` is the time of its begin, UTC, so names sort by it."""

    name: str
    folder: UPath
    plan: Plan

    @property
    def started_at(self) -> datetime:
        """When it was begun."""
        return datetime.strptime(self.name, _DATE).replace(tzinfo=UTC)


def open_resample(pipeline: Pipeline, count: int, seed: int | None) -> Resample:
    """Return the unfinished resample of so many rows, else a new one.

    `seed` decides which rows are chosen; None: by chance, or as the unfinished resample has it.

    Raises:
        LockError: there is no lock, or it can't be read.
        ResampleError: the lock's rows are not in the plan any more, or none of them has a picture.
    """
    wanted = {"resample": count, "backend": pipeline.settings.backend}
    if seed is not None:
        wanted["resample_seed"] = seed
    for resample in _unfinished(pipeline.data_dir / FOLDER):
        [origin] = resample.plan.origins.values()
        if wanted.items() <= origin.items():
            return resample
    return _begin(pipeline, count, secrets.randbelow(2**32) if seed is None else seed)


def finish_resample(pipeline: Pipeline, resample: Resample) -> pa.Table:
    """Compare the pictures of a resample with the locked ones, when its requests have their outcomes.

    Write the table of the resample, and return it.

    Raises:
        DatasetError: the metadata table of the resample can't be read.
        OSError: a table can't be written.
    """
    [key] = resample.plan.batch_keys
    pipeline.write_tables(resample.plan, [key])
    rows = []
    planned = resample.plan.batch_table(key).to_pylist()
    for asked, made in zip(planned, read_batch(resample.folder, key).to_pylist(), strict=True):
        locked = {name: asked[f"locked_{name}"] for name in _OWN.names}
        outcome, bits = compared(pipeline.data_dir, made, locked)
        rows.append(
            {
                **{name: made[name] for name in SCHEMA.names if name in made},
                "resample": resample.name,
                "started_at": resample.started_at,
                "fingerprint": locked["fingerprint"],
                "resample_fingerprint": asked["fingerprint"],
                "outcome": outcome,
                "distance": bits,
                "locked_date": locked["date"],
                "locked_sha256": locked["output_sha256"],
            }
        )
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_result(resample.folder, table)
    return table


def _unfinished(folder: UPath) -> Iterator[Resample]:
    for path in sorted(folder.glob(f"*/{PLAN}"), key=str, reverse=True) if folder.is_dir() else ():
        if not (path.parent / RESULT).exists():
            yield _opened(path.parent)


def _opened(folder: UPath) -> Resample:
    return Resample(folder.name, folder, Plan([PlanFile(f"{PREFIX}{folder.name}", folder / PLAN)]))


def _begin(pipeline: Pipeline, count: int, seed: int) -> Resample:
    chosen = _chosen(pipeline.data_dir / LOCK_NAME, count, seed, backend=pipeline.settings.backend)
    rows = _rows_of(pipeline, chosen)
    name = datetime.now(UTC).strftime(_DATE)
    for row in rows:
        row["fingerprint"] = resample_fingerprint(name, row["fingerprint"])
        row["batch"] = batch_key(f"{PREFIX}{name}", 0)
    schema = pa.schema([*PLAN_SCHEMA, *(field.with_name(f"locked_{field.name}") for field in _OWN)])
    table = pa.Table.from_pylist(rows, schema=schema)
    nothing: dict[str, Any] = {"first": [], "count": 0}
    footer = Footer(
        origin={
            "format": FORMAT,
            "backend": pipeline.settings.backend,
            "resample": count,
            "resample_seed": seed,
            "clamp_safety_tolerance": False,
        },
        source="",
        shown=f"resample {name}",
        pictures_digest="",
        numbers=[0],
        sizes=[table.num_rows],
        next_number=1,
        rows=table.num_rows,
        pictures=table.num_rows,
        text_to_image=table["input_image"].null_count,
        above_tolerance=nothing,
        match_without_image=nothing,
        notes=[],
    )
    folder = pipeline.data_dir / FOLDER / name
    own = pa.schema([field for field in schema if field.name not in PLAN_SCHEMA.names])
    columns = dict(zip(table.column_names, (column.combine_chunks() for column in table.columns), strict=True))

    def write(temporary: Path) -> None:
        write_plan_file(temporary, own, [columns], footer)

    write_atomically(folder / PLAN, write)
    return _opened(folder)


def _chosen(lock: UPath, count: int, seed: int, *, backend: str) -> dict[str, Mapping[str, Any]]:
    """Return rows of the lock with a picture, by fingerprint: the same ones for the same lock and seed."""
    manifests = set()

    def ranked() -> Iterator[tuple[str, Mapping[str, Any]]]:
        before = ""
        for section, _, record in read_lock(lock):
            if section == "manifests" and record["backend"] == backend:
                manifests.add(record["name"])
            elif section == "rows" and record["manifest"] in manifests and record["fingerprint"] != before:
                if record["output_sha256"] is None:
                    continue
                # Rows are sorted by fingerprint. Those that share a picture are one request.
                before = record["fingerprint"]
                yield hashlib.sha256(f"{seed}\n{before}".encode()).hexdigest(), record

    best = heapq.nsmallest(count, ranked(), key=lambda one: one[0])
    if not best:
        raise ResampleError(f"no row of {lock} with the backend {backend} has a picture. Nothing was sent.")
    return {record["fingerprint"]: record for _, record in best}


def _rows_of(pipeline: Pipeline, chosen: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the plan's row of each request, with what the lock says of it, sorted by fingerprint."""
    plan = pipeline.planned()
    wanted = pa.array(sorted(chosen))
    found: dict[str, dict[str, Any]] = {}
    for key in plan.batch_keys:
        batch = plan.batch_table(key)
        for row in batch.filter(pc.is_in(batch["fingerprint"], wanted)).select(PLAN_SCHEMA.names).to_pylist():
            found.setdefault(row["fingerprint"], row)
    if gone := chosen.keys() - found.keys():
        raise ResampleError(
            f"{len(gone):,} of the chosen rows of the lock are not in the plan any more, such as that with the "
            f"fingerprint {min(gone)[:12]}: the manifest or a setting was changed. Run it, and lock again. Nothing was sent."
        )
    collector = open_collector(pipeline.settings, pipeline.data_dir)
    try:
        rows = [_from_locked_input(pipeline, found[one], chosen[one], collector) for one in sorted(found)]
    finally:
        close_collector(collector)
    for row in rows:
        row |= {f"locked_{name}": chosen[row["fingerprint"]][name] for name in _OWN.names}
    return rows


def _from_locked_input(
    pipeline: Pipeline, row: dict[str, Any], locked: Mapping[str, Any], collector: InputCollector
) -> dict[str, Any]:
    """Return a row of the plan whose input picture is the one that the lock names, where that was kept."""
    if locked["input_path"] is None:
        return row
    address = InputAddress(row["input_source"] or row["input_image"], row["input_sha256"])
    try:
        if address.sha256 is None and collector.get(address).kept.sha256 == locked["input_sha256"]:
            return row
    except InputProblem:
        pass
    kept = str(pipeline.data_dir / locked["input_path"])
    return {**row, "input_source": kept, "input_sha256": locked["input_sha256"]}
