"""The exit status of a command: decided here, from what was sent and why the command ended."""

import errno
import logging
from enum import IntEnum
from typing import Final

import click

from kontext_pipeline.errors import KontextError

log: Final = logging.getLogger(__name__)

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Exit(IntEnum):
    """Exit statuses. Commands that send nothing use `DONE`, `SOME_FAILED` where they list something, and `NOTHING_SENT`."""

    DONE = 0
    """Every row has its picture."""
    SOME_FAILED = 1
    """Some rows failed for good, or may have been charged without a picture; the other rows have theirs."""
    NOTHING_SENT = 2
    """The manifest, the settings or the key was wrong, or nobody agreed. No request was sent."""
    STOPPED = 3
    """Stopped early by the account, the budget, the disk or the user; start again to go on."""


def of_run(*, stopped: bool, complete: bool) -> Exit:
    """Return the status of a run that has started: `stopped` early, or with every row's outcome."""
    if stopped:
        return Exit.STOPPED
    return Exit.DONE if complete else Exit.SOME_FAILED


def of_error(error: BaseException, *, posts: int) -> Exit:
    """Return the status of a command that an error has ended after so many requests."""
    if posts or isinstance(error, KeyboardInterrupt):
        return Exit.STOPPED
    # A message about a full disk may be about a cause of another type.
    causes = (error, error.__cause__, error.__context__)
    full = any(isinstance(cause, OSError) and cause.errno in DISK_FULL for cause in causes)
    return Exit.STOPPED if full else Exit.NOTHING_SENT


def lines_of(error: BaseException) -> list[str]:
    """Return what a person is told about an error that has ended a command. The trace of a defect goes to the log."""
    match error:
        case KeyboardInterrupt():
            return []
        case click.Abort():
            return ["Stopped."]
        case KontextError():
            return [str(error)]
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return [f"{where}{error.strerror or error}"]
    log.debug("a defect ends the command", exc_info=error)
    return [f"{type(error).__name__}: {error}. This is a defect of kontext; -vv shows where."]
