"""The columns that users' files have: their names, types and order are promised."""

from collections import Counter

from kontext_pipeline.columns import (
    COLUMNS,
    GENERATION_SCHEMA,
    MANIFEST_COLUMNS,
    PLAN_SCHEMA,
    RESERVED_NAMES,
    TABLE_COLUMNS,
    TABLE_SCHEMA,
)

PLAN = """\
manifest: string
row: int64
id: string
batch: string
variant: int32
prompt: string
input_image: string
input_source: string
input_sha256: string
aspect_ratio: string
output_format: string
safety_tolerance: int32
safety_tolerance_asked: int32
seed: int64
fingerprint: string"""
TABLE = """\
id: string
batch: string
variant: int32
prompt: string
input_image: string
aspect_ratio: string
output_format: string
safety_tolerance: int32
safety_tolerance_asked: int32
seed: int64
fingerprint: string
status: string
status_code: int32
error: string
attempts: int32
cost_usd: double
cost_estimated: bool
possibly_charged_usd: double
latency_s: double
request_id: string
image_path: string
image_sha256: string
width: int32
height: int32
bytes: int64
backend: string
run_id: string
started_at: timestamp[us, tz=UTC]
finished_at: timestamp[us, tz=UTC]
manifest: string
row: int64
input_sha256: string
input_path: string
input_kept_sha256: string
input_width: int32
input_height: int32"""
FROM_A_MANIFEST = {
    *("id", "prompt", "input_image", "aspect_ratio"),
    *("output_format", "safety_tolerance", "seed", "variants"),
}


def test_the_promised_columns() -> None:
    """The one copy: a new column is added at the end of these, and nothing else of them ever changes."""
    assert PLAN_SCHEMA.to_string() == PLAN
    assert TABLE_SCHEMA.to_string() == TABLE
    assert {column.name for column in MANIFEST_COLUMNS} == FROM_A_MANIFEST


def test_every_column_has_one_entry_and_a_meaning() -> None:
    assert set(Counter(column.name for column in COLUMNS).values()) == {1}
    assert all(column.meaning for column in TABLE_COLUMNS)


def test_what_is_not_from_the_manifest_is_reserved() -> None:
    ours = {*PLAN_SCHEMA.names, *TABLE_SCHEMA.names, *GENERATION_SCHEMA.names}
    assert ours - FROM_A_MANIFEST == RESERVED_NAMES


def test_the_ledgers_result_has_the_tables_types() -> None:
    for field in GENERATION_SCHEMA:
        assert TABLE_SCHEMA.field(field.name).type == field.type
    assert GENERATION_SCHEMA.names[:2] == ["fingerprint", "batch"]
