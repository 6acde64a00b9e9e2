"""How long a rate-limited account must wait: the moment that a 429 names, in seconds from now."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from kontext_pipeline.segmind.payloads import number

RESET_HEADER: Final = "x-rate-limit-reset-at-utc"
MAX_WAIT_S: Final = 3600.0
"""Longer waits are cut to this."""
_UNIX_TIME_FROM: Final = 1e8
"""A number from here on is a Unix time in seconds; a smaller number is a span in seconds."""
_MILLISECONDS_FROM: Final = 1e11


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds (0 to 3600) to wait, None where `headers` (case-insensitive) name no wait.

    `x-rate-limit-reset-at-utc` may hold ISO 8601, an HTTP date, a Unix time in seconds or milliseconds, or a
    number of seconds; `Retry-After` a number of seconds or an HTTP date. The longer wait counts.
    """
    date = headers.get("date")
    spans = [_span(headers.get(name), date) for name in (RESET_HEADER, "retry-after")]
    named = [span for span in spans if span is not None]
    return min(max(*named, 0.0), MAX_WAIT_S) if named else None


def _span(text: str | None, date: str | None) -> float | None:
    text = (text or "").strip()
    named = number(text)
    if named is None:
        then = _moment(text)
    elif named < _UNIX_TIME_FROM:
        return named
    else:
        then = named / (1000 if named >= _MILLISECONDS_FROM else 1)
    if then is None:
        return None
    ours, theirs = time.time(), _moment(date or "")
    # The clocks may be hours apart. A Date is cut to the second: where our clock agrees, it is more precise.
    return then - (ours if theirs is None or 0 <= ours - theirs < 1 else theirs)


def _moment(text: str) -> float | None:
    """Return the Unix time that `text` names, in UTC where it names no zone."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text.removesuffix(" UTC"))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
