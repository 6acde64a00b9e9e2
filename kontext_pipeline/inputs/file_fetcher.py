"""Reading input pictures that are no web pages: local files, data URIs, and files of any fsspec file system."""

import base64
import os
import stat
import urllib.parse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import fsspec

from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStoreFull
from kontext_pipeline.inputs.spooling import Fetched, Spool
from kontext_pipeline.segmind.outcomes import Cause

CHUNK_BYTES: Final = 2**20
_KINDS: Final = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}


def read_local(uri: str, spool: Spool) -> Fetched:
    """Copy a local file, named by its path or a file:// URL. What is no regular file is never opened for long.

    Raises:
        InputProblem: there is no such file, or it is too large.
        InputStoreFull: the copy can't be written.
    """
    path = Path(urllib.parse.unquote(uri.partition("://")[2]) if "://" in uri else uri)
    try:
        _check_regular(path.stat().st_mode)
        # The path may lead to something else by now, and opening a pipe would block.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            _check_regular(facts.st_mode)
            spool.check_size(facts.st_size)
            return Fetched(spool.write(iter(partial(file.read, CHUNK_BYTES), b"")))
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise InputProblem(Cause.INPUT_MISSING, f"it can't be read: {words}") from None


def read_data_uri(uri: str, spool: Spool) -> Fetched:
    """Decode a base64 data URI.

    Raises:
        InputProblem: it is none, or it holds too much.
        InputStoreFull: the file can't be written.
    """
    head, comma, data = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputProblem(Cause.INPUT_NOT_A_PICTURE, "it is no base64 data URI")
    spool.check_size(len(data) * 3 // 4 - 2)
    try:
        return Fetched(spool.write([base64.b64decode(data, validate=True)]))
    except ValueError as error:
        raise InputProblem(Cause.INPUT_NOT_A_PICTURE, f"its base64 data is broken: {error}") from None


def read_remote(uri: str, spool: Spool, *, etag: str | None = None) -> Fetched:
    """Copy a file of an fsspec file system, unless its content is still the version that `etag` names.

    Raises:
        InputProblem: there is no such file, it can't be read, or it is too large.
        InputStoreFull: the copy can't be written.
    """
    try:
        system, path = fsspec.core.url_to_fs(uri)
        found = system.info(path)
        if found.get("type") == "directory":
            raise InputProblem(Cause.INPUT_MISSING, "it is a folder")
        version = _version(found)
        if etag is not None and version == etag:
            return Fetched(None)
        spool.check_size(int(found.get("size") or 0))
        with system.open(path, "rb", block_size=CHUNK_BYTES) as file:
            return Fetched(spool.write(_chunks(file)), version)
    except (InputProblem, InputStoreFull):
        raise
    except (FileNotFoundError, PermissionError) as error:
        words = "no file is there" if isinstance(error, FileNotFoundError) else f"access is denied ({error})"
        raise InputProblem(Cause.INPUT_MISSING, words) from None
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(uri.partition(":")[0].lower())
        advice = f"; pip install kontext-pipeline[{extra}]" if extra and isinstance(error, ImportError) else ""
        raise InputProblem(Cause.INPUT_REFUSED, f"it can't be read: {error}{advice}") from None
    except Exception as error:  # noqa: BLE001  each file system has errors of its own
        raise InputProblem(
            Cause.INPUT_UNREACHABLE, f"it can't be read: {error or type(error).__name__}", transient=True
        ) from None


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "a device")
        raise InputProblem(Cause.INPUT_NOT_A_PICTURE, f"it is {kind}, not a file")


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _version(found: dict[str, Any]) -> str | None:
    """Return what names the version of a file, going by what its file system says of it."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "crc32c"):
        if found.get(name):
            return str(found[name])
    changed = next((found[name] for name in ("LastModified", "mtime", "last_modified") if found.get(name)), None)
    return None if changed is None else f"{changed} {found.get('size')}"
