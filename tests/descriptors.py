"""A process that may open no other file."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_descriptors() -> Iterator[None]:
    """While the block runs, every attempt to open a file or socket in this process fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number: everything below it is open.
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
