"""Lines of text, sorted in little memory: they lie in temporary files, one for each bucket, until they are read."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

_LINES_IN_MEMORY: Final = 20_000


class SortedLines(AbstractContextManager["SortedLines"]):
    """Distinct lines by bucket. All lines of one bucket must fit into memory. Use it in a `with` block."""

    def __init__(self) -> None:
        """Begin without lines."""
        self._folder = tempfile.TemporaryDirectory(prefix="kontext-lock-")
        self._waiting: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        self._waiting_count = 0
        self._files: dict[tuple[str, ...], Path] = {}

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    def add(self, bucket: tuple[str, ...], line: str) -> None:
        """Add a line, which must have no line feed, to a bucket."""
        self._waiting[bucket].append(line)
        self._waiting_count += 1
        if self._waiting_count >= _LINES_IN_MEMORY:
            self._write()

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield bucket and line: the buckets in order, and the lines of each in order, without duplicates."""
        self._write()
        for bucket, path in sorted(self._files.items()):
            with path.open(encoding="utf-8", newline="\n") as file:
                lines = {line.removesuffix("\n") for line in file}
            for line in sorted(lines):
                yield bucket, line

    def _write(self) -> None:
        for bucket, lines in self._waiting.items():
            path = self._files.setdefault(bucket, Path(self._folder.name) / str(len(self._files)))
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
        self._waiting.clear()
        self._waiting_count = 0
