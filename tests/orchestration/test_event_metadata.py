"""Metadata shows text from manifests and answers as it is, and nothing that steers a page."""

import pyarrow as pa
from dagster import TableMetadataValue, TableSchemaMetadataValue
from upath import UPath

from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.orchestration.event_metadata import table_metadata, table_value

HOSTILE = "a\x1b[2J\u202e\nb"
SHOWN = "a\\u001b[2J\\u202e\\nb"


def test_cells_and_column_names_are_escaped() -> None:
    value = table_value([{"id": HOSTILE, "count": 2}])
    assert isinstance(value, TableMetadataValue)
    assert dict(value.records[0].data) == {"id": SHOWN, "count": 2}
    table = TABLE_SCHEMA.append(pa.field(HOSTILE, pa.string())).empty_table()
    schema = table_metadata(UPath("out"), "photos-00000", table)["dagster/column_schema"]
    schema = schema.schema if isinstance(schema, TableSchemaMetadataValue) else schema
    assert schema.columns[-1].name == SHOWN
