"""Progress of a long step, a line now and then: each is an event in Dagster's database, so there are few."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dagster import DagsterLogManager

    from kontext_pipeline.generation.progress import Progress

FIRST_LINE_S: Final = 15.0
"""Seconds before the first line; the pause doubles after each."""
LONGEST_PAUSE_S: Final = 300.0
"""Longest pause between two lines, seconds."""


@contextlib.contextmanager
def progress_lines(log: "DagsterLogManager", to_generate: int) -> "Iterator[Callable[[Progress], None]]":
    """Give what a run wants for `watch`, and log how far it is until the block ends."""
    seen: list[Progress] = []
    over = threading.Event()

    def lines() -> None:
        pause = FIRST_LINE_S
        while not over.wait(pause):
            pause = min(2 * pause, LONGEST_PAUSE_S)
            if seen:
                log.info(progress_line(seen[0], to_generate))

    thread = threading.Thread(target=lines, name="progress", daemon=True)
    thread.start()
    try:
        yield seen.append
    finally:
        over.set()
        thread.join()


def progress_line(progress: "Progress", to_generate: int) -> str:
    """Say how far a run is."""
    done = progress.succeeded + progress.found
    return (
        f"{done:,} of {to_generate:,} pictures are there, {progress.failed:,} failed, "
        f"{progress.in_flight:,} in flight, {progress.spent / 1e6:,.2f} USD spent"
    )
