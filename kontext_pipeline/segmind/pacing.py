"""When a throttled account may go on: the moment a 429 names, as seconds from now.

The server's clock and ours may be hours apart, so a moment is taken relative to the answer's own `Date`.
"""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

RESET_HEADER: Final = "x-rate-limit-reset-at-utc"
MAX_WAIT_S: Final = 3600.0
"""The longest wait that is believed."""
_EPOCH_FROM: Final = 1e8
"""A number from here on is a moment in Unix time; a smaller one a span in seconds."""
_MILLISECONDS_FROM: Final = 1e11


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds (0 to 3600) to wait, None where `headers` (of any case) don't say.

    Understood in `x-rate-limit-reset-at-utc`: ISO 8601, HTTP dates, Unix time in seconds or
    milliseconds, a number of seconds; in `Retry-After`: seconds and HTTP dates. The later one wins.
    """
    spans = [
        span
        for span in (_span(headers.get(name), headers.get("date")) for name in (RESET_HEADER, "retry-after"))
        if span is not None
    ]
    return min(max(*spans, 0.0), MAX_WAIT_S) if spans else None


def _span(text: str | None, date: str | None) -> float | None:
    if text is None or not (text := text.strip()):
        return None
    number = _number(text)
    if number is not None and number < _EPOCH_FROM:
        return number
    if number is not None:
        then: float | None = number / 1000 if number >= _MILLISECONDS_FROM else number
    else:
        then = _moment(text)
    if then is None:
        return None
    ours, theirs = time.time(), _moment(date) if date else None
    # A Date is cut to the second. Where our clock agrees with it, ours is the finer one.
    return then - (ours if theirs is None or 0 <= ours - theirs < 1 else theirs)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _moment(text: str) -> float | None:
    """Return the Unix time that `text` names; without a zone it is UTC."""
    for parse in (_iso, parsedate_to_datetime):
        try:
            moment = parse(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix(" UTC"))
