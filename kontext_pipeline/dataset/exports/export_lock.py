"""A lock on the folder of an export: two exports at once would mix their files."""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Final

from filelock import FileLock, Timeout
from upath import UPath

from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.files import is_local, local_path
from kontext_pipeline.threads import start_thread

LOCK: Final = ".kontext-export.lock"
LEASE_S: Final = 120.0
"""Time without a sign of life after which a lock on an object store belongs to nobody, seconds."""
_RENEW_S: Final = 20.0


@contextlib.contextmanager
def locked(out: UPath) -> Iterator[None]:
    """Hold the lock of a folder, which must exist if it is local.

    Raises:
        ExportError: Another export has it.
        OSError: It can't be written.
    """
    if is_local(out):
        lock = FileLock(local_path(out) / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _busy(out) from None
        try:
            yield
        finally:
            lock.release()
        return
    with _leased(out):
        yield


@contextlib.contextmanager
def _leased(out: UPath) -> Iterator[None]:
    # Object stores have no locks. The file says who writes, and until when nobody else may.
    path, token, ended = out / LOCK, secrets.token_hex(16), threading.Event()
    holder, until = _read(path)
    if holder and until > time.time():
        raise _busy(out, f" Its lock {path} holds for {until - time.time():.0f} s more unless it is renewed.")
    _write(path, token)
    if _read(path)[0] != token:
        raise _busy(out)

    def renew() -> None:
        while not ended.wait(_RENEW_S):
            with contextlib.suppress(OSError):
                _write(path, token)

    renewing = start_thread(renew, "export lock")
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with contextlib.suppress(OSError):
            if _read(path)[0] == token:
                path.unlink()


def _read(path: UPath) -> tuple[str, float]:
    path.fs.invalidate_cache(path.parent.path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["token"]), float(found["until"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "", 0.0


def _write(path: UPath, token: str) -> None:
    path.write_text(json.dumps({"token": token, "until": time.time() + LEASE_S}), encoding="utf-8")


def _busy(out: UPath, more: str = "") -> ExportError:
    return ExportError(
        f"Another export writes into {out}. Wait for its end, or choose another folder with --out.{more}"
    )
