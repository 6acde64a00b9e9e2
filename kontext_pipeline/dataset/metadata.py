"""The metadata table: a batch of the plan, joined with what became of each of its pictures.

Belongs here: what makes one row of the table. A table is a pure function of the plan and the ledger:
nothing here reads a clock, a file or the network, so writing it again from the same state gives the same
bytes.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.dataset.schema import (
    CORE_SCHEMA,
    GENERATION_COLUMNS,
    PLAN_COLUMNS,
    cast_column,
    metadata_schema,
    own_names,
    own_schema,
)

TABLE_VERSION: Final = 1
"""Part of every plan digest: raise it when the same plan and ledger shall give another table."""

_BEFORE_THE_FIRST_ATTEMPT: Final = {
    "status": "pending",
    "attempts": 0,
    "cost_usd": 0.0,
    "cost_estimated": False,
    "possibly_charged_usd": 0.0,
}
_COSTS: Final = ("cost_usd", "possibly_charged_usd")


def metadata_table(
    plan_batch: pa.Table,
    generations: pa.Table,
    *,
    backend: str,
    charged: Collection[str] | pa.Array | pa.ChunkedArray | None = None,
    own: pa.Schema | None = None,
) -> pa.Table:
    """Return the metadata table of one batch: one row for each row of `plan_batch`, in its order.

    `plan_batch` has `PLAN_COLUMNS` and the manifest's own columns. `generations` has `fingerprint`, at
    most once each, and `GENERATION_COLUMNS`; it may hold more than this batch. A picture that isn't in it
    is pending.

    Rows that share a fingerprint share everything about the picture but its cost: the first of them has
    it, the others have 0.0, so that the column adds up to the bill. Where a fingerprint is in more than
    one batch the same must hold over all of them: `charged` names the fingerprints whose cost belongs to
    this batch (`charged_by_batch` finds them); None is all of them.

    `own` is the own columns that every table of the data directory shares (`own_schema` over all plans);
    None is those of this plan alone.

    Raises `ValueError` for a column that is missing or a fingerprint that is twice in `generations`.
    """
    _require(plan_batch, PLAN_COLUMNS, "plan")
    _require(generations, ("fingerprint", *GENERATION_COLUMNS), "generations")
    known = generations["fingerprint"].combine_chunks()
    if len(pc.unique(known)) != len(known):
        raise ValueError("generations: a fingerprint is there more than once")

    fingerprints = plan_batch["fingerprint"].combine_chunks()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        name: plan_batch[name] for name in CORE_SCHEMA.names if name in plan_batch.column_names
    }
    found = generations.select(GENERATION_COLUMNS).take(pc.index_in(fingerprints, known))
    for name in GENERATION_COLUMNS:
        column = found[name].cast(CORE_SCHEMA.field(name).type)
        if name in _BEFORE_THE_FIRST_ATTEMPT:
            column = pc.fill_null(column, _BEFORE_THE_FIRST_ATTEMPT[name])
        columns[name] = column
    pays = _pays(fingerprints, charged)
    for name in _COSTS:
        columns[name] = pc.if_else(pays, columns[name], 0.0)
    columns["cost_estimated"] = pc.and_(pays, columns["cost_estimated"])
    columns["backend"] = pa.repeat(pa.scalar(backend, pa.string()), len(fingerprints))

    names = {new: old for old, new in own_names(plan_batch.schema).items()}
    own = own_schema([plan_batch.schema]) if own is None else own
    if lost := names.keys() - set(own.names):
        raise ValueError(f"own: lacks columns of this plan: {', '.join(sorted(lost))}")
    for field in own:
        if field.name in names:
            columns[field.name] = cast_column(plan_batch[names[field.name]], field.type)
        else:
            columns[field.name] = pa.nulls(len(fingerprints), field.type)

    schema = metadata_schema(own)
    arrays = [columns[field.name].cast(field.type) for field in schema]
    return pa.table(arrays, schema=schema).combine_chunks()


def charged_by_batch(plan: pa.Table) -> dict[str, pa.Array]:
    """Return for each batch the fingerprints whose cost belongs to it, each fingerprint to one batch.

    `plan` is everything planned in the data directory (at least `batch` and `fingerprint`), always in the
    same order: a picture is charged to the batch of the first row that asks for it.
    """
    table = plan.select(["batch", "fingerprint"]).combine_chunks()
    first = table.filter(_first_occurrence(table["fingerprint"].combine_chunks()))
    charged: dict[str, pa.Array] = {
        key: pa.array([], pa.string()) for key in pc.unique(table["batch"]).to_pylist()
    }
    grouped = first.group_by("batch").aggregate([("fingerprint", "list")])
    for key, fingerprints in zip(
        grouped["batch"].to_pylist(), grouped["fingerprint_list"].combine_chunks(), strict=True
    ):
        charged[key] = fingerprints.values
    return charged


def plan_digest(
    plan_batch: pa.Table,
    *,
    backend: str,
    charged: Collection[str] | pa.Array | pa.ChunkedArray | None = None,
    own: pa.Schema | None = None,
) -> str:
    """Return a sha256 (64 hex digits) of all that `metadata_table` is made of, but for the ledger.

    While it stays the same, a table whose every picture is there needs no rewriting.
    """
    names = own_names(plan_batch.schema)
    own = own_schema([plan_batch.schema]) if own is None else own
    # Arrow's own encoding of a table differs with chunks, offsets and encodings of the same values.
    values = plan_batch.combine_chunks().to_pydict()
    fingerprints = plan_batch["fingerprint"].combine_chunks()
    described = {
        "version": TABLE_VERSION,
        "backend": backend,
        "schema": [[field.name, str(field.type)] for field in metadata_schema(own)],
        "columns": {name: values[name] for name in (*PLAN_COLUMNS, *names) if name != "input_path"},
        "pays": _pays(fingerprints, charged).to_pylist(),
    }
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _pays(fingerprints: pa.Array, charged: Collection[str] | pa.Array | pa.ChunkedArray | None) -> pa.Array:
    first = _first_occurrence(fingerprints)
    if charged is None:
        return first
    arrow = isinstance(charged, pa.Array | pa.ChunkedArray)
    values = charged if arrow else pa.array(list(charged), pa.string())
    return pc.and_(first, pc.is_in(fingerprints, value_set=values))


def _first_occurrence(values: pa.Array) -> pa.Array:
    """Return a mask that is true where a value stands for the first time."""
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(codes, return_index=True)[1]] = True
    return pa.array(mask)


def _require(table: pa.Table, names: Collection[str], what: str) -> None:
    if missing := [name for name in names if name not in table.column_names]:
        raise ValueError(f"{what}: columns are missing: {', '.join(missing)}")
