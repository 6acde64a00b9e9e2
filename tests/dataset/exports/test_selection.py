"""Which rows become samples, and why others don't."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kontext_pipeline.dataset.exports.export_options import ExportError, ExportOptions
from kontext_pipeline.dataset.review.decisions import Decision, Verdict, record_decisions
from tests.dataset.exports.made_datasets import MadeDataset, export, picture


def samples(out: Path, config: str = "data") -> list[dict[str, Any]]:
    return [row for path in sorted((out / config).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_only_whole_pairs_are_exported_and_the_others_counted(dataset: MadeDataset, tmp_path: Path) -> None:
    made = dataset.add(
        [
            {},
            {"status": "failed", "image_path": None, "image_sha256": None},
            {"status": "pending", "image_path": None, "image_sha256": None},
            {"status": "unknown", "image_path": None, "image_sha256": None},
            {},
            {},
            {},
            {"input_path": None, "input_kept_sha256": None, "input_sha256": None},
            {},
        ]
    )
    (dataset.data_dir / made[4]["image_path"]).unlink()
    (dataset.data_dir / made[5]["image_path"]).write_bytes(b"cut")
    (dataset.data_dir / made[6]["input_path"]).unlink()
    dataset.write(made[8]["image_path"], picture(made[8]["fingerprint"])[:-1] + b"!")
    result = export(dataset, tmp_path / "out", "parquet")
    assert [sample["id"] for sample in samples(tmp_path / "out")] == [made[0]["id"]]
    assert result.left_out.counts == {
        "failed": 1,
        "pending": 1,
        "unknown": 1,
        "picture_missing": 2,
        "input_missing": 1,
        "input_not_kept": 1,
        "picture_changed": 1,
    }
    assert result.left_out.examples["picture_changed"] == [made[8]["id"]]
    assert not result.sound
    assert json.loads((tmp_path / "out/export.json").read_text())["left_out"] == dict(
        sorted(result.left_out.counts.items())
    )


def test_a_picture_that_is_whole_again_is_exported(dataset: MadeDataset, tmp_path: Path) -> None:
    made = dataset.add([{}, {}])
    whole = (dataset.data_dir / made[0]["image_path"]).read_bytes()
    for layout in ("parquet", "webdataset", "imagefolder", "pairs"):
        dataset.write(made[0]["image_path"], whole[:-1] + b"!")
        assert export(dataset, tmp_path / layout, layout).samples == 1
        dataset.write(made[0]["image_path"], whole)
        again = export(dataset, tmp_path / layout, layout)
        assert (again.samples, again.sound) == (2, True)


def test_rows_that_share_a_picture_are_one_sample_with_its_cost(dataset: MadeDataset, tmp_path: Path) -> None:
    made = dataset.add([{}, {}])
    dataset.add([{"input": 0, "fingerprint": made[0]["fingerprint"], "cost_usd": 0.04}])
    result = export(dataset, tmp_path / "out", "parquet")
    assert result.left_out.counts == {"repeated": 1}
    assert [round(sample["cost_usd"], 6) for sample in samples(tmp_path / "out")] == [0.14, 0.1]


def test_a_local_input_that_was_kept_later_is_found_by_its_content(dataset: MadeDataset, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from kontext_pipeline.inputs.input_index import IndexEntry, InputIndex
    from kontext_pipeline.inputs.input_store import KeptInput

    [row] = dataset.add([{}])
    dataset.batches = 0
    later = {name: row[name] for name in ("input_path", "input_kept_sha256", "input_width", "input_height")}
    dataset.add([{**dict.fromkeys(later), "fingerprint": row["fingerprint"]}])
    index = InputIndex(dataset.data_dir)
    kept = KeptInput(row["input_sha256"], later["input_path"], "JPEG", 1, 24, 16)
    index.add(IndexEntry("a.jpg", kept, datetime.now(UTC)))
    index.merge()
    result = export(dataset, tmp_path / "out", "parquet")
    assert (result.samples, result.sound) == (1, True)


def test_backward_edits_the_generated_picture_back(dataset: MadeDataset, tmp_path: Path) -> None:
    made = dataset.add([{}, {}, {}, {"input": None}], inverse_prompt=["undo", " ", None, "undo"])
    result = export(dataset, tmp_path / "out", "parquet", direction="backward")
    [sample] = samples(tmp_path / "out")
    row = made[0]
    assert sample["edit_prompt"] == "undo"
    assert sample["input_image"]["bytes"] == (dataset.data_dir / row["image_path"]).read_bytes()
    assert sample["edited_image"]["bytes"] == (dataset.data_dir / row["input_path"]).read_bytes()
    assert (sample["input_sha256"], sample["image_sha256"]) == (row["image_sha256"], row["input_kept_sha256"])
    assert result.left_out.counts == {"no_inverse": 2, "no_input": 1}
    assert result.sound


def test_both_doubles_the_set_and_not_the_bill(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}, {}], inverse=["undo", "undo"])
    export(dataset, tmp_path / "out", "parquet", direction="both")
    found = samples(tmp_path / "out")
    assert [sample["direction"] for sample in found] == ["forward", "backward"] * 2
    assert sum(sample["cost_usd"] for sample in found) == pytest.approx(0.2)


def test_a_picture_that_leads_back_to_two_pictures_leads_to_none(dataset: MadeDataset, tmp_path: Path) -> None:
    black = picture("black")
    dataset.add([{"input": 1, "image": black}, {"input": 2, "image": black}, {"input": 3}], inverse=["undo"] * 3)
    result = export(dataset, tmp_path / "out", "parquet", direction="backward")
    assert (result.samples, result.left_out.counts) == (1, {"ambiguous": 2})


def test_the_user_names_the_column_of_inverses(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}], back=["undo"])
    with pytest.raises(ExportError, match="no column inverse_prompt or inverse"):
        export(dataset, tmp_path / "out", "parquet", direction="backward")
    with pytest.raises(ExportError, match="no column nothing"):
        export(dataset, tmp_path / "out", "parquet", direction="both", inverse_column="nothing")
    assert not (tmp_path / "out/export.json").exists()
    assert export(dataset, tmp_path / "out", "parquet", direction="backward", inverse_column="back").samples == 1


def test_nothing_to_export_is_an_error_that_says_why(dataset: MadeDataset, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Run the manifest first"):
        export(dataset, tmp_path / "out", "parquet")
    dataset.add([{"status": "failed", "image_path": None}])
    with pytest.raises(ExportError, match="1: failed"):
        export(dataset, tmp_path / "out", "parquet")
    dataset.add([{"input_path": None, "input_kept_sha256": None, "input_sha256": None}])
    with pytest.raises(ExportError, match=r"1: the input picture was not kept.*KONTEXT_KEEP_INPUTS"):
        export(dataset, tmp_path / "out", "parquet")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 1.0}, "--validation is 1.0"),
        ({"validation": -0.1}, "--validation is -0.1"),
        ({"max_shard_mb": 0}, "at least 1"),
        ({"layout": "pairs", "max_shard_mb": 10}, "no shards"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        ExportOptions(**{"layout": "parquet", **options})


def test_rejected_pictures_are_left_out_with_their_reasons(dataset: MadeDataset, tmp_path: Path) -> None:
    made = dataset.add([{}, {}, {}])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    verdicts: list[tuple[Verdict, str]] = [("reject", "six *fingers*"), ("keep", ""), ("reject", "x")]
    decisions = [
        Decision(row["fingerprint"], verdict, reason, "me", now)
        for row, (verdict, reason) in zip(made, verdicts, strict=True)
    ]
    record_decisions(dataset.data_dir, [*decisions, Decision(made[2]["fingerprint"], "", "", "me", now)])
    result = export(dataset, tmp_path / "out", "parquet")
    assert [(sample["id"], sample["decision"]) for sample in samples(tmp_path / "out")] == [
        (made[1]["id"], "keep"),
        (made[2]["id"], None),
    ]
    assert result.left_out.counts == {"rejected": 1}
    card = (tmp_path / "out/README.md").read_text()
    assert "- 1: rejected in the review" in card
    assert r"- 1: six \*fingers\*" in card
    everything = export(dataset, tmp_path / "out", "parquet", include_rejected=True)
    assert everything.samples == 3
    assert [sample["reason"] for sample in samples(tmp_path / "out")] == ["six *fingers*", "", None]
    # The names of reviewers stay at home.
    assert "reviewer" not in samples(tmp_path / "out")[0]
