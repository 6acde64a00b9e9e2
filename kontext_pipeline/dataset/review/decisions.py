"""The decisions of reviewers: `review.csv` in the data directory, to which lines are appended and never changed.

    fingerprint,decision,reason,reviewer,decided_at

The latest line about a picture counts, whoever wrote it; an empty decision takes an earlier one back. Object stores can't
append, so each process writes a file of its own there, `review/<name>.csv`. Files in `review/` are read in every data
directory: a file that a reviewer without access has sent is put there.
"""

import contextlib
import csv
import io
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

from filelock import FileLock
from upath import UPath

from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import flush, is_local, local_path, write_atomically
from kontext_pipeline.plain_text import plain_text

FILE: Final = "review.csv"
FOLDER: Final = "review"
"""Folder of further files of decisions."""
HEADER: Final = ("fingerprint", "decision", "reason", "reviewer", "decided_at")
REASON_CHARS: Final = 500
"""Longest reason that is kept whole."""
REVIEWER_CHARS: Final = 100
"""Longest name of a reviewer that is kept whole."""
PART_DECISIONS: Final = 500
"""Most decisions in one file of an object store, where a further decision writes the file again."""

Verdict: TypeAlias = Literal["keep", "reject", ""]


class ReviewError(KontextError):
    """The decisions can't be read, or the review can't be shown."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A reviewer's decision about a picture.

    Attributes:
        fingerprint: The picture.
        decision: `keep` or `reject`; empty takes the decision before back.
        reason: Why, in the reviewer's words; may be empty.
        reviewer: Who decided; may be empty.
        decided_at: When, with a time zone.
    """

    fingerprint: str
    decision: Verdict
    reason: str
    reviewer: str
    decided_at: datetime


class DecisionLog:
    """Appends decisions to the file of a data directory. Any number of threads and processes may append at once."""

    def __init__(self, data_dir: UPath) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._part: UPath | None = None
        self._part_lines: list[str] = []

    def append(self, decisions: Iterable[Decision]) -> None:
        """Append decisions, all or none. They are on the disk afterwards.

        Raises:
            OSError: The file can't be written. Nothing was appended.
        """
        lines = [_line(decision) for decision in decisions]
        if not lines:
            return
        with self._lock:
            if is_local(self._data_dir):
                _append_locally(local_path(self._data_dir) / FILE, lines)
            else:
                self._write_part(lines)

    def _write_part(self, lines: list[str]) -> None:
        if self._part is None or len(self._part_lines) >= PART_DECISIONS:
            # The names sort by time, which decides between lines of the same time.
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.csv"
            self._part, self._part_lines = self._data_dir / FOLDER / name, []
        text = "".join([_HEADER_LINE, *self._part_lines, *lines])
        write_atomically(self._part, lambda path: path.write_text(text, encoding="utf-8", newline=""))
        self._part_lines += lines


def record_decisions(data_dir: UPath, decisions: list[Decision]) -> None:
    """Append decisions to the file of a data directory. Concurrent writers lose nothing.

    Raises:
        OSError: The file can't be written. Nothing was appended.
    """
    DecisionLog(data_dir).append(decisions)


def read_decisions(data_dir: UPath) -> dict[str, Decision]:
    """Return the latest decision about each picture, by fingerprint, of all files; empty where there is none.

    Raises:
        ReviewError: A line is not a decision.
        OSError: A file can't be read.
    """
    latest: dict[str, Decision] = {}
    for path in decision_files(data_dir):
        for decision in _decisions_of(path):
            known = latest.get(decision.fingerprint)
            # Of two at the same time the later line counts.
            if known is None or known.decided_at <= decision.decided_at:
                latest[decision.fingerprint] = decision
    return {fingerprint: decision for fingerprint, decision in latest.items() if decision.decision}


def decision_files(data_dir: UPath) -> list[UPath]:
    """Return the files of decisions that exist."""
    folder = data_dir / FOLDER
    parts = sorted(folder.glob("*.csv"), key=str) if folder.is_dir() else []
    return [path for path in (data_dir / FILE, *parts) if path.is_file()]


def _decisions_of(path: UPath) -> Iterator[Decision]:
    text = path.read_bytes().decode("utf-8-sig", "replace")
    complete, end, tail = text.rpartition("\n")
    # A write that a power cut ended leaves a part of a line, which nobody was told is kept.
    if tail and not _is_complete(tail):
        text = complete + end
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in rows:
            if cells and tuple(cells) != HEADER:
                yield _decision(cells)
    except (ValueError, csv.Error) as error:
        raise ReviewError(
            f"{path}, line {rows.line_num}: {error}. A line has {', '.join(HEADER)}: the decision is keep, reject or empty, "
            "the time is as 2026-01-31T12:00:00Z. Correct the line or remove it."
        ) from None


def _decision(cells: list[str]) -> Decision:
    if len(cells) != len(HEADER):
        raise ValueError(f"{len(cells)} columns, not {len(HEADER)}")
    fingerprint, decision, reason, reviewer, time = (cell.strip() for cell in cells)
    if not fingerprint:
        raise ValueError("the fingerprint is missing")
    if decision not in ("keep", "reject", ""):
        raise ValueError(f"the decision is {plain_text(decision, 50)!r}")
    try:
        decided_at = datetime.fromisoformat(time)
    except ValueError:
        raise ValueError(f"decided_at is {plain_text(time, 50)!r}") from None
    if decided_at.tzinfo is None:
        decided_at = decided_at.replace(tzinfo=UTC)
    return Decision(fingerprint, cast("Verdict", decision), reason, reviewer, decided_at)


def _is_complete(line: str) -> bool:
    try:
        cells = next(csv.reader([line], strict=True), [])
        return tuple(cells) == HEADER or bool(_decision(cells))
    except (ValueError, csv.Error):
        return False


def _line(decision: Decision) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(
        (
            decision.fingerprint,
            decision.decision,
            # Without line feeds, so that each decision is one line.
            plain_text(decision.reason, REASON_CHARS).strip(),
            plain_text(decision.reviewer, REVIEWER_CHARS).strip(),
            decision.decided_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        )
    )
    return buffer.getvalue()


_HEADER_LINE: Final = ",".join(HEADER) + "\n"


def _append_locally(path: Path, lines: list[str]) -> None:
    with FileLock(path.with_name(f".{path.name}.lock")):
        is_new = not path.exists()
        with path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = _end_of_complete_lines(file, size)
            text = "".join([*([_HEADER_LINE] if not start else []), *lines])
            try:
                if start < size:
                    file.truncate(start)
                if start and not _ends_line(file, start):
                    text = "\n" + text
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise
        if is_new:
            flush(path.parent)


def _ends_line(file: io.BufferedRandom, size: int) -> bool:
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _end_of_complete_lines(file: io.BufferedRandom, size: int) -> int:
    """Return the size of the file without a part of a line that a power cut has left."""
    # No line is longer: a reason has few characters.
    begin = max(0, size - 8192)
    file.seek(begin)
    tail = file.read().rpartition(b"\n")[2]
    return size if not tail or _is_complete(tail.decode("utf-8", "replace")) else size - len(tail)
