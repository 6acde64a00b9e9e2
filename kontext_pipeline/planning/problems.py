"""The problems of manifests, collected so that the user sees them together.

A problem is one line: file, row, column, what is wrong and what is allowed. A million rows can have a million
problems. The first ones get a line, the others are counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.escaping import one_line

MOST_SHOWN = 100
"""How many problems get a line."""
_LONGEST_VALUE = 60


class ManifestProblems:
    """The problems of all manifests that are used together: `count`, of which the first get a line."""

    def __init__(self) -> None:
        """Start without a problem."""
        self._shown: list[tuple[int, str, int, str]] = []
        self.count = 0

    def __bool__(self) -> bool:
        """True if there is any problem."""
        return self.count > 0

    def of(self, file: str, order: int) -> "FileProblems":
        """Return a collector for one file. Problems are shown by `order`, then by name of the file and row."""
        return FileProblems(self, file, order)

    def add(self, file: str, order: int, row: int, line: str) -> None:
        """Add a problem; see `FileProblems`."""
        self.count += 1
        self._shown.append((order, file, row, line))
        if len(self._shown) > 4 * MOST_SHOWN:
            self._shown = sorted(self._shown)[:MOST_SHOWN]

    def raise_if_any(self) -> None:
        """Raise a `ManifestError` with the problems, if there is any."""
        if self.count:
            shown = [line for *_, line in sorted(self._shown)[:MOST_SHOWN]]
            raise ManifestError(shown, more=self.count - len(shown))


@dataclass(slots=True)
class FileProblems:
    """The problems of one manifest, notes (what the user may want to know besides), and what its columns are.

    `names` are the names of its columns; `mapped` our names with those of the columns that the user maps to them.
    """

    _problems: ManifestProblems
    _file: str
    _order: int
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    mapped: dict[str, str] = field(default_factory=dict)
    origin_of: Callable[[int], str] | None = None
    """Where a row, by its number, comes from, if the file doesn't have the row itself."""

    def add(self, text: str, *, row: int = 0, column: str = "") -> None:
        """Add a problem of the file, a column, a row or a cell."""
        origin = f" ({self.origin_of(row)})" if row and self.origin_of else ""
        line = location(self._file, row, column) + f"{origin}: {text}"
        self._problems.add(self._file, self._order, row, line)

    def add_line(self, text: str, *, line: int, key: str) -> None:
        """Add a problem of a key in a file of keys and values; `line` is from 1."""
        where = f"{self._file}, line {line}" + (f", {key}" if key else "")
        self._problems.add(self._file, self._order, line, f"{where}: {text}")

    def add_rows(self, rows: Sequence[int], text: Callable[[int], str], column: str = "") -> None:
        """Add a problem for each of `rows` (ascending row numbers), whose text is `text(index into rows)`."""
        for index, row in enumerate(rows[:MOST_SHOWN]):
            self.add(text(index), row=row, column=column)
        self._problems.count += max(0, len(rows) - MOST_SHOWN)

    def add_where(self, mask: Any, numbers: npt.NDArray[np.int64], text: Callable[[int], str], column: str) -> None:
        """Add a problem for each row where the boolean column `mask` is true.

        `numbers` are the row numbers of the table, `text` takes an index into the table.
        """
        indices = pc.indices_nonzero(mask).to_numpy()
        self.add_rows(numbers[indices].tolist(), lambda index: text(int(indices[index])), column)

    def note(self, text: str) -> None:
        """Add a note, which is no problem."""
        self.notes.append(f"{location(self._file)}: {text}")


def location(file: str, row: int = 0, column: str = "") -> str:
    """Return where a problem is, as in `photos.csv, row 17, column seed`, on one line."""
    return one_line(file + (f", row {row}" if row else "") + (f", column {column}" if column else ""))


def quoted(value: object) -> str:
    """Return `value` in quotes, with escapes for line breaks and whatever can't be seen, cut if it is long."""
    text = str(value)
    return repr(text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "...")
