"""The file of decisions: nothing that was recorded is lost, and the latest line about a picture counts."""

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.dataset.review.decisions import (
    FILE,
    PART_DECISIONS,
    Decision,
    DecisionLog,
    ReviewError,
    Verdict,
    read_decisions,
    record_decisions,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def decision(name: str, verdict: Verdict = "keep", *, at: int = 0, reason: str = "", by: str = "ann") -> Decision:
    return Decision(name, verdict, reason, by, NOON + timedelta(seconds=at))


@pytest.fixture(params=["local", "memory"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) if request.param == "local" else UPath(f"memory://{tmp_path.name}-{id(request)}")


def test_without_a_file_nothing_is_decided(data_dir: UPath) -> None:
    assert read_decisions(data_dir) == {}


def test_decisions_come_back_as_they_were_recorded(data_dir: UPath) -> None:
    made = [decision("a", "reject", reason='a "dog", not\u00e9 a cat; =1+1'), decision("b", by="")]
    record_decisions(data_dir, made)
    record_decisions(data_dir, [])
    assert read_decisions(data_dir) == {one.fingerprint: one for one in made}


def test_the_latest_counts_whatever_the_order_of_the_lines(data_dir: UPath) -> None:
    record_decisions(data_dir, [decision("a", "reject", at=2), decision("a", at=1)])
    assert read_decisions(data_dir)["a"].decision == "reject"
    record_decisions(data_dir, [decision("a", "keep", at=2)])
    assert read_decisions(data_dir)["a"].decision == "keep", "of two at one time the later line counts"


def test_an_undo_takes_the_decision_back(data_dir: UPath) -> None:
    record_decisions(data_dir, [decision("a", at=1), decision("b", at=1)])
    record_decisions(data_dir, [decision("a", "", at=2)])
    assert list(read_decisions(data_dir)) == ["b"]


def test_a_reason_stays_on_its_line(tmp_path: Path) -> None:
    record_decisions(UPath(tmp_path), [decision("a", "reject", reason="first\nsecond\r\u2028third " + "x" * 1000)])
    assert len((tmp_path / FILE).read_text().splitlines()) == 2
    assert read_decisions(UPath(tmp_path))["a"].reason.startswith("first second")


def test_a_file_that_another_reviewer_sent_is_merged_by_time(tmp_path: Path) -> None:
    record_decisions(UPath(tmp_path), [decision("a", at=1), decision("b", at=5)])
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "ben.csv").write_bytes(
        b"\xef\xbb\xbffingerprint,decision,reason,reviewer,decided_at\r\n"
        b"a,reject,blurry,ben,2026-01-31T12:00:03Z\r\nb,reject,,ben,2026-01-31T13:00:03+01:00\r\n"
    )
    found = read_decisions(UPath(tmp_path))
    assert (found["a"].decision, found["a"].reviewer, found["b"].decision) == ("reject", "ben", "keep")


def _record(data_dir: str, name: str, count: int) -> None:
    for number in range(count):
        record_decisions(UPath(data_dir), [decision(f"{name}-{number}", by=name)])


def test_concurrent_reviewers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_record, args=(str(tmp_path), f"reviewer{n}", 100)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_decisions(UPath(tmp_path))) == 300
    assert len((tmp_path / FILE).read_text().splitlines()) == 301


@pytest.mark.parametrize(
    "torn", ["b", "b,reject,blu", "b,reject,,ben,2026-01-3", 'b,reject,"half, ', "fingerprint,dec"]
)
def test_a_torn_line_is_cut_and_the_others_count(tmp_path: Path, torn: str) -> None:
    data_dir = UPath(tmp_path)
    record_decisions(data_dir, [decision("a")])
    with (tmp_path / FILE).open("a") as file:
        file.write(torn)
    assert list(read_decisions(data_dir)) == ["a"]
    record_decisions(data_dir, [decision("c")])
    assert list(read_decisions(data_dir)) == ["a", "c"]


def test_a_last_line_without_its_line_feed_is_kept(tmp_path: Path) -> None:
    data_dir = UPath(tmp_path)
    record_decisions(data_dir, [decision("a")])
    file = tmp_path / FILE
    file.write_text(file.read_text().rstrip("\n"))
    record_decisions(data_dir, [decision("b")])
    assert list(read_decisions(data_dir)) == ["a", "b"]


@pytest.mark.parametrize(
    "line", ["a,keep", "a,maybe,,ann,2026-01-31T12:00:00Z", ",keep,,ann,2026-01-31T12:00:00Z", "a,keep,,,now"]
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    record_decisions(UPath(tmp_path), [decision("a")])
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ReviewError, match=r"review\.csv, line 3: .*Correct the line"):
        read_decisions(UPath(tmp_path))


def test_a_full_object_is_followed_by_another(tmp_path: Path) -> None:
    data_dir = UPath(f"memory://{tmp_path.name}-parts")
    log = DecisionLog(data_dir)
    log.append([decision(f"p{number}") for number in range(PART_DECISIONS)])
    log.append([decision("one more")])
    log.append([decision("and one")])
    assert len(read_decisions(data_dir)) == PART_DECISIONS + 2
    assert len(list((data_dir / "review").glob("*.csv"))) == 2
