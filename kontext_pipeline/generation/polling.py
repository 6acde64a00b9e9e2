"""When to ask for a v2 job: seldom while it can't be done, closely around the time when it usually is."""

import threading
from collections import deque
from typing import Final

FIRST_INTERVAL: Final = 0.10
"""Share of its age after which a job is asked for again, while nothing is known of how long they take."""
CLOSE_INTERVAL: Final = 0.01
"""The same share once it is known: the picture is noticed within a hundredth of the time it took."""
EARLY: Final = 0.99
"""Share of the usual time at which a job is first asked for: a little early, to notice when they get quicker."""
MOST_A_SECOND: Final = 400
"""Polls of all jobs together, while nothing is known: each costs the processor more than half a millisecond."""
SHORTEST_S: Final = 0.02
LONGEST_S: Final = 1.0
LONG_JOB_S: Final = 60.0
"""A job older than this is asked for less and less often: every twentieth of its age, seconds."""
REMEMBERED: Final = 64
"""Finished jobs that the forecast is drawn from."""


class PollSchedule:
    """Learns from the jobs that finished how long one takes, and says when to ask for the next."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._finished: deque[float] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()
        self._quick = 0.0

    def learn(self, seconds: float) -> None:
        """A job was done `seconds` after it was submitted."""
        with self._lock:
            self._finished.append(seconds)
            self._quick = EARLY * sorted(self._finished)[len(self._finished) // 10]

    def next_poll(self, age_s: float, waiting: int) -> float:
        """Seconds to wait before asking for a job that was submitted `age_s` ago; `waiting` others are out there."""
        if age_s > LONG_JOB_S:
            return max(LONGEST_S, age_s / 20)
        if not self._quick:
            return min(max(SHORTEST_S, age_s * FIRST_INTERVAL, waiting / MOST_A_SECOND), LONGEST_S)
        if age_s < self._quick:
            return max(self._quick - age_s, SHORTEST_S)
        return min(max(SHORTEST_S, age_s * CLOSE_INTERVAL), LONGEST_S)
