"""The faults of manifests, gathered so that all of them are told at once.

A fault is one line with file, row, column and what is allowed. A million rows can have a million faults:
only the first ones are put into words, the others are counted.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from kontext_pipeline.errors import ManifestError

MOST_SHOWN = 100
"""How many faults are shown; the others are counted."""
_LONGEST_VALUE = 60


class ManifestProblems:
    """Collects faults and shows the first `MOST_SHOWN`, ordered by file and row."""

    def __init__(self) -> None:
        """Start without a fault."""
        self._shown: list[tuple[int, str, int, str]] = []
        self._count = 0

    def __bool__(self) -> bool:
        """Say whether there is any fault."""
        return self._count > 0

    def add(self, file: str, text: str, *, order: int, row: int = 0, column: str = "") -> None:
        """Add one fault: of a whole file (`row` 0), a column, a row, or a cell.

        `order` is the file's place among those given.
        """
        self._count += 1
        self._shown.append((order, file, row, place(file, row, column) + ": " + text))
        if len(self._shown) > 4 * MOST_SHOWN:
            self._shown = sorted(self._shown)[:MOST_SHOWN]

    def add_rows(
        self,
        file: str,
        *,
        order: int,
        rows: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int64],
        column: str,
        text: Callable[[int], str],
    ) -> None:
        """Add a fault of `column` at each of `indices`, which point into `rows`, the row numbers.

        `text` is asked only for those that can be among the ones shown.
        """
        for index in indices[:MOST_SHOWN].tolist():
            self.add(file, text(index), order=order, row=int(rows[index]), column=column)
        self._count += max(0, len(indices) - MOST_SHOWN)

    def raise_if_any(self) -> None:
        """Raise a `ManifestError` that carries them, if there are any."""
        if self._count:
            shown = [line for *_, line in sorted(self._shown)[:MOST_SHOWN]]
            raise ManifestError(shown, more=self._count - len(shown))


def place(file: str, row: int = 0, column: str = "") -> str:
    """Return how a place is named in a fault: `photos.csv, row 17, column seed`."""
    return file + (f", row {row}" if row else "") + (f", column {column}" if column else "")


def quoted(value: object) -> str:
    """Return `value` as it is shown in a fault: in quotes, without line breaks, cut when it is long."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 3] + "..."
    return repr(text)


def listed(numbers: Sequence[int], count: int) -> str:
    """Return the first of `count` row numbers for a sentence: `1, 2, 3 and 7 more`."""
    more = count - len(numbers)
    return ", ".join(f"{number}" for number in numbers) + (f" and {more:,} more" if more else "")
