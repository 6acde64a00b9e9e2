"""The files and sockets that a run has open at once, and whether the system lets it."""

import logging
from pathlib import Path
from typing import Final

from kontext_pipeline.errors import KontextError

A_SLOT: Final = 3
"""Of a slot: a connection to the API, one to the server of an output, and the file for the answer."""
BESIDES: Final = 160
"""Of everything else: the threads that store, poll, fetch and upload, the ledger with its connections, the libraries."""
FEWEST_SLOTS: Final = 4
"""Slots with which a run is worth starting, if more are asked for."""

log = logging.getLogger(__name__)


class TooFewDescriptors(KontextError):
    """The system lets this process open too few files. Nothing was sent."""


def slots_that_fit(concurrency: int, *, a_slot: int = A_SLOT) -> int:
    """Raise this process's limit of open files to what `concurrency` slots need. Return how many slots fit then.

    `a_slot`: files and sockets of one slot; 0 for v2, whose slots have none between two polls.

    Raises:
        TooFewDescriptors: there is room for fewer than `FEWEST_SLOTS`.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return concurrency
    taken = _open_now() + BESIDES
    needed = taken + a_slot * concurrency
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
            soft = max(soft, wanted)
        except (ValueError, OSError):  # macOS has a lower limit than it says.
            log.debug("the limit of open files can't be raised to %d", wanted)
    if soft == resource.RLIM_INFINITY or soft >= needed or a_slot == 0:
        return concurrency
    fit = (soft - taken) // a_slot
    if fit < min(concurrency, FEWEST_SLOTS):
        raise TooFewDescriptors(
            f"this process may have {soft:,} files open, and a run with KONTEXT_CONCURRENCY={concurrency} needs "
            f"{needed:,}. Raise the limit (ulimit -n, LimitNOFILE in a systemd unit, --ulimit nofile of a container). "
            "Nothing was sent."
        )
    log.warning(
        "this process may have %d files open, which is enough for %d requests in flight, not for %d: raise the limit "
        "(ulimit -n) for more",
        *(soft, fit, concurrency),
    )
    return fit


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return sum(1 for _ in Path(folder).iterdir())
        except OSError:
            continue
    return 0
