"""A plan is the same whenever it is made, and what was planned stays where it was."""

import hashlib
import multiprocessing
import os
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from kontext_pipeline.columns import PLAN_SCHEMA
from kontext_pipeline.errors import ManifestError, PlanError
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import BatchInfo, Plan, load_plan, requests_of
from kontext_pipeline.planning.plan_file import PlanFile, write_plan_file
from kontext_pipeline.planning.planner import make_plan

Row = dict[str, Any]


def plan_of(folder: Path, *names: str, **options: Any) -> Plan:
    """Plan manifests that are in `folder`, into its subfolder `data`."""
    defaults: dict[str, Any] = {
        "data_dir": folder / "data",
        "backend": "sandbox",
        "seed": 0,
        "batch_size": 3,
        "clamp_safety_tolerance": False,
    }
    manifests = read_manifests([folder / name for name in names or ("m.csv",)])
    return make_plan(manifests, **{**defaults, **options})


def csv(folder: Path, rows: Sequence[str], header: str = "prompt", name: str = "m.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows_of(plan: Plan, key: str | None = None) -> list[Row]:
    keys = [key] if key else plan.batch_keys
    return [row for one in keys for row in plan.batch_table(one).to_pylist()]


def prompts_by_batch(plan: Plan) -> dict[str, list[str]]:
    return {key: [row["prompt"] for row in rows_of(plan, key)] for key in plan.batch_keys}


def prints_of(plan: Plan) -> set[str]:
    return {row["fingerprint"] for row in rows_of(plan)}


def test_a_plan(tmp_path: Path, make_picture: Callable[[Path], Path]) -> None:
    picture = make_picture(tmp_path / "photos" / "a.png")
    header = "prompt,input_image,variants,seed,label,safety_tolerance,id"
    csv(tmp_path, ["a cat,photos/a.png,2,7,001,6,", "a dog,,,,,,rex"], header)
    plan = plan_of(tmp_path)
    assert plan.batches == [BatchInfo("m-00000", "m", 3, 0)]
    assert (plan.rows, plan.requested, plan.pictures, plan.text_to_image) == (2, 3, 3, 1)
    table = plan.batch_table("m-00000")
    assert table.schema == pa.schema([*PLAN_SCHEMA, ("label", pa.string())])
    first, second, third = table.to_pylist()
    assert first == {
        "manifest": "m",
        "row": 1,
        "id": first["id"],
        "batch": "m-00000",
        "variant": 1,
        "prompt": "a cat",
        "input_image": "photos/a.png",
        "input_source": str(picture),
        "input_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
        "aspect_ratio": "16:9",
        "output_format": "png",
        "safety_tolerance": 6,
        "safety_tolerance_asked": 6,
        "seed": 7,
        "fingerprint": first["fingerprint"],
        "label": "001",
    }
    assert second == {**first, "variant": 2, "seed": 8, "fingerprint": second["fingerprint"]}
    assert (third["row"], third["id"], third["input_source"], third["label"]) == (2, "rex", None, "")


def test_requests_have_the_fingerprints_of_the_plan(tmp_path: Path, make_picture: Callable[[Path], Path]) -> None:
    make_picture(tmp_path / "a.png")
    lines = ['"a ""cat""\t\n\x01",a.png,4', "a dog,https://example.org/a.png,", "é\u2028,,"]
    csv(tmp_path, lines, "prompt,input_image,safety_tolerance")
    plan = plan_of(tmp_path, clamp_safety_tolerance=True)
    found = list(requests_of(plan.batch_table("m-00000")))
    assert [request.fingerprint("sandbox") for _, request in found] == [picture for picture, _ in found]
    assert [(request.input_image, request.safety_tolerance) for _, request in found] == [
        (str(tmp_path / "a.png"), 2),
        ("https://example.org/a.png", 2),
        (None, 2),
    ]
    assert [row["safety_tolerance_asked"] for row in rows_of(plan)] == [4, 2, 2]


def test_the_file_has_one_row_group_a_batch(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(8)])
    plan = plan_of(tmp_path)
    file = pq.ParquetFile(tmp_path / "data" / "plan" / "m.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 3, 2]
    for batch in plan.batches:
        assert set(file.read_row_group(batch.row_group)["batch"].to_pylist()) == {batch.key}
    assert [(batch.key, batch.rows) for batch in plan.batches] == [
        ("m-00000", 3),
        ("m-00001", 3),
        ("m-00002", 2),
    ]
    prints = [text for piece in plan.fingerprints() for text in piece.to_pylist()]
    assert prints == [row["fingerprint"] for row in rows_of(plan)]


def test_an_unchanged_manifest_is_not_planned_again(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    make_picture(tmp_path / "a.png")
    csv(tmp_path, ["x,a.png", "y,"], "prompt,input_image")
    first = plan_of(tmp_path)
    path = tmp_path / "data" / "plan" / "m.parquet"
    before = path.stat()
    again = plan_of(tmp_path, batch_size=1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert again.batches == first.batches
    assert again.warnings == first.warnings
    make_picture(tmp_path / "a.png", b"another")
    assert prints_of(plan_of(tmp_path)) != prints_of(first)
    assert path.stat().st_ino != before.st_ino


def test_appended_rows_go_to_new_batches(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(4)])
    before = plan_of(tmp_path)
    tables = {key: before.batch_table(key) for key in before.batch_keys}
    csv(tmp_path, [f"p{n}" for n in range(9)])
    after = plan_of(tmp_path)
    assert prompts_by_batch(after) == {
        "m-00000": ["p0", "p1", "p2"],
        "m-00001": ["p3"],
        "m-00002": ["p4", "p5", "p6"],
        "m-00003": ["p7", "p8"],
    }
    assert all(after.batch_table(key).equals(table) for key, table in tables.items())


def test_inserted_rows_ask_for_no_other_pictures(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(5)])
    before = plan_of(tmp_path)
    csv(tmp_path, ["new", *(f"p{n}" for n in range(5))])
    after = plan_of(tmp_path)
    assert prompts_by_batch(after) == {**prompts_by_batch(before), "m-00002": ["new"]}
    assert len(prints_of(after) - prints_of(before)) == 1
    assert [row["row"] for row in rows_of(after)] == [2, 3, 4, 5, 6, 1]


def test_a_sorted_manifest_keeps_its_batches(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(100)])
    before = plan_of(tmp_path)
    csv(tmp_path, [f"p{n}" for n in reversed(range(100))])
    after = plan_of(tmp_path)
    assert {key: set(prompts) for key, prompts in prompts_by_batch(after).items()} == {
        key: set(prompts) for key, prompts in prompts_by_batch(before).items()
    }
    assert prints_of(after) == prints_of(before)


