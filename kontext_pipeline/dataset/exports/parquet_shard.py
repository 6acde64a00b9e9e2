"""A Parquet file of samples with their pictures, typed so that Hugging Face `datasets` gives pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from kontext_pipeline.dataset.exports.column_features import features_of
from kontext_pipeline.dataset.exports.shards import Chunks, LoadedSamples, ShardFacts

ROW_GROUP_BYTES: Final = 32 * 10**6
"""Bytes of pictures after which a row group ends. The Hub's viewer gives up on groups of some 300 MB."""
PICTURE_TYPE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shard_schema(columns: pa.Schema, pictures: tuple[str, ...]) -> pa.Schema:
    """Return the schema of a file: the input picture, the prompt, the edited picture, then the other columns.

    `columns` are those without pictures, the prompt first.
    """
    first, *rest = (pa.field(name, PICTURE_TYPE) for name in pictures)
    fields = [first, columns.field(0), *rest, *list(columns)[1:]]
    info = {"info": {"features": features_of(pa.schema(fields), pictures)}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(info, ensure_ascii=False)})


def write_parquet(path: Path, columns: pa.Schema, chunks: Chunks, pictures: tuple[str, ...]) -> dict[str, Any]:
    """Write a file of samples and return its facts. `columns` are those of the rows, the prompt first."""
    facts = ShardFacts()
    schema = shard_schema(columns, pictures)
    others = [field.name for field in columns if not pa.types.is_nested(field.type)]
    with pq.ParquetWriter(
        path,
        schema,
        compression={field.name: "none" if field.name in pictures else "zstd" for field in schema},
        use_dictionary=others,
        write_statistics=others,
        write_page_index=True,
    ) as writer:
        for loaded, rows in chunks:
            for group in _groups(loaded, rows, pictures, facts):
                writer.write_table(group.select(schema.names).cast(schema), row_group_size=group.num_rows)
    return facts.as_dict()


def _groups(loaded: LoadedSamples, rows: pa.Table, pictures: tuple[str, ...], facts: ShardFacts) -> Iterator[pa.Table]:
    """Yield the rows of samples that have their pictures, with these, in groups of about `ROW_GROUP_BYTES`."""
    numbers: list[int] = []
    found: list[list[dict[str, Any]]] = []
    held = 0

    def group() -> pa.Table:
        table = rows.take(numbers)
        for place, name in enumerate(pictures):
            table = table.append_column(name, pa.array([one[place] for one in found], PICTURE_TYPE))
        numbers.clear()
        found.clear()
        return table

    for number, (sample, its) in enumerate(loaded):
        if isinstance(its, str):
            facts.leave_out(sample, its)
            continue
        numbers.append(number)
        named = zip(sample.pictures, its, strict=True)
        found.append([{"bytes": one.data, "path": f"{picture.stem}.{one.extension}"} for picture, one in named])
        held += facts.add(its)
        if held >= ROW_GROUP_BYTES:
            yield group()
            held = 0
    if numbers:
        yield group()
