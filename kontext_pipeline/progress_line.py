"""The progress of a run in one line: counts, money, and why requests wait."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kontext_pipeline.generation.progress import Progress


def details(progress: "Progress") -> str:
    """Return failures, requests in flight and money."""
    # Imported here: the ledger's libraries take longer to load than a Dagster code location should.
    from kontext_pipeline.generation.ledger.money import usd

    unknown = f", {progress.unknown:,} unknown" if progress.unknown else ""
    possibly = f" (+{usd(progress.possibly_charged):,.2f} possibly)" if progress.possibly_charged else ""
    spent = f"{usd(progress.spent):,.2f} USD spent{possibly}"
    return f"{progress.failed:,} failed{unknown}, {progress.in_flight:,} in flight, {spent}"


def delays(progress: "Progress", now: float) -> str:
    """Return why requests wait, such as "paused 12 s: rate limit"; empty if none does. `now`: monotonic time, seconds."""
    reasons = []
    if progress.paused_until > now:
        reasons.append(f"paused {math.ceil(progress.paused_until - now):,} s: {progress.pause_reason}")
    waiting = progress.waiting
    if waiting:
        names = [reason if len(waiting) == 1 else f"{reason} ({count:,})" for reason, count in waiting.items()]
        reasons.append(f"{sum(waiting.values()):,} waiting to retry: {', '.join(names)}")
    return "; ".join(reasons)