@pytest.mark.parametrize("with_ids", [True, False])
def test_an_edited_row_asks_for_one_picture_and_stays_in_its_batch(tmp_path: Path, with_ids: bool) -> None:
    def write(prompts: list[str]) -> None:
        rows = [f"{prompt},{f'id{n}' if with_ids else ''}" for n, prompt in enumerate(prompts)]
        csv(tmp_path, rows, "prompt,id")

    prompts = [f"p{n}" for n in range(7)]
    write(prompts)
    before = plan_of(tmp_path)
    tables = {key: before.batch_table(key) for key in before.batch_keys}
    seeds = {row["row"]: row["seed"] for row in rows_of(before)}
    prompts[4] = "edited"
    write(prompts)
    after = plan_of(tmp_path)
    assert after.batch_keys == before.batch_keys
    assert prompts_by_batch(after)["m-00001"] == ["p3", "edited", "p5"]
    assert [key for key in tables if not after.batch_table(key).equals(tables[key])] == ["m-00001"]
    assert len(prints_of(after) - prints_of(before)) == 1
    kept = {row["row"] for row in rows_of(after) if row["seed"] == seeds[row["row"]]}
    assert kept == (set(range(1, 8)) if with_ids else set(range(1, 8)) - {5})


def test_an_edited_row_stays_in_its_batch_when_rows_above_came_or_went(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(7)])
    plan_of(tmp_path)
    csv(tmp_path, ["new", "p0", "p1", "p2", "p3", "edited", "p5", "p6"])
    assert prompts_by_batch(plan_of(tmp_path)) == {
        "m-00000": ["p0", "p1", "p2"],
        "m-00001": ["p3", "edited", "p5"],
        "m-00002": ["p6"],
        "m-00003": ["new"],
    }


