"""Log records of attempts: one at DEBUG for every transition, with the same fields each time."""

import logging
from typing import Final

from kontext_pipeline.generation.ledger.money import usd
from kontext_pipeline.generation.work import Reservation, SentRequest

FINGERPRINT_DIGITS: Final = 12
"""Hex digits of a fingerprint in a log record: enough to find the request."""

log = logging.getLogger("kontext_pipeline.generation.attempts")


def log_transition(
    state: str,
    about: Reservation | SentRequest,
    *,
    cause: str = "",
    status_code: int | None = None,
    seconds: float | None = None,
    cost: int | None = None,
) -> None:
    """Log that the attempt of `about` has reached `state`.

    `seconds`: duration of the call that led there. `cost`: millionths of a USD. The record's `extra`
    fields are those named in docs/debugging.md.
    """
    if not log.isEnabledFor(logging.DEBUG):
        return
    fields = {
        "attempt": about.attempt,
        "fingerprint": about.fingerprint[:FINGERPRINT_DIGITS],
        "batch": about.batch,
        "state": state,
        "cause": cause or None,
        "status_code": status_code,
        "seconds": seconds,
        "cost_usd": None if cost is None else usd(cost),
    }
    log.debug(
        "attempt %d is %s",
        about.attempt,
        state,
        extra={name: value for name, value in fields.items() if value is not None},
    )
