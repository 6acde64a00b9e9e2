"""The progress of a run in one line: counts, money, and why requests wait."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from kontext_pipeline.generation.loop import Progress


@runtime_checkable
class Delays(Protocol):
    """The part of a run's progress that says why requests are not sent."""

    @property
    def paused_until(self) -> float:
        """Monotonic time until which nothing is sent; 0 when not paused."""

    @property
    def pause_reason(self) -> str:
        """Why nothing is sent."""

    @property
    def waiting(self) -> Mapping[str, int]:
        """Requests that wait to be tried again, by the reason of their last failure."""


def progress_details(progress: "Progress", now: float) -> str:
    """Return failures, requests in flight and money, after what delays the run. `now`: monotonic time, seconds."""
    # Imported here: the ledger's libraries take longer to load than a Dagster code location should.
    from kontext_pipeline.generation.ledger.money import usd

    delays = _delays(progress, now) if isinstance(progress, Delays) else ""
    unknown = f", {progress.unknown:,} unknown" if progress.unknown else ""
    possibly = f" (+{usd(progress.possibly_charged):,.2f} possibly)" if progress.possibly_charged else ""
    spent = f"{usd(progress.spent):,.2f} USD spent{possibly}"
    return f"{delays}{progress.failed:,} failed{unknown}, {progress.in_flight:,} in flight, {spent}"


def _delays(progress: Delays, now: float) -> str:
    said = []
    if progress.paused_until > now:
        said.append(f"paused {math.ceil(progress.paused_until - now):,} s: {progress.pause_reason}")
    # A copy: the run changes the mapping meanwhile.
    waiting = {reason: count for reason, count in dict(progress.waiting).items() if count > 0}
    if waiting:
        reasons = ", ".join(
            reason if len(waiting) == 1 else f"{reason} ({count:,})" for reason, count in waiting.items()
        )
        said.append(f"{sum(waiting.values()):,} waiting to retry: {reasons}")
    return "".join(f"{text}; " for text in said)
