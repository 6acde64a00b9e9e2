"""The metadata table: a batch of the plan, joined with the generation of each of its requests.

A table is a pure function of the plan and the ledger. Nothing here reads a clock, a file or the network, so the
same state gives the same bytes.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.columns import LEDGER_COLUMNS, PLAN_SCHEMA, TABLE_SCHEMA
from kontext_pipeline.dataset.own_columns import cast_column, metadata_schema, own_names, own_schema

TABLE_VERSION: Final = 1
"""Part of every plan digest. Raise the version when the same plan and ledger must give another table."""

Charged: TypeAlias = Collection[str] | pa.Array | pa.ChunkedArray


def metadata_table(
    plan_batch: pa.Table,
    generations: pa.Table,
    *,
    backend: str,
    charged: Charged | None = None,
    own: pa.Schema | None = None,
) -> pa.Table:
    """Return the metadata table of one batch: a row for each row of `plan_batch`, in its order.

    A request that `generations` lacks is pending. Rows with the same fingerprint share all facts about the
    picture except its cost: the first row has the cost and the others have 0.0, so the sum of the column is the
    bill.

    Args:
        plan_batch: The columns of `PLAN_SCHEMA` and the user's own ones.
        generations: The columns of `GENERATION_SCHEMA`, except perhaps `batch`; a row for each fingerprint. More
            fingerprints than the batch has are allowed.
        backend: What makes the pictures.
        charged: The fingerprints whose cost belongs to this batch, where several batches have the same
            fingerprint. None: all.
        own: The own columns that all tables of the data directory have: `own_schema` of all plans. None: those
            of this plan.

    Raises:
        ValueError: A column is missing, or `generations` has a fingerprint more than once.
    """
    ledger_names = [column.name for column in LEDGER_COLUMNS]
    _require(plan_batch, PLAN_SCHEMA.names, "plan")
    _require(generations, ["fingerprint", *ledger_names], "generations")
    known = generations["fingerprint"].combine_chunks()
    if len(pc.unique(known)) != len(known):
        raise ValueError("generations: a fingerprint is there more than once")

    fingerprints = plan_batch["fingerprint"].combine_chunks()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        name: plan_batch[name] for name in TABLE_SCHEMA.names if name in plan_batch.column_names
    }
    found = generations.select(ledger_names).take(pc.index_in(fingerprints, known))
    has_cost = _has_cost(fingerprints, charged)
    for column in LEDGER_COLUMNS:
        values = found[column.name].cast(column.type)
        if column.unsent is not None:
            values = pc.fill_null(values, column.unsent)
        columns[column.name] = pc.if_else(has_cost, values, column.unsent) if column.billed else values
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


def plan_digest(plan_batch: pa.Table, *, backend: str, own: pa.Schema | None = None) -> str:
    """Return a sha256 (64 hex digits) of all arguments of `metadata_table` that don't come from the ledger.

    A table with the same digest, and the same state of its requests in the ledger, needs no rewriting. Equal values may
    have several digests, as Arrow has several encodings: then a table is written once more than needed.
    """
    names = own_names(plan_batch.schema)
    own = own_schema([plan_batch.schema]) if own is None else own
    schema = [[field.name, str(field.type)] for field in metadata_schema(own)]
    digest = hashlib.sha256(json.dumps([TABLE_VERSION, backend, schema]).encode())
    # Arrow's bytes, because Python values of a million rows would take minutes.
    values = plan_batch.select([name for name in (*PLAN_SCHEMA.names, *names) if name != "input_source"])
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, values.schema) as writer:
        writer.write_table(values.combine_chunks())
    digest.update(stream.getvalue())
    return digest.hexdigest()


def _has_cost(fingerprints: pa.Array, charged: Charged | None) -> pa.Array:
    """Return for each row whether the cost of its picture belongs to it."""
    first = _first_occurrence(fingerprints)
    if charged is None:
        return first
    arrow = isinstance(charged, pa.Array | pa.ChunkedArray)
    values = charged if arrow else pa.array(list(charged), pa.string())
    return pc.and_(first, pc.is_in(fingerprints, value_set=values))


def _first_occurrence(values: pa.Array) -> pa.Array:
    """Return for each value whether no earlier value is equal."""
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(codes, return_index=True)[1]] = True
    return pa.array(mask)


def _require(table: pa.Table, names: Collection[str], what: str) -> None:
    if missing := [name for name in names if name not in table.column_names]:
        raise ValueError(f"{what}: columns are missing: {', '.join(missing)}")
