"""What exports take from the quality tables: measures, issues, and groups of near-duplicates."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kontext_pipeline.dataset.quality.quality_tables import write_rows
from tests.dataset.exports.made_datasets import MadeDataset, export


def measured(dataset: MadeDataset, key: str, rows: list[dict[str, Any]], groups: dict[str, str]) -> None:
    """Write a quality table as the measures do, with these groups by sha256 of the input picture."""
    found = [
        {
            "fingerprint": row["fingerprint"],
            "near_duplicate_distance": 0.5,
            "input_group": groups.get(row["input_sha256"], row["input_sha256"]),
            "issues": ["dark"],
            "versions": "1",
        }
        for row in rows
    ]
    write_rows(dataset.data_dir, key, found, {})


def test_measures_are_columns_and_near_duplicates_stay_together(dataset: MadeDataset, tmp_path: Path) -> None:
    """Each of thirty pictures has a near-duplicate in a batch that was added later and measured, or not."""
    first = dataset.add([{"input": f"first {number}"} for number in range(30)])
    export(dataset, tmp_path / "out", "parquet", validation=0.4)
    before = sides(tmp_path / "out")
    second = dataset.add([{"input": f"second {number}"} for number in range(30)])
    groups = {late["input_sha256"]: early["input_sha256"] for early, late in zip(first, second, strict=True)}
    measured(dataset, "demo-00001", second, groups)
    export(dataset, tmp_path / "out", "parquet", validation=0.4)
    after = sides(tmp_path / "out")
    assert set(before.values()) == {"train", "validation"}
    assert after.items() >= before.items()
    for early, late in zip(first, second, strict=True):
        assert after[early["input_sha256"]] == after[late["input_sha256"]]
    table = pq.read_table(tmp_path / "out/data")
    names = table.column_names
    assert names.index("group") < names.index("near_duplicate_distance") < names.index("decision")
    assert "versions" not in names
    assert "input_group" not in names
    assert sorted(table["near_duplicate_distance"].to_pylist(), key=str) == [0.5] * 30 + [None] * 30
    assert [issues for issues in table["issues"].to_pylist() if issues] == [["dark"]] * 30


def sides(out: Path) -> dict[str, str]:
    """Return the split of each input picture."""
    return {
        sha256: path.name.partition("-")[0]
        for path in (out / "data").glob("*.parquet")
        for sha256 in pq.read_table(path, columns=["input_sha256"])["input_sha256"].to_pylist()
    }
