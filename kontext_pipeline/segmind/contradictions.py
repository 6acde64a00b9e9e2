"""What answers say that can't be true: logged once for each kind, then counted."""

import logging
import threading
from collections import Counter

_logger = logging.getLogger(__name__)


class Contradictions:
    """The statements of one client's answers that were not believed. Thread-safe."""

    def __init__(self) -> None:
        """Start without any."""
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, kind: str, message: str) -> None:
        """Log `message` as a warning if it is the first of its `kind`, a few words such as `cost`; else count it."""
        with self._lock:
            self._times[kind] += 1
            first = self._times[kind] == 1
        if first:
            _logger.warning("%s (said once; others are counted)", message)

    def close(self) -> None:
        """Log how many more there were of each kind."""
        with self._lock:
            times, self._times = self._times, Counter()
        for kind, count in times.items():
            if count > 1:
                _logger.warning("%d more answers contradicted their requests or themselves: %s", count - 1, kind)
