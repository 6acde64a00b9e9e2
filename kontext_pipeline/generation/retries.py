"""How often a request is tried again, and how long the pauses between the tries are."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds and pauses of retries.

    A pause is `base_s` seconds, doubled for each further failure, at most `cap_s`. The share `jitter`
    (0 to 1) of each pause is random, so that requests that failed together are not repeated together.
    """

    server_error_retries: int = 6
    """Retries in one run after an answer that was certainly not billed."""
    unknown_retries: int = 1
    """Retries, over all runs, for each way of losing an answer that may have been billed."""
    base_s: float = 1.0
    cap_s: float = 60.0
    jitter: float = 0.5

    def pause(self, failures: int, told_s: float | None = None) -> float:
        """Return the seconds to wait after `failures` failures in a row (1 or more).

        `told_s`: the pause that the server asks for. It is kept, up to `cap_s`.
        """
        if told_s:
            return min(told_s, self.cap_s)
        full: float = min(self.cap_s, self.base_s * 2 ** min(failures - 1, 32))
        return full * (1 - self.jitter * random.random())  # noqa: S311  it spreads load, it keeps no secret
