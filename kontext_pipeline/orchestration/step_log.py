"""What a step writes to its run's log: the package's log records, and a progress line now and then.

Each line is an event in Dagster's database, which takes some 7 ms, so there must be few.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Iterator
from itertools import accumulate, repeat
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Final

from kontext_pipeline import logs
from kontext_pipeline.escaping import displayable
from kontext_pipeline.progress_line import Watcher, delays, details

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterLogManager

    from kontext_pipeline.generation.progress import Progress

FIRST_LINE_S: Final = 15.0
"""Time until the first progress line, seconds; the pause doubles after each line."""
LONGEST_PAUSE_S: Final = 300.0
"""Longest pause between two progress lines, seconds."""


@contextlib.contextmanager
def forward_records(log: "DagsterLogManager", instance: "DagsterInstance") -> Iterator[None]:
    """Write the package's log records to a run's log while the block runs.

    Records are INFO and above, or from the level in the instance's `python_logs` setting. Loggers that the setting
    names as managed are left to Dagster, which captures their records itself.
    """
    logger = logging.getLogger(logs.PACKAGE)
    level = logging.getLevelName(instance.python_log_level or "INFO")
    managed = [logs.PACKAGE if name == "root" else name for name in instance.managed_python_loggers]
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = QueueHandler(records)
    handler.setLevel(level)
    handler.addFilter(logs.Redaction())
    handler.addFilter(lambda record: not any(f"{record.name}.".startswith(f"{name}.") for name in managed))
    # Before all other handlers, so that these get records without secrets.
    logger.handlers.insert(0, handler)
    before = logger.level
    logger.setLevel(min(level, logger.getEffectiveLevel()))
    # A thread writes the events, so that no request waits for Dagster's database.
    listener = QueueListener(records, _RunLog(log))
    listener.start()
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        listener.stop()


class _RunLog(logging.Handler):
    """Writes records to a run's log."""

    def __init__(self, log: "DagsterLogManager") -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, displayable(logs.line_of(record)))


def progress_lines(log: "DagsterLogManager", to_generate: int) -> "Watcher[Progress]":
    """Return a watcher that logs a run's progress now and then, and once at its end."""
    doubled = accumulate(repeat(FIRST_LINE_S), lambda pause, _: min(2 * pause, LONGEST_PAUSE_S))
    return Watcher(lambda progress: log.info(progress_line(progress, to_generate)), doubled)


def progress_line(progress: "Progress", to_generate: int) -> str:
    """Return the progress of a run, and why requests wait."""
    done = progress.succeeded + progress.found
    waits = delays(progress, time.monotonic())
    return f"{done:,} of {to_generate:,} pictures exist; {details(progress)}" + (f"; {waits}" if waits else "")
