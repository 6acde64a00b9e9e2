"""The column `input_image` of a manifest, and what is known of the local files that it names.

A local input picture is identified by its content, so moving it changes no fingerprint and editing it does. A file is
hashed once, and again only if its size or modification time has changed. For that, the facts are kept as
`<data dir>/plan/pictures/<manifest>.parquet`.
"""

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext_pipeline.files import AnyPath, write_atomically
from kontext_pipeline.planning.cells import matches
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.sources import Manifest, absolute

_PICTURE_FORMATS: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
_WEB_URL: Final = r"^(?i:https?)://[^\s/?#\x00-\x1f\x7f]+[^\s\x00-\x1f\x7f]*$"
_SCHEME: Final = r"^[A-Za-z][A-Za-z0-9+.-]+:"
_DATA_SCHEME: Final = "^(?i:data):"
_DATA_URI: Final = re.compile(r"data:image/[a-z0-9.+-]+(?:;[a-z0-9-]+=[^;,]*)*;base64,", re.IGNORECASE)
_ALLOWED: Final = (
    "a whole http:// or https:// URL without spaces, a data:image/...;base64, URI, or the path of a file, relative "
    "to the manifest's folder"
)
_HEAD_BYTES: Final = 16
_HEIF_BRANDS: Final = {b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"}
_CLOCK_GRAIN_NS: Final = 2_000_000_000


class NotAPictureError(Exception):
    """There is no usable picture. The text of the error says why."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A local file: absolute path, bytes, modification time in ns, and the sha256 of its content once known."""

    path: str
    size: int
    mtime_ns: int
    sha256: str | None = None

    def is_unchanged(self) -> bool:
        """Return whether the file still has the same size and modification time."""
        try:
            now = os.stat(self.path)  # noqa: PTH116  Quicker, and there may be a million files.
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)


def check_input_images(
    images: pa.ChunkedArray,
    numbers: npt.NDArray[np.int64],
    manifest: Manifest,
    known: Mapping[str, InputFile],
    problems: FileProblems,
) -> tuple[pa.ChunkedArray, dict[str, InputFile]]:
    """Check a column of input images, null where there is none; what is not allowed is a problem.

    `numbers` are the row numbers, `known` local files that are known already, by path.

    Returns:
        A column with the absolute path of each local file (else null), and those files by path.
    """
    is_web = matches(images, _WEB_URL)
    is_other = pc.and_not(matches(images, _SCHEME), pc.or_(is_web, matches(images, _DATA_SCHEME)))
    problems.add_where(
        is_other,
        numbers,
        lambda index: f"{quoted(images[index].as_py())} is not allowed; allowed: {_ALLOWED}",
        "input_image",
    )
    different = pc.unique(images.filter(pc.and_not(pc.is_valid(images), pc.or_(is_web, is_other))))
    files: dict[str, InputFile] = {}
    paths: list[str | None] = [None] * len(different)
    reasons: list[str | None] = [None] * len(different)
    for index, value in enumerate(different.to_pylist()):
        try:
            if re.match(_DATA_SCHEME, value):
                _check_data_uri(value)
            else:
                file = inspect(_path(value, manifest), known)
                files[file.path] = file
                paths[index] = file.path
        except NotAPictureError as error:
            reasons[index] = f"{quoted(value)}: {error}"
    indices = pc.index_in(images, value_set=different).combine_chunks()
    why = pa.array(reasons, pa.string()).take(indices)
    problems.add_where(pc.is_valid(why), numbers, lambda index: str(why[index]), "input_image")
    return pa.chunked_array([pa.array(paths, pa.string()).take(indices)]), files


def _path(value: str, manifest: Manifest) -> Path:
    if isinstance(manifest.path, Path):
        return absolute(manifest.path.parent / value)
    if not Path(value).is_absolute():
        raise NotAPictureError("a manifest at a URL can name a local file by its absolute path only")
    return absolute(Path(value))


def _check_data_uri(uri: str) -> None:
    head = _DATA_URI.match(uri)
    if not head:
        raise NotAPictureError("a data URI must be data:image/<format>;base64,<data>")
    try:
        content = base64.b64decode(uri[head.end() :], validate=True)
    except ValueError as error:
        raise NotAPictureError(f"the base64 data of the URI is broken: {error}") from None
    check_head(content, "the data of the URI")


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
