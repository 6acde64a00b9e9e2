"""Reading what is no web page: files, folders, pipes, data URIs, other file systems."""

import base64
import hashlib
import os
import socket
from pathlib import Path

import fsspec
import pytest

from kontext_pipeline.inputs.file_fetcher import read_data_uri, read_local, read_remote
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStore
from kontext_pipeline.inputs.spooling import Spool
from kontext_pipeline.segmind.outcomes import Cause

DATA = b"some bytes"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    path = tmp_path / "spooled"
    return Spool(InputStore(tmp_path / "data"), path, 1000)


def test_a_file_is_copied(tmp_path: Path, spool: Spool) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(DATA)
    assert read_local(str(path), spool).sha256 == SHA256
    assert read_local(path.as_uri(), spool).sha256 == SHA256
    assert spool.path.read_bytes() == DATA


def test_what_is_no_file_never_blocks(tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, place = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    link = tmp_path / "link.png"
    link.symlink_to(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's name must be short.
        monkeypatch.chdir(tmp_path)
        server.bind("socket")
        for path, kind in [(pipe, "a pipe"), (link, "a pipe"), (place, "a socket"), (tmp_path, "a folder")]:
            with pytest.raises(InputProblem, match=kind):
                read_local(str(path), spool)
    with pytest.raises(InputProblem, match="a device"):
        read_local("/dev/zero", spool)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, spool: Spool) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(800 * 2**20)
    with pytest.raises(InputProblem, match=r"it has 800.0 MB; at most 0.\d+ MB") as raised:
        read_local(str(path), spool)
    assert raised.value.cause is Cause.INPUT_UNSUITABLE
    assert not spool.path.exists()


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path, spool: Spool) -> None:
    with pytest.raises(InputProblem, match="No such file") as raised:
        read_local(str(tmp_path / "gone"), spool)
    assert (raised.value.cause, raised.value.transient) == (Cause.INPUT_MISSING, False)


def test_data_uris(spool: Spool) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(DATA).decode()}"
    assert read_data_uri(uri, spool).sha256 == SHA256
    for broken in ("data:image/png;base64,???", "data:image/png,text", "data:"):
        with pytest.raises(InputProblem):
            read_data_uri(broken, spool)
    with pytest.raises(InputProblem, match="at most"):
        read_data_uri(f"data:image/png;base64,{'A' * 4000}", spool)


def test_other_file_systems(spool: Spool) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/a.png", DATA)
    assert read_remote("memory://bucket/a.png", spool).sha256 == SHA256
    with pytest.raises(InputProblem, match="no file is there") as raised:
        read_remote("memory://bucket/b.png", spool)
    assert raised.value.cause is Cause.INPUT_MISSING
    with pytest.raises(InputProblem, match="can't be read") as raised:
        read_remote("nonsense://bucket/a.png", spool)
    assert raised.value.cause is Cause.INPUT_REFUSED
    fsspec.filesystem("memory").pipe_file("/bucket/large.png", bytes(1001))
    with pytest.raises(InputProblem, match="at most"):
        read_remote("memory://bucket/large.png", spool)
