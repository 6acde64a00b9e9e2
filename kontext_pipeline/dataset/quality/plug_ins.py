"""Measures of other packages: entry points of the group `kontext_pipeline.measures`.

    [project.entry-points."kontext_pipeline.measures"]
    clip = "my_package.clip_measure:ClipMeasure"

An entry point names a function, or a class that is called without arguments when the first picture is measured. The
function is given a list of `Sample`s and returns, for each of them, numbers by name. The number `similarity` of the
plug-in `clip` is the column `clip_similarity`. `version` (default 1) and `batch_size` (default 16) are attributes of the
function or object. Pictures are measured again when the version rises.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

from PIL import Image

log: Final = logging.getLogger(__name__)

GROUP: Final = "kontext_pipeline.measures"
MOST_FAILURES: Final = 3
"""Failures in a row after which a plug-in is not called again in this run."""
_NAME: Final = re.compile("[a-z][a-z0-9_]{0,59}")


class Sample(NamedTuple):
    """What a plug-in measures: the input picture (None for text-to-image), the generated one, and its metadata row.

    Both pictures are upright and in mode RGB. The row has the columns of the metadata table.
    """

    input: Image.Image | None
    output: Image.Image
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of measuring a sample: numbers by column, or why there are none."""

    numbers: Mapping[str, float | None]
    error: str | None = None


class PlugIn:
    """A measure of another package. Its failures are logged and returned, never raised."""

    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        """`load` returns the function, or the class of it."""
        self.name = name
        self._load = load
        self._function: Callable[[Sequence[Sample]], Iterable[Mapping[str, float]]] | None = None
        self._failures = 0
        try:
            found = load()
            self.version = str(getattr(found, "version", 1))
            self.batch_size = max(1, int(getattr(found, "batch_size", 16)))
        except Exception as error:  # noqa: BLE001  another package's code may raise anything
            self.version, self.batch_size = "", 1
            self._failures = MOST_FAILURES
            log.warning("The measure %s can't be loaded and is left out: %s", name, words_of(error))

    @property
    def usable(self) -> bool:
        """Whether the plug-in is loaded and hasn't failed too often."""
        return self._failures < MOST_FAILURES

    def measure(self, samples: Sequence[Sample]) -> list[Outcome]:
        """Return what came of each sample."""
        if not self.usable:
            return [Outcome({}, f"{self.name}: it has failed {MOST_FAILURES} times in a row") for _ in samples]
        try:
            if self._function is None:
                loaded = self._load()
                self._function = loaded() if isinstance(loaded, type) else loaded
            outcomes = [Outcome(self._columns(numbers)) for numbers in self._function(samples)]
            if len(outcomes) != len(samples):
                raise ValueError(f"{len(outcomes)} results for {len(samples)} samples")
        except Exception as error:
            self._failures += 1
            end = "; it is left out for the rest of this run" if not self.usable else ""
            log.warning("The measure %s has failed: %s%s", self.name, words_of(error), end)
            log.debug("the measure %s has failed", self.name, exc_info=error)
            return [Outcome({}, f"{self.name}: {words_of(error)}") for _ in samples]
        self._failures = 0
        return outcomes

    def _columns(self, numbers: Mapping[str, float]) -> dict[str, float | None]:
        columns = {}
        for name, value in numbers.items():
            if not _NAME.fullmatch(column := f"{self.name}_{name}"):
                raise ValueError(f"{name!r} can't name a number: a-z, 0-9 and _ are allowed")
            number = float(value)
            columns[column] = number if math.isfinite(number) else None
        return columns


def installed_plug_ins() -> list[PlugIn]:
    """Return the plug-ins of all installed packages, sorted by name. One that can't be used is left out, with a warning."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP)):
        if not _NAME.fullmatch(point.name):
            log.warning("The measure %r is left out: a-z, 0-9 and _ are allowed in its name", point.name)
        elif point.name in found:
            log.warning("The measure %s of %s is left out: another package has one too", point.name, point.value)
        else:
            found[point.name] = point
    return [plug_in for name, point in found.items() if (plug_in := PlugIn(name, point.load)).usable]


def words_of(error: BaseException) -> str:
    """Return an error of another package's code as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].removesuffix(": ")
