from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from upath import UPath

from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.samples import QUALITY_SCHEMA, REVIEW_SCHEMA, batch_samples, joined
from kontext_pipeline.dataset.storage import write_batch
from tests.dataset.tables import fingerprint, generations, plan

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@dataclass(frozen=True)
class Decided:
    decision: str
    reason: str = ""
    reviewer: str = "me"
    decided_at: datetime = NOW


def metadata(**own: pa.Array) -> pa.Table:
    batch = plan([1, 2, 3], **own)
    return metadata_table(batch, generations(*({"fingerprint": name} for name in (1, 2, 3))), backend="sandbox")


def test_a_batch_has_the_columns_of_review_and_quality(tmp_path: Path) -> None:
    table = metadata()
    write_batch(table, tmp_path, "demo-00000", made_from="x")
    samples = batch_samples(UPath(tmp_path), "demo-00000", {fingerprint(2): Decided("reject", "blurry")})
    assert samples.column_names[: table.num_columns] == table.column_names
    assert samples["decision"].to_pylist() == [None, "reject", None]
    assert samples["decided_at"].to_pylist() == [None, NOW, None]
    for field in [*REVIEW_SCHEMA, *QUALITY_SCHEMA]:
        assert samples.schema.field(field.name).type == field.type


def test_measures_are_joined_by_fingerprint() -> None:
    quality = pa.table(
        {
            "fingerprint": [fingerprint(3), fingerprint(1)],
            "changed_share": [0.5, 0.25],
            "issues": pa.array([["dark"], []], pa.list_(pa.string())),
            "input_group": ["a", None],
        }
    )
    samples = joined(metadata(), {}, quality)
    assert samples["changed_share"].to_pylist() == [0.25, None, 0.5]
    assert samples["issues"].to_pylist() == [[], None, ["dark"]]
    assert samples["input_group"].to_pylist() == [None, None, "a"]


def test_own_columns_with_such_names_are_kept_under_another() -> None:
    texts = pa.array(["a", "b", "c"])
    samples = joined(metadata(Reason=texts, manifest_Reason=texts, label=texts), {}, None)
    assert samples["manifest_manifest_Reason"].to_pylist() == ["a", "b", "c"]
    assert samples["manifest_Reason"].to_pylist() == ["a", "b", "c"]
    assert samples["label"].to_pylist() == ["a", "b", "c"]
    assert samples["reason"].to_pylist() == [None, None, None]
    assert len(set(samples.column_names)) == samples.num_columns