def test_deleted_rows_leave_and_an_empty_batch_is_gone_for_good(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(7)])
    plan_of(tmp_path)
    csv(tmp_path, ["p0", "p2", "p3"])
    assert prompts_by_batch(plan_of(tmp_path)) == {"m-00000": ["p0", "p2"], "m-00001": ["p3"]}
    csv(tmp_path, ["p0", "p2", "p3", "p8"])
    after = prompts_by_batch(plan_of(tmp_path))
    assert after == {"m-00000": ["p0", "p2"], "m-00001": ["p3"], "m-00003": ["p8"]}


def test_more_variants_stay_with_their_row_and_keep_the_pictures(tmp_path: Path) -> None:
    csv(tmp_path, ["a,2", "b,2", "c,5", "d,1"], "prompt,variants")
    before = plan_of(tmp_path)
    assert prompts_by_batch(before) == {
        "m-00000": ["a", "a"],
        "m-00001": ["b", "b"],
        "m-00002": ["c"] * 5,
        "m-00003": ["d"],
    }
    csv(tmp_path, ["a,2", "b,4", "c,5", "d,1"], "prompt,variants")
    after = plan_of(tmp_path)
    assert prompts_by_batch(after)["m-00001"] == ["b"] * 4
    assert len(prints_of(after) - prints_of(before)) == 2
    assert prints_of(before) < prints_of(after)


def test_another_batch_size_is_for_new_rows(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(4)])
    plan_of(tmp_path)
    csv(tmp_path, [f"p{n}" for n in range(8)])
    sizes = [batch.rows for batch in plan_of(tmp_path, batch_size=10).batches]
    assert sizes == [3, 1, 4]
    with pytest.raises(PlanError, match="a batch size of 0 is not allowed"):
        plan_of(tmp_path, batch_size=0)


def test_other_settings_ask_for_other_pictures_in_the_same_batches(tmp_path: Path) -> None:
    csv(tmp_path, ["a,1,6", "b,,", "c,,", "d,,"], "prompt,seed,safety_tolerance")
    first = plan_of(tmp_path)
    prints = prints_of(first)
    reseeded = plan_of(tmp_path, seed=1)
    assert len(prints_of(reseeded) & prints) == 1
    assert prompts_by_batch(reseeded) == prompts_by_batch(first)
    elsewhere = plan_of(tmp_path, backend="segmind")
    assert not prints_of(elsewhere) & prints
    assert elsewhere.backend == "segmind"
    assert prints_of(plan_of(tmp_path)) == prints


def test_two_equal_requests_are_one_picture(tmp_path: Path) -> None:
    csv(tmp_path, ["a,x", "b,x", "a,y", "a,z"], "prompt,label")
    plan = plan_of(tmp_path)
    assert (plan.requested, plan.pictures) == (4, 2)
    rows = rows_of(plan)
    base = rows[0]["id"]
    assert [row["id"] for row in rows if row["prompt"] == "a"] == [base, f"{base}-2", f"{base}-3"]
    assert [row["label"] for row in rows] == ["x", "x", "y", "z"]
    assert "4 pictures are requested and 2 of them differ; equal requests are generated once" in plan.warnings


def test_ids_stay_unique_beside_ids_that_look_derived(tmp_path: Path) -> None:
    csv(tmp_path, ["a,", "a,"], "prompt,id")
    base = rows_of(plan_of(tmp_path))[0]["id"]
    csv(tmp_path, ["a,", "a,", f"b,{base}", f"c,{base}-3", "a,"], "prompt,id")
    ids = [row["id"] for row in sorted(rows_of(plan_of(tmp_path)), key=lambda row: row["row"])]
    assert ids == [f"{base}-2", f"{base}-4", base, f"{base}-3", f"{base}-5"]


def test_rows_that_differ_in_their_seed_alone_have_ids_of_their_own(tmp_path: Path) -> None:
    csv(tmp_path, ["a,1", "a,2", "a,"], "prompt,seed")
    ids = [row["id"] for row in rows_of(plan_of(tmp_path))]
    assert len({row_id[:12] for row_id in ids}) == 3


