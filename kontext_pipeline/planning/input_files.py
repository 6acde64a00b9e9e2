"""What is known of the local files that manifests name as input pictures.

A local input picture is identified by its content, so moving it changes no fingerprint and editing it does. A file is
hashed once, and again only if its size or modification time has changed. For that, the facts are kept as
`<data dir>/plan/pictures/<manifest>.parquet`.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from kontext_pipeline.files import AnyPath, write_atomically

_PICTURE_FORMATS: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
_HEAD_BYTES: Final = 16
_HEIF_BRANDS: Final = {b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"}
_CLOCK_GRAIN_NS: Final = 2_000_000_000
KEPT_MTIME_NS: Final = -2
"""In place of the modification time of a picture in the input store, whose name says its content."""


class NotAPictureError(Exception):
    """There is no usable picture. The text of the error says why."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A local file: absolute path, bytes, modification time in ns, and the sha256 of its content once known.

    A picture in the input store has `KEPT_MTIME_NS`, and a URL for its path where the data directory is remote.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str | None = None

    def is_unchanged(self) -> bool:
        """Return whether the file still has the same size and modification time. A kept picture has, while it exists."""
        is_kept = self.mtime_ns == KEPT_MTIME_NS
        if is_kept and "://" in self.path:
            return True
        try:
            now = os.stat(self.path)  # noqa: PTH116  Quicker, and there may be a million files.
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns if not is_kept else self.mtime_ns) == (self.size, self.mtime_ns)


def inspect(path: Path, known: Mapping[str, InputFile]) -> InputFile:
    """Return the picture at an absolute path; with its digest if it is unchanged since it was `known`.

    Raises:
        NotAPictureError: The file is missing, can't be read, or doesn't start as a picture does.
    """
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise NotAPictureError("is a folder or a device, not a file")
        file = InputFile(str(path), found.st_size, found.st_mtime_ns)
        before = known.get(file.path)
        if before and (before.size, before.mtime_ns) == (file.size, file.mtime_ns):
            return before
        with path.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise NotAPictureError(f"no file is there ({path})") from None
    except (OSError, ValueError) as error:
        raise NotAPictureError(f"can't be read: {getattr(error, 'strerror', None) or error}") from None
    check_head(head, "the file")
    return file


def check_head(head: bytes, what: str) -> None:
    """Raise a `NotAPictureError` unless `what` starts, with `head` (at least 16 bytes), as a picture does."""
    simple = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_heif = head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS
    if not (head.startswith(simple) or is_webp or is_heif):
        raise NotAPictureError(f"{what} is no picture of a known format ({_PICTURE_FORMATS})")


def with_digests(files: Iterable[InputFile]) -> list[InputFile]:
    """Return the files with their digests. Files that have a digest are not read.

    Raises:
        OSError: A file can't be read any more.
    """

    def with_digest(file: InputFile) -> InputFile:
        if file.sha256:
            return file
        with Path(file.path).open("rb") as opened:
            return replace(file, sha256=hashlib.file_digest(opened, "sha256").hexdigest())

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(with_digest, files))


def cacheable(files: Iterable[InputFile]) -> list[InputFile]:
    """Return the files as the cache has them.

    A file that was written a moment ago may change again and keep its modification time, because file systems have
    coarse clocks. Such a file gets a time that it never has, so that it is hashed again.
    """
    limit = time.time_ns() - _CLOCK_GRAIN_NS
    return [file if file.mtime_ns < limit else replace(file, mtime_ns=-1) for file in files]


def digest_of(files: Iterable[InputFile]) -> str:
    """Return a sha256 of all facts about these files."""
    facts = sorted(list(asdict(file).values()) for file in files)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_cache(folder: AnyPath, manifest: str) -> dict[str, InputFile]:
    """Return the files of a manifest that the plan folder knows, by path. An unreadable cache is empty."""
    path = _cache_path(folder, manifest)
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as opened:
            rows = pq.ParquetFile(opened).read().to_pylist()
        return {row["path"]: InputFile(**row) for row in rows}
    except (pa.ArrowException, KeyError, TypeError):
        return {}


def write_cache(folder: AnyPath, manifest: str, files: Iterable[InputFile]) -> None:
    """Replace what the plan folder knows of a manifest's files."""
    path = _cache_path(folder, manifest)
    rows = [asdict(file) for file in files]
    if rows:
        write_atomically(path, lambda temporary: pq.write_table(pa.Table.from_pylist(rows), temporary))
    elif path.is_file():
        path.unlink()


def _cache_path(folder: AnyPath, manifest: str) -> AnyPath:
    return folder / "pictures" / f"{manifest}.parquet"
