"""A manifest's own columns reach the metadata table in types that pandas, DuckDB and Polars read alike."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kontext_pipeline.columns import GENERATION_SCHEMA
from kontext_pipeline.dataset.metadata import metadata_table
from tests.planning.reading import plan_of, problems_of, rows_of, values


def extension(kind: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS: dict[str, tuple[pa.Array, list[Any]]] = {
    "string_view": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "binary_view": (pa.array([b"a", None], pa.binary_view()), [b"a", None]),
    "list_view": (pa.array([[1], None], pa.list_view(pa.int64())), [[1], None]),
    "nested_view": (
        pa.array([{"k": [["x"]]}, None], pa.struct([("k", pa.list_(pa.list_view(pa.string_view())))])),
        [{"k": [["x"]]}, None],
    ),
    "large_list": (pa.array([[1], None], pa.large_list(pa.int64())), [[1], None]),
    "fixed_list": (pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), [[1, 2], [3, 4]]),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    "nested_dictionary": (pa.array([["a"], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))), [["a"], None]),
    "decimal32": (pa.array([Decimal("1.5"), None], pa.decimal32(5, 1)), [Decimal("1.5"), None]),
    "decimal256": (pa.array([Decimal("1.5"), None], pa.decimal256(50, 1)), ["1.5", None]),
    "duration": (pa.array([timedelta(minutes=1), None], pa.duration("ms")), [60.0, None]),
    "half": (pa.array([1.5, None], pa.float16()), [1.5, None]),
    "time": (pa.array([time(1), None], pa.time32("s")), [time(1), None]),
    "moment": (pa.array([MOMENT, None], pa.timestamp("s", "UTC")), [MOMENT, None]),
    "day": (pa.array([date(2024, 1, 1), None]), [date(2024, 1, 1), None]),
    "null": (pa.nulls(2), [None, None]),
    "list_of_null": (pa.array([[], None], pa.list_(pa.null())), [[], None]),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    "json": (extension(pa.json_(), ['{"a": 1}', None]), ['{"a": 1}', None]),
    "uuid": (extension(pa.uuid(), [UUID(int=1).bytes, None]), [UUID(int=1).bytes, None]),
    "tensor": (extension(pa.fixed_shape_tensor(pa.int32(), (2,)), [[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
}


def test_every_reader_reads_the_metadata_table(tmp_path: Path) -> None:
    own = {name: array for name, (array, _) in COLUMNS.items()}
    pq.write_table(pa.table({"prompt": ["x", "y"], **own}), tmp_path / "m.parquet")
    plan = plan_of(tmp_path / "data", tmp_path / "m.parquet")
    table = metadata_table(plan.batch_table("m-00000"), GENERATION_SCHEMA.empty_table(), backend="sandbox")
    path = tmp_path / "table.parquet"
    pq.write_table(table, path)
    frame, lazy = pd.read_parquet(path), pl.read_parquet(path)
    query = duckdb.connect().execute(f"SELECT * FROM '{path}'")
    names = [column[0] for column in query.description or ()]
    rows = query.fetchall()
    for name, (_, expected) in COLUMNS.items():
        assert table[name].to_pylist() == expected
        assert lazy[name].to_list() == expected
        assert str(rows[0][names.index(name)]) == str(expected[0])
        assert len(frame[name]) == 2
    assert [note.partition("column ")[2] for note in plan.warnings if "column" in note] == [
        "decimal256 holds decimal256(50, 1), which is carried along as text",
        "duration holds durations, which are carried along as seconds",
    ]


def test_objects_without_keys_are_text(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "x", "a": {}, "b": [{}], "c": {"d": {}}}\n')
    (rows,) = rows_of(tmp_path / "m.jsonl")
    assert [values(rows, name) for name in "abc"] == [["{}"], ["[{}]"], ['{"d": {}}']]


def test_a_struct_with_two_fields_of_one_name(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    pq.write_table(pa.table({"prompt": ["x"], "own": twice}), tmp_path / "m.parquet")
    (problem,) = problems_of(tmp_path / "m.parquet")
    assert problem.startswith(
        "m.parquet, column own: holds struct<a: int64, a: int64>, which has two fields of one name"
    )


@pytest.mark.parametrize("kind", [pa.list_view(pa.int64()), pa.large_list_view(pa.int64())])
def test_views_of_lists_keep_their_values_in_every_chunk(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"prompt": ["x"] * 20_000, "own": pa.array([[n] for n in range(20_000)], kind)})
    pq.write_table(table, tmp_path / "m.parquet")
    (rows,) = rows_of(tmp_path / "m.parquet")
    assert values(rows, "own") == [[n] for n in range(20_000)]
