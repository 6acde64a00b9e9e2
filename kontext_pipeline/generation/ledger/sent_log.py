"""The log of sent attempts: one line for each, written between the ledger's commit and the POST.

Attempts are reserved before a slot is free, often well before, so that no slot waits for a commit. After a crash, the
log tells the attempts that were sent from those that were only reserved. It is not flushed: the kernel keeps what a
killed process wrote. After a power cut the file proves nothing, so it counts only during the uptime of the machine that
wrote it; without it, every open attempt is taken for sent.

The file begins with a line that names the uptime; then each line is the id of an attempt.
"""

import errno
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kontext_pipeline.errors import LedgerError

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def uptime_id() -> str | None:
    """Return what names the time since this machine was started; None where the system has no such name."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


class SentLog:
    """The log of one claimant. Any number of threads may add to it.

    Raises:
        LedgerError: The file can't be written.
    """

    def __init__(self, path: Path, uptime: str) -> None:
        """Create the file `path`."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._failed(error) from None
        try:
            self._append(f"{uptime}\n".encode())
        except LedgerError:
            self.remove()
            raise

    def add(self, attempt: int) -> None:
        """Note that an attempt is about to be sent.

        Raises:
            LedgerError: The log can't be written or is closed: the attempt must not be sent.
        """
        self._append(b"%d\n" % attempt)

    def end(self) -> "SentAttempts | None":
        """Close the log, so that nothing more is sent. Return what was; None where the file does not tell."""
        with self._lock:
            self._close()
        return read_sent(self._path)

    def remove(self) -> None:
        """Close and remove the log. From here on, what is open counts as sent."""
        self.end()
        with suppress(OSError):
            self._path.unlink()

    def _append(self, line: bytes) -> None:
        with self._lock:
            if self._file is None:
                raise LedgerError(f"{self._path} is closed: nothing more may be sent")
            try:
                written = os.write(self._file, line)
            except OSError as error:
                raise self._failed(error) from None
            if written < len(line):
                # The next line would join the part that was written, and name another attempt.
                self._close()
                raise self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _failed(self, error: OSError) -> LedgerError:
        return LedgerError(f"{self._path}, where the ledger notes what is sent, can't be written: {error.strerror}")


@dataclass(frozen=True, slots=True)
class SentAttempts:
    """The attempts that a log names, looked up in its text: there may be a million, and few are ever asked for."""

    text: bytes

    def __contains__(self, attempt: int) -> bool:
        """Return whether the attempt was sent."""
        return b"\n%d\n" % attempt in self.text


def read_sent(path: Path) -> SentAttempts | None:
    """Return the attempts that the log of a dead claimant names, or None where the log proves nothing."""
    try:
        # Logs of earlier releases end with NULs.
        text = path.read_bytes().partition(b"\0")[0]
    except OSError:
        return None
    uptime, _, _ = text.partition(b"\n")
    if not uptime or uptime.decode("ascii", "replace") != uptime_id():
        return None
    # A last line without an end was cut, so its attempt was never sent.
    return SentAttempts(text)
