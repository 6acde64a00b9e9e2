"""When to ask for a v2 job: seldom while it can't be done, closely around the time when it usually is."""

import threading
from collections import deque
from statistics import median
from typing import Final

FIRST_INTERVAL: Final = 0.10
"""Share of its age after which a job is asked for again, while nothing is known of how long they take."""
CLOSE_INTERVAL: Final = 0.01
"""The same share once it is known, at the most: the picture is noticed within a hundredth of the time it took."""
CLOSEST_INTERVAL: Final = 0.0025
"""That share at the age when the first are done: where they all take about as long, a poll or two later it is here."""
LATE: Final = 0.003
"""The share by which the first poll may come after the first tenth is done, so that, where they all take about as
long, it finds nearly every one done and is the only one."""
MOST_EARLIER: Final = 0.2
"""The largest step down, as a share, after a job that was done when it was first asked for."""
MOST_A_SECOND: Final = 400
"""Polls of all jobs together, while nothing is known: each costs the processor more than half a millisecond."""
SHORTEST_S: Final = 0.005
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
        self._later: deque[float] = deque(maxlen=REMEMBERED // 4)
        self._lock = threading.Lock()
        self._quick = 0.0

    def learn(self, done_s: float, waiting_s: float) -> bool:
        """A job was found done when asked for at the age of `done_s`, and still waiting at `waiting_s` (0: never).
        Return whether this is the first that is known.
        """
        with self._lock:
            first = not self._finished
            if waiting_s:
                # When it was done is known no better than this.
                took_s = (waiting_s + done_s) / 2
                if self._quick:
                    self._later.append(max(0.0, took_s / self._quick - 1))
            else:
                # It was done before it was first asked for: earlier, say, by as much as others are later.
                spread = max(2 * LATE, median(self._later) if self._later else 0.0)
                took_s = min(done_s, self._quick or done_s) * (1 - min(spread, MOST_EARLIER))
            self._finished.append(took_s)
            known = sorted(self._finished)
            early, late = known[len(known) // 10], known[len(known) * 9 // 10]
            self._quick = min(late, early * (1 + LATE))
            return first

    @property
    def usual_s(self) -> float:
        """The age at which to ask for a job first; 0 while nothing is known."""
        return self._quick

    def next_poll(self, age_s: float, waiting: int) -> float:
        """Seconds to wait before asking for a job that was submitted `age_s` ago; `waiting` others are out there."""
        if age_s > LONG_JOB_S:
            return max(LONGEST_S, age_s / 20)
        if not self._quick:
            return min(max(SHORTEST_S, age_s * FIRST_INTERVAL, waiting / MOST_A_SECOND), LONGEST_S)
        late_s = age_s - self._quick
        if late_s < 0:
            return max(-late_s, SHORTEST_S)
        pause = min(max(late_s / 2, age_s * CLOSEST_INTERVAL), age_s * CLOSE_INTERVAL)
        return min(max(SHORTEST_S, pause), LONGEST_S)
