"""Local input pictures: is there one at this path, and what is in it.

A local picture is known by its content, so that moving it asks for nothing new and changing it does. Each
path is hashed once, and again only when the file's size or time changed.
"""

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Final

_HEAD_BYTES: Final = 16
_CLOCK_GRAIN_NS: Final = 2_000_000_000
_DATA_URI: Final = re.compile(r"data:image/[a-z0-9.+-]+(?:;[a-z0-9-]+=[^;,]*)*;base64,", re.IGNORECASE)
KINDS: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"


class NotAPictureError(Exception):
    """There is no picture there; its text says what is there instead."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A local file: absolute path, bytes, time of its last change in ns, and its sha256 once known."""

    path: str
    size: int
    mtime_ns: int
    sha256: str | None = None


def look_at(path: Path, known: Mapping[str, Picture]) -> Picture:
    """Return the picture at an absolute `path`; with its digest, if it is unchanged since it was `known`.

    Raises `NotAPictureError` when it is missing, can't be read, or doesn't begin as a picture does.
    """
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise NotAPictureError("is a folder or a device, not a file")
        picture = Picture(str(path), found.st_size, found.st_mtime_ns)
        before = known.get(picture.path)
        if before and (before.size, before.mtime_ns) == (picture.size, picture.mtime_ns):
            return before
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise NotAPictureError(f"no file is there ({path})") from None
    except (OSError, ValueError) as error:
        raise NotAPictureError(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not is_picture(head):
        raise NotAPictureError(f"the file is no picture that is known here ({KINDS})")
    return picture


def hashed(pictures: Iterable[Picture]) -> list[Picture]:
    """Return the pictures with their digests; those that have one already are not read again.

    Raises `OSError` when one can't be read any more.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(_hashed, pictures))


def _hashed(picture: Picture) -> Picture:
    if picture.sha256:
        return picture
    with Path(picture.path).open("rb") as file:
        return replace(picture, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def may_be_remembered(picture: Picture, now_ns: int | None = None) -> bool:
    """Say whether size and time tell this file's next change: not when it was written a moment ago.

    A file that changes twice within a tick of the file system's clock keeps its time.
    """
    return picture.mtime_ns < (time.time_ns() if now_ns is None else now_ns) - _CLOCK_GRAIN_NS


def is_picture(head: bytes) -> bool:
    """Say whether a file that begins with `head` (16 bytes) is one of `KINDS`."""
    return (
        head.startswith(
            (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
        )
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (
            head[4:8] == b"ftyp"
            and head[8:12] in {b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"}
        )
    )


def check_data_uri(uri: str) -> None:
    """Raise `NotAPictureError` unless `uri` is a `data:image/...;base64,` URI with a picture's beginning."""
    head = _DATA_URI.match(uri)
    if not head:
        raise NotAPictureError("a data URI must be data:image/<kind>;base64,<data>")
    try:
        content = base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAPictureError(f"the base64 data of the URI is broken: {error}") from None
    if not is_picture(content[:_HEAD_BYTES]):
        raise NotAPictureError(f"the data of the URI is no picture that is known here ({KINDS})")
