"""The alerts: what each one says, and the key under which it is told once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from kontext_pipeline.escaping import displayable
from kontext_pipeline.generation.ledger.money import Cap, Held, usd
from kontext_pipeline.generation.ledger.report import RunsFigures
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.plain_text import plain_text
from kontext_pipeline.settings import Settings

Event = Literal["stopped", "budget", "failures", "finished", "backfill"]

BUDGET_PERCENT: Final = (50, 80, 100)
"""Shares of a budget that are told, percent. At 100 it leaves no room for another picture."""
FAILURES_FROM: Final = 20
"""Outcomes of a run before its share of failures is told."""
LONGEST_TEXT: Final = 2000
"""Characters of an alert's text."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. `texts` and `numbers` are what a template's placeholders stand for."""

    key: str
    """Told once: at most 255 characters, without a secret."""
    event: Event
    texts: dict[str, str]
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AboutRun:
    """The run that alerts are about."""

    dataset: str
    backend: str
    run_id: str

    @classmethod
    def of(cls, settings: Settings, run_id: str) -> "AboutRun":
        """Return what alerts say of a run with these settings."""
        return cls(dataset_of(settings), settings.backend, run_id)

    def alert(self, key: str, event: Event, words: str, numbers: Mapping[str, float], *, cause: str = "") -> Alert:
        """Return an alert about this run. `words` follow the name of the dataset."""
        texts = {
            "text": plain_text(displayable(f"{self.dataset}: {words}"), LONGEST_TEXT),
            "event": event,
            "dataset": self.dataset,
            "backend": self.backend,
            "run": self.run_id,
            "cause": cause,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return Alert(key, event, texts, dict(numbers))


def dataset_of(settings: Settings) -> str:
    """Return the name by which alerts name a dataset: its own, or that of its data directory."""
    return settings.dataset or plain_text(settings.data_dir.rstrip("/").rpartition("/")[2] or settings.data_dir, 100)


def stop_alert(run: AboutRun, stop: Stop, progress: Progress, left: int) -> Alert:
    """Return the alert of a run that stopped early with `left` pictures to make; once for each run and cause."""
    return run.alert(
        f"stopped {run.run_id} {stop.cause}",
        "stopped",
        f"the run stopped: {stop.message} {left:,} pictures are left. {_figures(progress)}",
        {"left": left, **_numbers(progress)},
        cause=str(stop.cause),
    )


def refusal_alert(run: AboutRun, cause: str, message: str, pictures: int) -> Alert:
    """Return the alert of a run that could not start, once a UTC day for each cause."""
    day = datetime.now(UTC).date().isoformat()
    return run.alert(
        f"refused {run.backend} {run.dataset} {day} {cause}"[:255],
        "stopped",
        f"the run can't start: {message} {pictures:,} pictures are left.",
        {"left": pictures},
        cause=cause,
    )


def finish_alert(run: AboutRun, progress: Progress) -> Alert:
    """Return the alert of a run that came to its end, once."""
    words = f"the run is finished. {_figures(progress)}"
    return run.alert(f"finished {run.run_id}", "finished", words, _numbers(progress))


def failure_alert(run: AboutRun, progress: Progress, threshold: float) -> Alert | None:
    """Return the alert of a run whose share of failures is over `threshold`, once; None where it is not."""
    without = progress.failed + progress.unknown
    outcomes = progress.succeeded + without
    if outcomes < FAILURES_FROM or without <= threshold * outcomes:
        return None
    share = 100 * without / outcomes
    return run.alert(
        f"failures {run.run_id}",
        "failures",
        f"{without:,} of {outcomes:,} pictures have failed ({share:.0f} %; told above {100 * threshold:g} %). The run "
        f"goes on. {_figures(progress)}",
        {"percent": round(share, 1), **_numbers(progress)},
    )


def budget_alerts(run: AboutRun, day: str, held: Sequence[tuple[Cap, Held]], price: int) -> Iterator[Alert]:
    """Yield an alert for each share of a budget that is reached, once for each period of it.

    Args:
        run: The run that looks.
        day: The UTC day.
        held: The caps with what counts against each.
        price: Millionths of a USD that another picture may cost.
    """
    for cap, amounts in held:
        # What is reserved may be given back.
        used = amounts.charged + amounts.unknown
        for percent in BUDGET_PERCENT:
            reached = used + price > cap.limit if percent == 100 else used * 100 >= percent * cap.limit
            if cap.limit <= 0 or not reached:
                continue
            period = {"run": run.run_id, "day": day, "month": day[:7], "all": ""}[cap.scope]
            possibly = f", {usd(amounts.unknown):,.2f} USD of it possibly" if amounts.unknown else ""
            room = " No other picture fits." if percent == 100 else ""
            yield run.alert(
                f"budget {run.backend} {cap.scope} {period} {cap.limit} {percent}",
                "budget",
                f"{percent} % of the budget of {cap} are reached: {usd(used):,.2f} USD are charged{possibly}.{room}",
                {
                    "percent": percent,
                    "budget_usd": usd(cap.limit),
                    "spent_usd": usd(amounts.charged),
                    "possibly_charged_usd": usd(amounts.unknown),
                },
            )


def backfill_alert(run: AboutRun, status: str, runs: int, made: RunsFigures) -> Alert:
    """Return the alert of a backfill that has ended, once. `status` is Dagster's, `run.run_id` is the backfill's id."""
    ends = {"COMPLETED_SUCCESS": "is finished", "CANCELED": "was canceled"}
    possibly = f", possibly {made.possibly_charged_usd:,.2f} USD more" if made.possibly_charged_usd else ""
    return run.alert(
        f"backfill {run.run_id}",
        "backfill",
        f"the backfill {run.run_id} {ends.get(status, f'has ended ({status})')}. Its runs ({runs:,}): {made.pictures:,} "
        f"pictures; charged {made.spent_usd:,.2f} USD{possibly}.",
        {
            "succeeded": made.pictures,
            "spent_usd": made.spent_usd,
            "possibly_charged_usd": made.possibly_charged_usd,
        },
        cause="" if status == "COMPLETED_SUCCESS" else status.lower(),
    )


def _figures(progress: Progress) -> str:
    possibly = f", possibly {usd(progress.possibly_charged):,.2f} USD more" if progress.possibly_charged else ""
    return (
        f"This run: {progress.succeeded:,} pictures, {progress.failed:,} failed, {progress.unknown:,} unknown; "
        f"charged {usd(progress.spent):,.2f} USD{possibly}."
    )


def _numbers(progress: Progress) -> dict[str, float]:
    return {
        "succeeded": progress.succeeded,
        "failed": progress.failed,
        "unknown": progress.unknown,
        "spent_usd": usd(progress.spent),
        "possibly_charged_usd": usd(progress.possibly_charged),
    }
