"""The metadata table: its schema, the join, and that its costs add up to the bill."""

import math
import time
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext_pipeline.columns import LEDGER_COLUMNS, TABLE_SCHEMA
from kontext_pipeline.dataset.metadata import metadata_table, plan_digest
from kontext_pipeline.dataset.own_columns import metadata_schema, own_schema
from tests.dataset.tables import fingerprint, generations, plan


def test_the_schema_also_of_an_empty_table_and_one_without_generations() -> None:
    full = plan(["a", "b"], label=pa.array(["cat", None]))
    for batch in (full, full.slice(0, 0)):
        for made in (generations({"fingerprint": "a"}), generations()):
            table = metadata_table(batch, made, backend="sandbox")
            assert table.schema == metadata_schema(pa.schema([("label", pa.string())]))
            assert table.num_rows == batch.num_rows


def test_rows_keep_the_plans_order_and_take_their_generation() -> None:
    made = generations(
        {"fingerprint": "c", "bytes": 3},
        {"fingerprint": "other batch", "bytes": 99},
        {
            "fingerprint": "a",
            "status": "failed",
            "status_code": 400,
            "error": "aspect_ratio: not allowed",
            "cost_usd": None,
            "bytes": None,
            "image_path": None,
        },
    )
    table = metadata_table(plan(["a", "b", "c"]), made, backend="segmind")
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["demo-1", "demo-2", "demo-3"]
    assert [row["status"] for row in rows] == ["failed", "pending", "succeeded"]
    assert [row["bytes"] for row in rows] == [None, None, 3]
    assert [row["cost_usd"] for row in rows] == [0.0, 0.0, 0.1]
    assert rows[0]["error"] == "aspect_ratio: not allowed"
    assert rows[0]["safety_tolerance_asked"] == 6
    assert {row["backend"] for row in rows} == {"segmind"}


def test_a_row_that_was_never_asked_for_is_pending_with_nothing_spent() -> None:
    (row,) = metadata_table(plan(["a"]), generations(), backend="sandbox").to_pylist()
    ours = {column.name: row[column.name] for column in LEDGER_COLUMNS}
    assert ours == dict.fromkeys(ours) | {
        "status": "pending",
        "attempts": 0,
        "cost_usd": 0.0,
        "cost_estimated": False,
        "possibly_charged_usd": 0.0,
    }
    assert (row["backend"], row["manifest"], row["row"], row["input_sha256"]) == (
        "sandbox",
        "demo",
        1,
        "a" * 64,
    )


def test_rows_that_share_a_picture_all_have_it_and_the_first_has_the_cost() -> None:
    made = generations({"fingerprint": "a", "cost_estimated": True, "possibly_charged_usd": 0.1})
    table = metadata_table(plan(["b", "a", "a", "a"]), made, backend="sandbox")
    assert table["status"].to_pylist() == ["pending", "succeeded", "succeeded", "succeeded"]
    assert table["image_path"].to_pylist()[1:] == ["images/00/x.png"] * 3
    assert table["cost_usd"].to_pylist() == [0.0, 0.1, 0.0, 0.0]
    assert table["possibly_charged_usd"].to_pylist() == [0.0, 0.1, 0.0, 0.0]
    assert table["cost_estimated"].to_pylist() == [False, True, False, False]
    assert table["attempts"].to_pylist() == [0, 1, 1, 1]


def test_a_batch_that_is_not_charged_for_a_picture_has_it_for_nothing() -> None:
    made = generations({"fingerprint": "a"}, {"fingerprint": "b"})
    mine = [fingerprint("b")]
    for charged in (set(mine), pa.array(mine), pa.chunked_array([mine])):
        table = metadata_table(plan(["a", "b"]), made, backend="sandbox", charged=charged)
        assert table["cost_usd"].to_pylist() == [0.0, 0.1]
        assert table["status"].to_pylist() == ["succeeded", "succeeded"]
    table = metadata_table(plan(["a", "b"]), made, backend="sandbox", charged=[])
    assert table["cost_usd"].to_pylist() == [0.0, 0.0]


batches = st.lists(st.lists(st.integers(0, 12), max_size=8), min_size=1, max_size=6)
outcomes = st.dictionaries(
    st.integers(0, 14),
    st.fixed_dictionaries(
        {
            "status": st.sampled_from(["succeeded", "failed", "pending", "unknown"]),
            "cost_usd": st.sampled_from([None, 0.0, 0.1, 0.08]),
            "possibly_charged_usd": st.sampled_from([0.0, 0.1]),
        }
    ),
)


@given(batches, outcomes)
def test_over_all_batches_costs_add_up_to_the_bill_and_every_row_has_its_state(
    requests: list[list[int]], outcomes: dict[int, dict[str, Any]]
) -> None:
    plans = [plan(names, batch=f"demo-{i:05}") for i, names in enumerate(requests)]
    made = generations(*({"fingerprint": name, **outcome} for name, outcome in outcomes.items()))
    # As the ledger does, charge each picture to the first batch that requested it.
    charged: list[list[str]] = []
    requested: set[int] = set()
    for names in requests:
        charged.append([fingerprint(name) for name in names if name not in requested])
        requested |= set(names)

    tables = []
    for i, (names, batch) in enumerate(zip(requests, plans, strict=True)):
        table = metadata_table(batch, made, backend="sandbox", charged=charged[i])
        assert table["id"].to_pylist() == batch["id"].to_pylist()
        assert table["status"].to_pylist() == [
            outcomes[name]["status"] if name in outcomes else "pending" for name in names
        ]
        tables.append(table)
    for column in ("cost_usd", "possibly_charged_usd"):
        bill = math.fsum(outcome[column] or 0.0 for name, outcome in outcomes.items() if name in requested)
        assert math.fsum(x for table in tables for x in table[column].to_pylist()) == bill


