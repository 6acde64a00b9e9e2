"""Which attempts were really sent: an entry each, made between the ledger's commit and the POST.

The ledger has every attempt on the disk before it may be sent, often well before, so that no place in
flight waits for a commit. When a run dies, this log tells those that were sent from those that were only
about to be. It is not flushed: the kernel keeps what a killed process had written. What a power cut leaves
of it proves nothing, so it counts on the machine and during the uptime that wrote it; without it, every
open attempt is taken for sent.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from kontext_pipeline.errors import LedgerError

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def uptime_id() -> str | None:
    """What names this machine's time since it was started; None where the system has no such name."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


class SentLog:
    """The log of one claimant, for any number of threads.

    Raises:
        LedgerError: it can't be written.
    """

    def __init__(self, path: Path, uptime: str) -> None:
        """Begin the file `path`."""
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._failed(error) from None
        self._write(f"{uptime}\n")

    def add(self, attempt: int) -> None:
        """An attempt is about to be sent."""
        self._write(f"{attempt}\n")

    def close(self) -> None:
        """Remove the file: from here on, what is open counts as sent."""
        with suppress(OSError):
            self._path.unlink()
        with self._lock:
            self._closed = True
            os.close(self._file)

    def _write(self, line: str) -> None:
        try:
            with self._lock:
                if self._closed:
                    # Its number may be another file's by now.
                    raise LedgerError(f"{self._path} is closed: nothing more may be sent")
                written = os.write(self._file, line.encode())
        except OSError as error:
            raise self._failed(error) from None
        if written < len(line):
            raise LedgerError(f"{self._path} can't be written: its disk is full")

    def _failed(self, error: OSError) -> LedgerError:
        return LedgerError(
            f"{self._path}, where the ledger notes what is sent, can't be written: {error.strerror}"
        )


def read_sent(path: Path) -> frozenset[int] | None:
    """Return the attempts that a dead claimant's log names, or None where it proves nothing."""
    try:
        uptime, *lines = path.read_bytes().split(b"\n")
    except OSError:
        return None
    if not uptime or uptime.decode("ascii", "replace") != uptime_id():
        return None
    # What follows the last line's end is nothing, or an entry that was cut and so was never acted on.
    return frozenset(int(line) for line in lines[:-1] if line.isdigit())
