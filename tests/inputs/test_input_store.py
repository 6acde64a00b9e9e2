"""The input store keeps each picture once, with its bytes unchanged."""

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from kontext_pipeline.inputs.input_store import InputStore, NotAnImage


def picture(kind: str = "PNG", size: tuple[int, int] = (3, 2)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind)
    return file.getvalue()


def test_a_picture_is_kept_once_under_its_digest(tmp_path: Path) -> None:
    data = picture("JPEG")
    sha256 = hashlib.sha256(data).hexdigest()
    first, again = InputStore(tmp_path).keep(data), InputStore(tmp_path).keep(data)
    assert first == again
    assert (first.sha256, first.path) == (sha256, f"inputs/{sha256[:2]}/{sha256}.jpg")
    assert (first.format, first.bytes, first.width, first.height) == ("JPEG", len(data), 3, 2)
    assert (tmp_path / first.path).read_bytes() == data
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{sha256}.jpg"]


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAnImage, match="no picture of a known format"):
        InputStore(tmp_path).keep(b"<html>not found</html>")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