@given(st.lists(st.integers(0, 5), max_size=12), st.data())
def test_the_table_is_the_same_however_its_sources_are_chunked_or_ordered(
    names: list[int], data: st.DataObject
) -> None:
    batch, made = plan(names), generations(*({"fingerprint": i, "bytes": i} for i in range(4)))
    cut = data.draw(st.integers(0, len(names)))
    chunked = pa.concat_tables([batch.slice(0, cut), batch.slice(cut)])
    shuffled = made.take(pa.array(data.draw(st.permutations(range(4)))))
    one = metadata_table(batch, made, backend="sandbox")
    two = metadata_table(chunked, shuffled, backend="sandbox")
    assert one.equals(two, check_metadata=True)
    assert plan_digest(batch, backend="sandbox") == plan_digest(chunked, backend="sandbox")


def test_own_columns_are_carried_untouched() -> None:
    own = {
        "label": pa.array(["cat", None]),
        "weight": pa.array([1.5, float("inf")]),
        "n": pa.array([1, None], pa.int16()),
        "box": pa.array([[1, 2], None], pa.list_(pa.int64())),
        "näme mit Leerzeichen": pa.array(["x", "y"]),
    }
    table = metadata_table(plan(["a", "b"], **own), generations(), backend="sandbox")
    assert table.column_names[len(TABLE_SCHEMA) :] == list(own)
    for name, values in own.items():
        assert table[name].combine_chunks().equals(values)


def test_own_columns_lose_encodings_that_readers_disagree_on() -> None:
    own = {
        "kind": pa.array(["x", "x", None]).dictionary_encode(),
        "empty": pa.nulls(3),
        "big": pa.array(["a", "b", "c"], pa.large_string()),
    }
    table = metadata_table(plan("abc", **own), generations(), backend="sandbox")
    assert [table.schema.field(name).type for name in own] == [pa.string()] * 3
    assert table["kind"].to_pylist() == ["x", "x", None]


def test_an_own_column_named_like_ours_is_kept_under_another_name() -> None:
    own = {
        "width": pa.array([5]),
        "Status": pa.array(["draft"]),
        "manifest_width": pa.array([6]),
        "label": pa.array(["cat"]),
    }
    table = metadata_table(plan(["a"], **own), generations({"fingerprint": "a"}), backend="sandbox")
    (row,) = table.select(table.column_names[len(TABLE_SCHEMA) :]).to_pylist()
    assert row == {
        "manifest_manifest_width": 5,
        "manifest_Status": "draft",
        "manifest_width": 6,
        "label": "cat",
    }
    assert table["width"].to_pylist() == [1392]


def test_manifests_with_other_columns_share_one_schema() -> None:
    one = plan(["a"], label=pa.array(["cat"]), weight=pa.array([1]), note=pa.array([[1, 2]]))
    two = plan(["b"], manifest="two", weight=pa.array([0.5]), note=pa.array(["n"]), extra=pa.array([True]))
    own = own_schema([one.schema, two.schema])
    assert own == pa.schema(
        [
            ("label", pa.string()),
            ("weight", pa.float64()),
            ("note", pa.string()),
            ("extra", pa.bool_()),
        ]
    )
    tables = [metadata_table(batch, generations(), backend="sandbox", own=own) for batch in (one, two)]
    both = pa.concat_tables(tables)
    assert both["label"].to_pylist() == ["cat", None]
    assert both["weight"].to_pylist() == [1.0, 0.5]
    assert both["note"].to_pylist() == ["[1, 2]", "n"]
    with pytest.raises(ValueError, match="extra"):
        metadata_table(two, generations(), backend="sandbox", own=own_schema([one.schema]))


def test_sources_that_are_not_what_they_should_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"plan.*seed"):
        metadata_table(plan(["a"]).drop_columns(["seed"]), generations(), backend="sandbox")
    with pytest.raises(ValueError, match="more than once"):
        metadata_table(plan(["a"]), generations({"fingerprint": "a"}, {"fingerprint": "a"}), backend="sandbox")


def test_the_digest_follows_all_that_makes_the_table_but_the_ledger() -> None:
    batch = plan(["a", "b"], label=pa.array(["cat", "dog"]))
    digests = [
        plan_digest(batch, backend="sandbox"),
        plan_digest(batch, backend="segmind"),
        plan_digest(batch, backend="sandbox", own=pa.schema([("label", pa.string()), ("x", pa.int64())])),
        plan_digest(plan(["a", "b"], label=pa.array(["cat", "cow"])), backend="sandbox"),
        plan_digest(plan(["a", "c"], label=pa.array(["cat", "dog"])), backend="sandbox"),
        plan_digest(batch.slice(0, 1), backend="sandbox"),
    ]
    assert len(set(digests)) == len(digests)
    moved = batch.set_column(
        batch.column_names.index("input_source"), "input_source", pa.array(["/elsewhere/a.jpg"] * 2)
    )
    assert plan_digest(moved, backend="sandbox") == digests[0]


@pytest.mark.long  # It asserts on elapsed time.
def test_a_thousand_rows_take_milliseconds() -> None:
    batch = plan(range(1000), label=pa.array(["x"] * 1000))
    made = generations(*({"fingerprint": i} for i in range(2000)))
    metadata_table(batch, made, backend="sandbox")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        metadata_table(batch, made, backend="sandbox")
        times.append(time.perf_counter() - start)
    # About 3 ms; the bound only distinguishes vectorized code from a loop over rows.
    assert min(times) < 0.1