def test_a_moved_picture_is_the_same_and_a_changed_one_is_not(
    tmp_path: Path, make_picture: Callable[..., Path]
) -> None:
    make_picture(tmp_path / "a.png", b"one")
    csv(tmp_path, ["x,a.png"], "prompt,input_image")
    first = rows_of(plan_of(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "elsewhere" / "b.png")
    csv(tmp_path, ["x,elsewhere/b.png"], "prompt,input_image")
    moved = rows_of(plan_of(tmp_path))
    assert moved[0]["fingerprint"] == first[0]["fingerprint"]
    assert moved[0]["input_source"] == str(tmp_path / "elsewhere" / "b.png")
    make_picture(tmp_path / "elsewhere" / "b.png", b"two, and longer")
    changed = plan_of(tmp_path)
    assert rows_of(changed)[0]["fingerprint"] != first[0]["fingerprint"]
    assert changed.batch_keys == ["m-00000"]


def test_a_picture_is_read_again_only_when_its_size_or_time_changed(
    tmp_path: Path, make_picture: Callable[..., Path]
) -> None:
    make_picture(tmp_path / "a.png", b"one")
    csv(tmp_path, ["x,a.png"], "prompt,input_image")
    first = rows_of(plan_of(tmp_path))[0]["input_sha256"]
    make_picture(tmp_path / "a.png", b"two")
    csv(tmp_path, ["x,a.png", "y,a.png"], "prompt,input_image")
    assert {row["input_sha256"] for row in rows_of(plan_of(tmp_path))} == {first}
    os.utime(tmp_path / "a.png", (1, 1))
    assert {row["input_sha256"] for row in rows_of(plan_of(tmp_path))} != {first}


def test_a_picture_that_was_just_written_is_not_trusted_to_show_its_next_change(
    tmp_path: Path, make_picture: Callable[..., Path]
) -> None:
    def write(content: bytes) -> None:
        path = make_picture(tmp_path / "a.png", content)
        os.utime(path, ns=(now, now))

    csv(tmp_path, ["x,a.png"], "prompt,input_image")
    now = (tmp_path / "m.csv").stat().st_mtime_ns
    write(b"one")
    first = rows_of(plan_of(tmp_path))[0]["input_sha256"]
    write(b"two")
    assert rows_of(plan_of(tmp_path))[0]["input_sha256"] != first


def test_several_manifests_together(tmp_path: Path) -> None:
    csv(tmp_path, ["a,1", "b,2"], "prompt,label", "one.csv")
    csv(tmp_path, ["a,3", "c,4"], "prompt,split", "two.csv")
    plan = plan_of(tmp_path, "one.csv", "two.csv")
    assert plan.manifests == ["one", "two"]
    assert plan.batch_keys == ["one-00000", "two-00000"]
    assert (plan.rows, plan.requested, plan.pictures) == (4, 4, 3)
    schemas = {str(plan.batch_table(key).schema) for key in plan.batch_keys}
    assert len(schemas) == 1
    assert load_plan(tmp_path / "data").pictures == 3
    assert load_plan(tmp_path / "data", ["two"]).batch_keys == ["two-00000"]


def test_opening_a_plan(tmp_path: Path) -> None:
    csv(tmp_path, ["a", "b"])
    with pytest.raises(PlanError, match=r"there is no plan in .*; make one with: kontext plan"):
        load_plan(tmp_path / "data")
    made = plan_of(tmp_path)
    with pytest.raises(PlanError, match="there is no plan of other in "):
        load_plan(tmp_path / "data", ["other"])
    opened = load_plan(tmp_path / "data")
    assert opened.batches == made.batches
    assert opened.warnings == made.warnings
    assert opened.has_batch("m-00000")
    assert not opened.has_batch("m-00001")
    with pytest.raises(PlanError, match="there is no batch m-00001 in the plan of m; it has 1, from m-00000"):
        opened.batch_table("m-00001")


def test_an_open_plan_stays_readable_when_it_is_replaced(tmp_path: Path) -> None:
    csv(tmp_path, ["a", "b", "c", "d"])
    first = plan_of(tmp_path)
    csv(tmp_path, ["x", "d"])
    second = plan_of(tmp_path)
    assert prompts_by_batch(first) == {"m-00000": ["a", "b", "c"], "m-00001": ["d"]}
    assert prompts_by_batch(second) == {"m-00000": ["x"], "m-00001": ["d"]}


def test_a_manifest_with_problems_leaves_the_plan_as_it_was(tmp_path: Path) -> None:
    csv(tmp_path, ["a"])
    plan_of(tmp_path)
    path = tmp_path / "data" / "plan" / "m.parquet"
    before = path.read_bytes()
    csv(tmp_path, ["a", "b,"])
    with pytest.raises(ManifestError):
        plan_of(tmp_path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "m.parquet"]


def test_a_manifest_that_changes_while_it_is_planned(tmp_path: Path) -> None:
    path = csv(tmp_path, ["a"])
    manifests = read_manifests([path])
    csv(tmp_path, ["a", "b"])
    with pytest.raises(ManifestError, match="was changed while it was read; try again"):
        make_plan(
            manifests,
            data_dir=tmp_path / "data",
            backend="sandbox",
            seed=0,
            batch_size=3,
            clamp_safety_tolerance=False,
        )


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    csv(tmp_path, ["a"])
    path = tmp_path / "data" / "plan" / "m.parquet"
    path.parent.mkdir(parents=True)
    for content in (b"", b"PAR1 and so on"):
        path.write_bytes(content)
        with pytest.raises(PlanError, match=r"m.parquet is no plan that can be read .*; move it away"):
            plan_of(tmp_path)
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    with pytest.raises(PlanError, match="is no plan that can be read"):
        load_plan(tmp_path / "data")


def test_a_data_directory_that_can_not_be_written(tmp_path: Path) -> None:
    csv(tmp_path, ["a"])
    (tmp_path / "data").write_text("a file")
    with pytest.raises(PlanError, match="the plan can't be written to "):
        plan_of(tmp_path)


def test_another_manifest_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    csv(tmp_path, ["a", "b"])
    plan_of(tmp_path)
    csv(tmp_path / "other", ["c"])
    with pytest.raises(PlanError, match=r"has the same name \(m\) as .*, and no row in common with it"):
        plan_of(tmp_path / "other", data_dir=tmp_path / "data")
    csv(tmp_path / "other", ["b", "c"])
    moved = plan_of(tmp_path / "other", data_dir=tmp_path / "data")
    assert prompts_by_batch(moved) == {"m-00000": ["b"], "m-00001": ["c"]}


def test_warnings_name_the_rows(tmp_path: Path) -> None:
    rows = [f"p{n},https://example.org/{n}.png,6,1:1," for n in range(25)]
    rows += ["t,,6,match_input_image,7", "u,,,1:1,8"]
    csv(tmp_path, rows, "prompt,input_image,safety_tolerance,aspect_ratio,sed")
    plan = plan_of(tmp_path, batch_size=100)
    path = tmp_path / "m.csv"
    numbers = ", ".join(str(n) for n in range(1, 21))
    assert plan.warnings == [
        f"{path}: column sed is carried along and means nothing here; did you mean seed?",
        "safety_tolerance is above 2, the most the provider allows beside an input image, in "
        f"{path} rows {numbers} and 5 more; it is sent as it is, and such rows may be refused",
        f"aspect_ratio is match_input_image without an input image in {path} row 26",
        "2 rows have no input_image and will be text-to-image",
    ]
    clamped = plan_of(tmp_path, batch_size=100, clamp_safety_tolerance=True)
    assert clamped.warnings[1].endswith(" and 5 more; it is sent as 2, and the table keeps both values")
    assert {row["safety_tolerance"] for row in rows_of(clamped)} == {2, 6}


def test_too_many_batches(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(100_001)])
    with pytest.raises(PlanError, match=r"the plan has 100,001 batches, and Dagster .*KONTEXT_BATCH_SIZE, now 1"):
        plan_of(tmp_path, batch_size=1)
    assert not list((tmp_path / "data" / "plan").glob("*.parquet"))


