"""How far a run is: figures for people, taken at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kontext_pipeline.segmind.outcomes import Cause


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ended early: the cause for programs, and a sentence for the user."""

    cause: Cause
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A run at one moment. Counts are requests (distinct images); amounts are millionths of a USD."""

    succeeded: int = 0
    """Images that this run made."""
    found: int = 0
    """Requests that had their outcome already: by another run, or because the image store had the image."""
    failed: int = 0
    unknown: int = 0
    in_flight: int = 0
    spent: int = 0
    possibly_charged: int = 0
    attempts: int = 0
    paused_until: float = 0.0
    """Monotonic time until which nothing is sent; 0 where the run is not paused."""
    pause_reason: str = ""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Requests that wait to be tried again, by reason, such as `{"503": 7}`."""
    fetching: int = 0
    """Requests that wait for their input pictures."""
