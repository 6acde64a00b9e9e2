"""A file is complete or absent, whatever happens while it is written."""

import os
import signal
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.files import is_local, write_atomically


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("data", True),
        ("/data/a.csv", True),
        ("~/data", True),
        ("file:///data/a.csv", True),
        ("local:///data/a.csv", True),
        ("memory://data/a.csv", False),
        ("s3://bucket/a.csv", False),
        ("https://example.org/a.csv", False),
    ],
)
def test_what_is_local(path: str, local: bool) -> None:
    assert is_local(path) is local
    if not path.startswith("s3:"):
        assert is_local(UPath(path)) is local


def test_a_standard_path_is_local() -> None:
    assert is_local(Path("/data/a.csv"))


def _write(content: str, temporary: Path) -> None:
    temporary.write_text(content)


@pytest.mark.parametrize("kind", [Path, UPath, lambda path: UPath(f"file://{path}")])
def test_a_file_is_created_with_its_folders_and_replaced(tmp_path: Path, kind: type[UPath]) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for content in ("first", "second"):
        write_atomically(kind(path), partial(_write, content))
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_remote_file_is_created_and_replaced() -> None:
    path = UPath(f"memory://{uuid.uuid4().hex}/folder/file.txt")
    for content in ("first", "second"):
        write_atomically(path, partial(_write, content))
        assert path.read_text() == content


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        with temporary.open("wb") as file:
            file.write(b"new")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "x.txt", lambda temporary: temporary.write_text("new"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_atomically(tmp_path / "file.txt", lambda temporary: temporary.write_text("new"))
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "file.txt").read_text() == "old"


def test_the_temporary_file_can_be_kept_out_of_the_folder(tmp_path: Path) -> None:
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary.parent)
        temporary.write_text("new")

    write_atomically(tmp_path / "folder" / "file.txt", write, temporary_folder=tmp_path)
    assert seen == [tmp_path]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file.txt", "folder"]


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    killed = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from kontext_pipeline.files import write_atomically\n"
        "def write(temporary):\n"
        "    temporary.write_text('new, and complete')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_atomically(path, lambda temporary: temporary.write_text("newer"))
    assert path.read_text() == "newer"