def test_more_batches_than_are_comfortable(tmp_path: Path) -> None:
    csv(tmp_path, ["p"])
    plan_of(tmp_path)
    path = tmp_path / "data" / "plan" / "m.parquet"
    file = PlanFile("m", path)
    # Only the footer counts batches: 10,001 row groups would take seconds.
    footer = replace(file.footer, numbers=list(range(10_001)), sizes=[1] * 10_001)
    table = file.row_group(0)
    write_plan_file(path, pa.schema([]), [dict(zip(table.column_names, table.columns, strict=True))], footer)
    plan = load_plan(tmp_path / "data")
    assert len(plan.batches) == 10_001
    assert any("the plan has 10,001 batches; above 10,000 Dagster's pages get slow" in w for w in plan.warnings)


@pytest.mark.long
def test_ten_thousand_batches_are_written_and_read(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(10_001)])
    plan = plan_of(tmp_path, batch_size=1)
    assert len(plan.batches) == 10_001
    assert rows_of(plan, "m-10000")[0]["prompt"] == "p10000"


def test_a_data_directory_in_memory_of_fsspec(tmp_path: Path, make_picture: Callable[[Path], Path]) -> None:
    make_picture(tmp_path / "a.png")
    data = UPath(f"memory://{uuid.uuid4().hex}")
    csv(tmp_path, ["x,a.png", "y,"], "prompt,input_image")
    first = plan_of(tmp_path, data_dir=data)
    assert prompts_by_batch(first) == {"m-00000": ["x", "y"]}
    csv(tmp_path, ["x,a.png", "y,", "z,"], "prompt,input_image")
    assert plan_of(tmp_path, data_dir=data).batch_keys == ["m-00000", "m-00001"]
    assert prompts_by_batch(load_plan(data)) == {"m-00000": ["x", "y"], "m-00001": ["z"]}


