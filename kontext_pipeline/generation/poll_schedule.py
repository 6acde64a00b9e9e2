"""When to poll a v2 job: rarely while it can't be done, often around the time when jobs usually finish."""

import threading
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Final

UNKNOWN_INTERVAL: Final = 0.10
"""Interval between polls as a share of the job's age, while no job has finished yet."""
KNOWN_INTERVAL: Final = 0.01
"""The largest interval, as a share of the age, once durations are known: the run sees a finished job within
a hundredth of its duration."""
SHORTEST_INTERVAL: Final = 0.0025
"""The interval, as a share of the age, at the age when the first jobs finish."""
TOLERANCE: Final = 0.003
"""The first poll may come later than the first tenth of the jobs finishes by this share, so that one poll is
enough where all jobs take equally long."""
LARGEST_CORRECTION: Final = 0.2
"""The largest share by which the estimate decreases after a job that its first poll found completed."""
POLLS_A_SECOND: Final = 400
"""Bound on the polls of all jobs while no duration is known: a poll costs more than 0.5 ms of CPU."""
FEW_POLLS_A_SECOND: Final = 100
"""Polls of all jobs that are enough to find the first finished one, whichever it is, within a fraction of a second."""
GOLDEN_RATIO: Final = 0.618
"""Multiples of the golden ratio modulo 1 spread polls evenly, however many there are."""
SHORTEST_S: Final = 0.005
LONGEST_S: Final = 1.0
LONG_JOB_S: Final = 60.0
"""A job older than this is polled less often the older it gets: each time after a twentieth of its age."""
REMEMBERED: Final = 64
"""Number of finished jobs from which the forecast follows."""
SIGNIFICANT_CHANGE: Final = 0.001
"""The share by which the forecast must change before the polls of waiting jobs are scheduled again."""


@dataclass(slots=True)
class JobDuration:
    """What is known of one job's duration, in seconds since it was submitted.

    The job ran longer than `unfinished_s` (a poll found it unfinished), at most `finished_s` (a poll
    found it completed), and most likely `estimate_s`.
    """

    unfinished_s: float
    finished_s: float
    estimate_s: float


class PollSchedule:
    """Learns from finished jobs how long a job takes, and says when to poll the others. Thread-safe."""

    def __init__(self) -> None:
        """Start without any knowledge of durations."""
        self._durations: deque[JobDuration] = deque(maxlen=REMEMBERED)
        self._excesses: deque[float] = deque(maxlen=REMEMBERED // 4)
        self._lock = threading.Lock()
        self._expected = 0.0
        self._last_reported = 0.0
        self._server_tells = False
        self._oldest_unfinished = 0.0
        self._phase = 0.0

    def finished(self, finished_s: float, unfinished_s: float) -> JobDuration:
        """Record a job that a poll found completed at the age `finished_s`; return its duration.

        `unfinished_s` is its age at the latest poll that found it unfinished, 0 where there was none.
        """
        with self._lock:
            if not self._expected:
                # Older jobs were unfinished a moment ago, so this one took at least as long as they had.
                estimate_s = (max(unfinished_s, min(self._oldest_unfinished, finished_s)) + finished_s) / 2
            elif unfinished_s >= self._expected:
                estimate_s = (unfinished_s + finished_s) / 2
                self._excesses.append(max(0.0, estimate_s / self._expected - 1))
            else:
                estimate_s = min(finished_s, self._expected)
                if not self._server_tells:
                    # The first poll found it completed, so it took less: by as much, say, as others take more.
                    spread = max(2 * TOLERANCE, median(self._excesses) if self._excesses else 0.0)
                    estimate_s = max(unfinished_s, estimate_s * (1 - min(spread, LARGEST_CORRECTION)))
            duration = JobDuration(unfinished_s, finished_s, estimate_s)
            self._durations.append(duration)
            self._forecast()
        return duration

    def correct(self, duration: JobDuration, total_s: float) -> None:
        """Correct a duration by the server's own figure, within the bounds that the polls have shown."""
        with self._lock:
            # A job can't have taken longer than until its poll found it completed: ignore such a server.
            self._server_tells = total_s <= duration.finished_s * (1 + SIGNIFICANT_CHANGE)
            if not self._server_tells:
                return
            earliest = duration.unfinished_s or duration.estimate_s * (1 - LARGEST_CORRECTION)
            duration.estimate_s = min(max(total_s, earliest), duration.finished_s)
            self._forecast()

    def _forecast(self) -> None:
        known = sorted(duration.estimate_s for duration in self._durations)
        early, late = known[len(known) // 10], known[len(known) * 9 // 10]
        self._expected = min(late, early * (1 + TOLERANCE))

    def forecast_changed(self) -> bool:
        """Return whether the forecast has changed significantly since this method last returned True."""
        with self._lock:
            changed = abs(self._expected - self._last_reported) > SIGNIFICANT_CHANGE * self._last_reported
            if changed:
                self._last_reported = self._expected
            return changed

    @property
    def expected_s(self) -> float:
        """Age of a job, in seconds, at which to poll it first; 0 while no duration is known."""
        return self._expected

    def next_poll(self, age_s: float, waiting: int) -> float:
        """Return the seconds until the next poll of a job of age `age_s`; `waiting`: jobs not finished."""
        if age_s > LONG_JOB_S:
            return max(LONGEST_S, age_s / 20)
        if not self._expected:
            self._oldest_unfinished = max(self._oldest_unfinished, age_s)
            # Spread the polls: polls at the same moment would find the first finished job as late as the last.
            self._phase = (self._phase + GOLDEN_RATIO) % 1
            pause = max(SHORTEST_S, age_s * UNKNOWN_INTERVAL, waiting / POLLS_A_SECOND)
            return min(pause * (0.5 + self._phase), max(LONGEST_S, waiting / FEW_POLLS_A_SECOND))
        late_s = age_s - self._expected
        if late_s < 0:
            return max(-late_s, SHORTEST_S)
        pause = min(max(late_s / 2, age_s * SHORTEST_INTERVAL), age_s * KNOWN_INTERVAL)
        return min(max(SHORTEST_S, pause), LONGEST_S)
