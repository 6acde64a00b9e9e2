"""Ways to make manifests and pictures."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

LONG_AGO_S = 1_600_000_000


@pytest.fixture
def make_picture() -> Callable[..., Path]:
    """Return a function that writes a small PNG, which differs by `content`, as if it were old."""

    def write(path: Path, content: bytes = b"", *, mtime_s: int = LONG_AGO_S) -> Path:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

        header = (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
        parts = [
            (b"IHDR", header),
            (b"tEXt", b"note\0" + content),
            (b"IDAT", zlib.compress(b"\0\0")),
            (b"IEND", b""),
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
        os.utime(path, (mtime_s, mtime_s))
        return path

    return write
