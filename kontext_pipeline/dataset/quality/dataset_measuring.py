"""Measures batches one after another, and then what follows from all pictures of the data directory together."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from upath import UPath

from kontext_pipeline.dataset.quality.batch_measuring import BatchMeasuring
from kontext_pipeline.dataset.quality.neighbours import neighbours_are_current, update_neighbours
from kontext_pipeline.dataset.quality.plug_ins import PlugIn, installed_plug_ins
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.errors import KontextError

log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Measured:
    """What was measured so far: pictures, and the batches that were looked at."""

    pictures: int = 0
    batches: int = 0


def measure_batches(
    data_dir: UPath,
    keys: Iterable[str],
    thresholds: Thresholds,
    *,
    plug_ins: Sequence[PlugIn] | None = None,
    stopped: Callable[[], bool] = bool,
    workers: int = 1,
    counts: Measured | None = None,
) -> Measured:
    """Measure what was not measured yet in these batches, and bring near-duplicates and input groups up to date.

    A batch that can't be read or written is left out with a warning; the next call tries again.

    Args:
        data_dir: The data directory.
        keys: Batches with a metadata table. They may become known while others are measured.
        thresholds: From which issues follow.
        plug_ins: Measures of other packages. None: all that are installed.
        stopped: Asked between pictures. Then what was measured is kept, and the rest is left to the next call.
        workers: Threads that measure.
        counts: Kept up to date.

    Raises:
        OSError: Near-duplicates can't be written.
    """
    counts = counts or Measured()
    plug_ins = installed_plug_ins() if plug_ins is None else plug_ins
    measuring = BatchMeasuring(data_dir, thresholds, plug_ins=plug_ins, workers=workers)
    outdated = False
    for key in keys:
        if stopped():
            break
        try:
            counts.pictures += measuring.measure(key, stopped=stopped)
        except (KontextError, OSError) as error:
            log.warning("The pictures of batch %s are not measured, the next run measures them: %s", key, error)
        else:
            outdated = outdated or not neighbours_are_current(data_dir, key, thresholds)
        counts.batches += 1
    if outdated and not stopped():
        update_neighbours(data_dir, thresholds)
    return counts
