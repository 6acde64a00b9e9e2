"""Threads, started so that a system without room for another one ends nothing in a hang or a traceback."""

import mmap
import threading
from collections.abc import Callable
from typing import Final

from kontext_pipeline.errors import KontextError

STACK_BYTES: Final = 16 * 2**20
"""Address space that must be free before a thread starts: its stack (8 MiB by default), and what it needs to begin."""


class NoThreadError(KontextError):
    """The system allows this process no other thread."""


def no_thread(error: BaseException) -> NoThreadError:
    """Return the error for a thread that could not be started because of `error`."""
    return NoThreadError(
        f"the system lets this process start no other thread ({error}). Raise the limit of processes or of memory "
        "(ulimit -u, ulimit -v, or the container's), or lower KONTEXT_CONCURRENCY."
    )


def start_thread(work: Callable[[], object], name: str, *, spare_bytes: int = 0) -> threading.Thread:
    """Run `work` in a new daemon thread, if there is address space for it and for `spare_bytes` more.

    Raises:
        NoThreadError: the system has no room for one.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        # A thread whose stack takes the last memory can't report its start, and `start` would wait for ever.
        mmap.mmap(-1, STACK_BYTES + spare_bytes).close()
        thread.start()
    except (RuntimeError, OSError, MemoryError) as error:
        raise no_thread(error) from None
    return thread
