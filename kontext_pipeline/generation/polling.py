"""When to ask for a v2 job: seldom while it can't be done, closely around the time when it usually is."""

import threading
from collections import deque
from dataclasses import dataclass
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
GOLDEN: Final = 0.618
"""Steps of this around a circle never come close to an earlier one, however many there are."""
SHORTEST_S: Final = 0.005
LONGEST_S: Final = 1.0
LONG_JOB_S: Final = 60.0
"""A job older than this is asked for less and less often: every twentieth of its age, seconds."""
REMEMBERED: Final = 64
"""Finished jobs that the forecast is drawn from."""
MOVED: Final = 0.001
"""The share by which the forecast must change for jobs that are out there to be asked for at another time."""


@dataclass(slots=True)
class Took:
    """How long a job took: more than `waiting_s`, when it was asked for in vain, not more than `done_s`, when it was
    found done, most likely `took_s`. Seconds since it was submitted.
    """

    waiting_s: float
    done_s: float
    took_s: float


class PollSchedule:
    """Learns from the jobs that finished how long one takes, and says when to ask for the next."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._finished: deque[Took] = deque(maxlen=REMEMBERED)
        self._later: deque[float] = deque(maxlen=REMEMBERED // 4)
        self._lock = threading.Lock()
        self._quick = 0.0
        self._heeded = 0.0
        self._is_told = False
        self._waited = 0.0
        self._phase = 0.0

    def found(self, done_s: float, waiting_s: float) -> Took:
        """A job was found done when asked for at the age of `done_s`, and still waiting at `waiting_s` (0: never)."""
        with self._lock:
            if not self._quick:
                # Others that were older were waiting still, a moment ago.
                took_s = (max(waiting_s, min(self._waited, done_s)) + done_s) / 2
            elif waiting_s >= self._quick:
                # When it was done is known no better than this.
                took_s = (waiting_s + done_s) / 2
                self._later.append(max(0.0, took_s / self._quick - 1))
            else:
                took_s = min(done_s, self._quick)
                if not self._is_told:
                    # It was done when it was first asked for in earnest: earlier, say, by as much as others are later.
                    spread = max(2 * LATE, median(self._later) if self._later else 0.0)
                    took_s = max(waiting_s, took_s * (1 - min(spread, MOST_EARLIER)))
            took = Took(waiting_s, done_s, took_s)
            self._finished.append(took)
            self._forecast()
        return took

    def told(self, took: Took, total_s: float) -> None:
        """The server says how long that job took. It is believed within what was seen from here."""
        with self._lock:
            # Longer than until it was found done can't be: a server that says so is better not listened to.
            self._is_told = total_s <= took.done_s * (1 + MOVED)
            if not self._is_told:
                return
            earliest = took.waiting_s or took.took_s * (1 - MOST_EARLIER)
            took.took_s = min(max(total_s, earliest), took.done_s)
            self._forecast()

    def _forecast(self) -> None:
        known = sorted(took.took_s for took in self._finished)
        early, late = known[len(known) // 10], known[len(known) * 9 // 10]
        self._quick = min(late, early * (1 + LATE))

    def moved(self) -> bool:
        """Whether the forecast has changed since this was last asked, by enough to heed it."""
        with self._lock:
            moved = abs(self._quick - self._heeded) > MOVED * self._heeded
            if moved:
                self._heeded = self._quick
            return moved

    @property
    def usual_s(self) -> float:
        """The age at which to ask for a job first; 0 while nothing is known."""
        return self._quick

    def next_poll(self, age_s: float, waiting: int) -> float:
        """Seconds to wait before asking for a job that was submitted `age_s` ago; `waiting` others are out there."""
        if age_s > LONG_JOB_S:
            return max(LONGEST_S, age_s / 20)
        if not self._quick:
            self._waited = max(self._waited, age_s)
            # Spread evenly: asked for all at the same moments, the first would be found as late as the last.
            self._phase = (self._phase + GOLDEN) % 1
            pause = max(SHORTEST_S, age_s * FIRST_INTERVAL, waiting / MOST_A_SECOND)
            return min(pause * (0.5 + self._phase), LONGEST_S)
        late_s = age_s - self._quick
        if late_s < 0:
            return max(-late_s, SHORTEST_S)
        pause = min(max(late_s / 2, age_s * CLOSEST_INTERVAL), age_s * CLOSE_INTERVAL)
        return min(max(SHORTEST_S, pause), LONGEST_S)
