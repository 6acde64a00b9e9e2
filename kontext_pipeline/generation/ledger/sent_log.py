"""Which attempts were really sent: an entry each, made between the ledger's commit and the POST.

The ledger has every attempt on the disk before it may be sent, often well before, so that no place in
flight waits for a commit. When a run dies, this log tells those that were sent from those that were only
about to be. It is not flushed: the kernel keeps what a killed process had written. What a power cut leaves
of it proves nothing, so it counts on the machine and during the uptime that wrote it; without it, every
open attempt is taken for sent.

The file is written by way of memory that is mapped to it. A system call for each entry would let every other
thread have the interpreter first, at the one moment when a place in flight stands empty.
"""

import errno
import mmap
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kontext_pipeline.errors import LedgerError

_PIECE_BYTES: Final = 1 << 16
"""What the file grows by: room for some eight thousand entries."""
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
        self._end = 0
        self._closed = False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._failed(error) from None
        try:
            self._grow()
            self._map = mmap.mmap(self._file, _PIECE_BYTES)
        except OSError as error:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise self._failed(error) from None
        self._write(f"{uptime}\n".encode())

    def add(self, attempt: int) -> None:
        """An attempt is about to be sent."""
        self._write(b"%d\n" % attempt)

    def end(self) -> "SentAttempts | None":
        """Let nothing more be sent, and return what was; None where the file doesn't tell."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._map.close()
                os.close(self._file)
        return read_sent(self._path)

    def remove(self) -> None:
        """Remove the file: from here on, what is open counts as sent."""
        self.end()
        with suppress(OSError):
            self._path.unlink()

    def _write(self, entry: bytes) -> None:
        with self._lock:
            if self._closed:
                raise LedgerError(f"{self._path} is closed: nothing more may be sent")
            end = self._end + len(entry)
            if end > len(self._map):
                try:
                    self._grow()
                    self._map.resize(len(self._map) + _PIECE_BYTES)
                except OSError as error:
                    raise self._failed(error) from None
            self._map[self._end : end] = entry
            self._end = end

    def _grow(self) -> None:
        """Add a piece to the file, written and not only claimed: writing to mapped memory that no disk has room
        for ends a process.
        """
        if os.write(self._file, bytes(_PIECE_BYTES)) < _PIECE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failed(self, error: OSError) -> LedgerError:
        return LedgerError(
            f"{self._path}, where the ledger notes what is sent, can't be written: {error.strerror}"
        )


@dataclass(frozen=True, slots=True)
class SentAttempts:
    """The attempts that a log names, looked up in its text: it may be a million, of which few are ever asked for."""

    text: bytes
    """A line that says when, then a line for each attempt."""

    def __contains__(self, attempt: int) -> bool:
        """Say whether the attempt was sent."""
        return b"\n%d\n" % attempt in self.text


def read_sent(path: Path) -> SentAttempts | None:
    """Return the attempts that a dead claimant's log names, or None where it proves nothing."""
    try:
        text = path.read_bytes().partition(b"\0")[0]
    except OSError:
        return None
    uptime, _, _ = text.partition(b"\n")
    if not uptime or uptime.decode("ascii", "replace") != uptime_id():
        return None
    # What follows the last line's end is nothing, or an entry that was cut and so was never acted on.
    return SentAttempts(text)
