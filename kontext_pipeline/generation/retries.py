"""What is done about each outcome, as data: the retry table and the pauses between tries."""

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kontext_pipeline.segmind.outcomes import Outcome


class RetryAction(Enum):
    """What happens to the request after an answer."""

    DONE = "done"
    """The picture is there."""
    FAIL = "fail"
    """The request fails for good; the others go on."""
    STOP = "stop"
    """The account's matter: nothing more is sent, the request stays pending."""
    WAIT = "wait"
    """Everybody pauses until the limit resets; the request loses nothing."""
    RETRY = "retry"
    """Nothing was billed: try again, `server_error_retries` times a run."""
    RETRY_UNKNOWN = "retry unknown"
    """It may have been billed: try again, `unknown_retries` times ever."""
    LEAVE = "leave"
    """It was accepted and is most likely billed, and what became of it is gone: this run leaves it alone;
    a later one tries again, `unknown_retries` times ever."""
    RECONNECT = "reconnect"
    """Nothing was sent: try again; if the API stays out of reach, the run stops."""


RETRY_ACTIONS: Final[dict[Outcome, RetryAction]] = {
    Outcome.SUCCEEDED: RetryAction.DONE,
    Outcome.REJECTED: RetryAction.FAIL,
    Outcome.STOPPED: RetryAction.STOP,
    Outcome.RATE_LIMITED: RetryAction.WAIT,
    Outcome.SERVER_ERROR: RetryAction.RETRY,
    Outcome.GATEWAY_TIMEOUT: RetryAction.RETRY_UNKNOWN,
    Outcome.LOST: RetryAction.RETRY_UNKNOWN,
    Outcome.UNUSABLE: RetryAction.RETRY_UNKNOWN,
    Outcome.EXPIRED: RetryAction.LEAVE,
    Outcome.UNREACHABLE: RetryAction.RECONNECT,
}
"""For the answer to a POST, and for what ends a v2 job. A GET that failed is simply made again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is tried again, and how long the pauses are.

    Pauses are seconds: `base_s`, doubled for each further try, at most `cap_s`, of which the share
    `jitter` (0 to 1) is drawn at random so that tries don't march in step.
    """

    server_error_retries: int = 6
    unknown_retries: int = 1
    base_s: float = 1.0
    cap_s: float = 60.0
    jitter: float = 0.5

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 or more)."""
        full: float = min(self.cap_s, self.base_s * 2 ** min(failures - 1, 32))
        return full * (1 - self.jitter * random.random())  # noqa: S311  it spreads load, it keeps no secret