def _plan_in_turn(folder: str, rounds: int) -> None:
    for _ in range(rounds):
        plan_of(Path(folder), seed=os.getpid())


def test_two_planners_at_once_do_not_harm_the_plan(tmp_path: Path) -> None:
    csv(tmp_path, [f"p{n}" for n in range(50)])
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_plan_in_turn, args=(str(tmp_path), 3)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    plan = load_plan(tmp_path / "data")
    assert [batch.rows for batch in plan.batches] == [3] * 16 + [2]
    assert sorted(p.name for p in (tmp_path / "data" / "plan").iterdir()) == [".lock", "m.parquet"]


EDITS = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "edit", "swap"]), st.integers(0, 30), st.integers(0, 99)),
    max_size=6,
)


@given(
    start=st.lists(st.integers(0, 99), min_size=1, max_size=12),
    rounds=st.lists(EDITS, min_size=1, max_size=3),
    with_ids=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_whatever_is_edited(start: list[int], rounds: list[Any], with_ids: bool) -> None:
    """Rows that stay keep their batch and picture; what the plan holds is what the manifest says."""
    counter = iter(range(10_000))
    rows = [(f"id{next(counter)}" if with_ids else "", f"p{n}") for n in start]
    with TemporaryDirectory() as name:
        folder = Path(name)
        csv(folder, [f"{prompt},{row_id}" for row_id, prompt in rows], "prompt,id")
        before = rows_of(plan_of(folder))
        seen = {row["batch"] for row in before}
        for edits in rounds:
            for kind, where, what in edits:
                position = where % len(rows)
                if kind == "insert":
                    rows.insert(position, (f"id{next(counter)}" if with_ids else "", f"p{what}"))
                elif kind == "delete" and len(rows) > 1:
                    del rows[position]
                elif kind == "edit":
                    rows[position] = (rows[position][0], f"q{what}")
                elif kind == "swap":
                    rows[position], rows[0] = rows[0], rows[position]
            csv(folder, [f"{prompt},{row_id}" for row_id, prompt in rows], "prompt,id")
            plan = plan_of(folder)
            after = rows_of(plan)
            assert Counter(row["prompt"] for row in after) == Counter(prompt for _, prompt in rows)
            ids = [row["id"] for row in after]
            assert len(set(ids)) == len(ids)
            was = {row["id"]: row for row in before}
            for row in after:
                if row["id"] in was:
                    assert row["batch"] == was[row["id"]]["batch"]
                    if row["prompt"] == was[row["id"]]["prompt"]:
                        assert row["fingerprint"] == was[row["id"]]["fingerprint"]
            if not with_ids:
                prints = {row["prompt"]: row["fingerprint"] for row in after}
                assert all(row["fingerprint"] == prints[row["prompt"]] for row in after)
                assert all(prints.get(row["prompt"], row["fingerprint"]) == row["fingerprint"] for row in before)
            old = [key for key in plan.batch_keys if key in seen]
            assert plan.batch_keys[: len(old)] == old
            assert all(len(rows_of(plan, key)) <= 3 for key in plan.batch_keys)
            seen |= set(plan.batch_keys)
            before = after
