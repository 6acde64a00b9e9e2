"""Files that should be in the stores, beside those that are there: both sorted, in little memory."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from upath import UPath

from kontext_pipeline.dataset.lock.listed_files import FilePath, list_files
from kontext_pipeline.dataset.lock.sorted_lines import SortedLines


class _Ordered(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


K = TypeVar("K", bound=_Ordered)
L = TypeVar("L")
R = TypeVar("R")


def merged(left: Iterable[tuple[K, L]], right: Iterable[tuple[K, R]]) -> Iterator[tuple[K, L | None, R | None]]:
    """Join two streams that are sorted by their keys. None: a side lacks the key."""
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if one is not None and (other is None or one[0] < other[0]):
            yield one[0], one[1], None
            one = next(lefts, None)
        elif other is not None and (one is None or other[0] < one[0]):
            yield other[0], None, other[1]
            other = next(rights, None)
        elif one is not None and other is not None:
            yield one[0], one[1], other[1]
            one, other = next(lefts, None), next(rights, None)


class SortedFiles(AbstractContextManager["SortedFiles"]):
    """Files that are expected, each with its sha256. Use it in a `with` block."""

    def __init__(self) -> None:
        """Begin without files."""
        self._lines = SortedLines()

    def __exit__(self, *error: object) -> None:
        self._lines.__exit__(*error)

    def add(self, path: FilePath, sha256: str) -> None:
        """Expect a file. It may be added several times."""
        store, folder, name = path
        self._lines.add((store, folder), f"{name}\t{sha256}")

    def beside(self, data_dir: UPath) -> Iterator[tuple[FilePath, str | None, bool]]:
        """Yield every file, sorted: its path, the sha256 that is expected (None: no such file is), and if it is listed.

        Raises:
            OSError: A folder can't be listed.
        """
        listed = ((path, True) for path in list_files(data_dir))
        for path, sha256, there in merged(self._expected(), listed):
            yield path, sha256, bool(there)

    def _expected(self) -> Iterator[tuple[FilePath, str]]:
        for (store, folder), line in self._lines:
            name, _, sha256 = line.partition("\t")
            yield (store, folder, name), sha256
