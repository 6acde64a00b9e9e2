"""What is remembered of local input pictures, and when it is not trusted."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_pipeline.planning.input_files import (
    InputFile,
    NotAPictureError,
    cacheable,
    check_head,
    digest_of,
    inspect,
    read_cache,
    with_digests,
    write_cache,
)

A = InputFile("/a.png", 10, 20, "00" * 32)
B = InputFile("/b.png", 11, 21, "11" * 32)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read_cache(tmp_path, "m") == {}
    write_cache(tmp_path, "m", [A, B])
    assert read_cache(tmp_path, "m") == {A.path: A, B.path: B}
    write_cache(tmp_path, "m", [])
    assert list((tmp_path / "pictures").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PAR1 and so on"])
def test_a_broken_cache_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    write_cache(tmp_path, "m", [A])
    (tmp_path / "pictures" / "m.parquet").write_bytes(content)
    assert read_cache(tmp_path, "m") == {}


def test_a_file_that_was_just_written_is_remembered_with_a_time_that_it_never_has() -> None:
    now = InputFile("/now.png", 1, time.time_ns(), "22" * 32)
    assert cacheable([A, now]) == [A, InputFile("/now.png", 1, -1, "22" * 32)]


def test_the_digest_follows_all_facts_and_not_their_order() -> None:
    assert digest_of([A, B]) == digest_of([B, A])
    assert digest_of([A]) != digest_of([InputFile(A.path, A.size, 21, A.sha256)])


def test_a_file_is_unchanged_until_its_size_or_time_changes(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    path = make_picture(tmp_path / "a.png")
    (file,) = with_digests([inspect(path, {})])
    assert file.is_unchanged()
    assert inspect(path, {file.path: file}) is file
    make_picture(path, mtime_s=1_600_000_001)
    assert not file.is_unchanged()
    assert inspect(path, {file.path: file}).sha256 is None
    path.unlink()
    assert not file.is_unchanged()


@pytest.mark.parametrize("head", [b"", b"<html><body>502 ", b"RIFF\x24\0\0\0WAVEfmt ", b"\0\0\0\x1cftypisom"])
def test_what_is_no_picture(head: bytes) -> None:
    with pytest.raises(NotAPictureError, match="the file is no picture of a known format"):
        check_head(head, "the file")
