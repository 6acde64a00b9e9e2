"""The tracker hands out what is missing, batch after batch, and writes a batch's table when it is finished."""

import threading
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.batch_tracker import BatchTracker
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.planner import make_plan

KEYS = ["rows-00000", "rows-00001", "rows-00002"]


@pytest.fixture
def plan(tmp_path: Path, manifest: Callable[..., Path]) -> Plan:
    """Seven rows in batches of three; the last two rows of the first batch request the same picture."""
    prompts = ["a", "b", "b", "c", "d", "e", "f"]
    path = manifest([{"prompt": prompt, "seed": 1} for prompt in prompts])
    return make_plan(
        read_manifests([str(path)]),
        data_dir=UPath(tmp_path / "out"),
        backend="segmind",
        seed=0,
        batch_size=3,
        clamp_safety_tolerance=False,
    )


def settled(
    *succeeded: str, given_up: Set[str] = frozenset()
) -> Callable[[], Callable[[Sequence[str]], tuple[Set[str], Set[str]]]]:
    return lambda: lambda _fingerprints: (set(succeeded), given_up)


def fingerprints(plan: Plan, key: str) -> list[str]:
    found: list[str] = plan.batch_table(key)["fingerprint"].to_pylist()
    return found


def test_each_request_is_handed_out_once_a_batch_and_tables_follow(plan: Plan) -> None:
    written: list[str] = []
    tracker = BatchTracker(plan, KEYS, read_settled=settled(), write_table=written.append)
    items = list(tracker.work_items())
    assert [item.batch for item in items] == [KEYS[0]] * 2 + [KEYS[1]] * 3 + [KEYS[2]]
    assert [item.request.prompt for item in items] == ["a", "b", "c", "d", "e", "f"]
    assert tracker.left == 6
    assert tracker.finished == []

    for item in items[2:]:
        tracker.has_outcome(item, "succeeded")
    tracker.has_outcome(items[0], "failed")
    assert tracker.finished == KEYS[1:]
    assert tracker.left == 1
    tracker.close()
    assert written == [KEYS[1], KEYS[2], KEYS[0]], "tables of unfinished batches are written at the end"


def test_what_is_settled_is_not_handed_out(plan: Plan) -> None:
    done = fingerprints(plan, KEYS[0])
    given_up = {fingerprints(plan, KEYS[1])[0]}
    written: list[str] = []
    tracker = BatchTracker(plan, KEYS[:2], read_settled=settled(*done, given_up=given_up), write_table=written.append)
    assert [item.request.prompt for item in tracker.work_items()] == ["d", "e"]
    assert tracker.finished == [KEYS[0]]
    tracker.close()
    assert sorted(written) == KEYS[:2]


def test_a_batch_without_work_waits_with_its_table_until_all_is_handed_out(plan: Plan) -> None:
    wrote = threading.Event()
    tracker = BatchTracker(
        plan, KEYS, read_settled=settled(*fingerprints(plan, KEYS[0])), write_table=lambda _key: wrote.set()
    )
    items = tracker.work_items()
    next(items)
    assert not wrote.wait(0.05)
    list(items)
    assert wrote.wait(10)
    tracker.close()


def test_a_finished_batch_is_told_once_after_its_table_and_an_unfinished_one_never(plan: Plan) -> None:
    told: list[tuple[str, str]] = []
    failed = False

    def write(key: str) -> None:
        nonlocal failed
        if key == KEYS[1] and not failed:
            failed = True
            raise OSError("no space left")
        told.append(("written", key))

    tracker = BatchTracker(
        plan,
        KEYS,
        read_settled=settled(*fingerprints(plan, KEYS[2])),
        write_table=write,
        on_finished=lambda key: told.append(("finished", key)),
    )
    for item in tracker.work_items():
        if item.batch == KEYS[1]:
            tracker.has_outcome(item, "succeeded")
    with pytest.raises(OSError, match="no space left"):
        tracker.close()
    assert [key for what, key in told if what == "finished"] == [KEYS[2], KEYS[1]]
    assert all(told.index(("written", key)) < told.index(("finished", key)) for key in KEYS[1:])
    assert ("written", KEYS[0]) in told


def test_a_table_that_cannot_be_written_fails_the_run_at_its_end(plan: Plan) -> None:
    written: list[str] = []

    def write(key: str) -> None:
        if key == KEYS[0] and not written:
            written.append("failed")
            raise OSError("no space left")
        written.append(key)

    tracker = BatchTracker(plan, KEYS, read_settled=settled(), write_table=write)
    for item in tracker.work_items():
        tracker.has_outcome(item, "succeeded")
    with pytest.raises(OSError, match="no space left"):
        tracker.close()
    assert sorted(written) == ["failed", *KEYS], "the other tables were written, and this one was tried again"
