"""A process that may open no other file."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_descriptors() -> Iterator[None]:
    """While the block runs, every attempt to open a file or socket in this process fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Only the standard streams lie below the limit, so that a file which another thread closes makes no room.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
