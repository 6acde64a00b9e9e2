"""What went wrong, as Dagster is told it: what is worth another try by itself, and what waits for a person.

A retry asks for what is missing only, so it never pays twice; but where the account, the budget or a
setting is the cause, trying again can't help.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dagster import Backoff, Failure, Jitter, RetryPolicy

from kontext_pipeline.errors import KontextError, LedgerError

if TYPE_CHECKING:
    from kontext_pipeline.generation.progress import Stop
    from kontext_pipeline.pipeline import RunReport

PASSING_CAUSES: Final = frozenset({"unreachable", "outage", "ledger", "still_out_there"})
"""Causes of a stop that tend to pass by themselves: the network, the provider, the ledger's database."""

RETRIES: Final = RetryPolicy(max_retries=3, delay=30, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""For faults of the infrastructure: after about 30, 60 and 120 seconds. Answers of the API have a policy of
their own, in the resource `segmind`."""


@contextlib.contextmanager
def told_to_dagster() -> Iterator[None]:
    """Turn errors that are meant to be read by the user into failures that carry their words alone."""
    try:
        yield
    except KontextError as error:
        passing = isinstance(error, LedgerError) or not getattr(error, "reachable", True)
        raise Failure(
            description=str(error),
            metadata={"cause": type(error).__name__},
            allow_retries=passing,
        ) from None


def stop_of(report: "RunReport") -> "Stop | None":
    """Say why a run left something to a later one; None where it didn't."""
    from kontext_pipeline.generation.progress import Stop

    if report.stopped is not None:
        return report.stopped
    if report.left:
        return Stop(
            "still_out_there", f"{report.left:,} jobs are still out there; start again to collect them."
        )
    return None


def failure(stop: "Stop", *, finished: int, batches: int, generated: int, spent_usd: float) -> Failure:
    """Make the failure of a step that was stopped, with what was done till then."""
    kept = f"{finished:,} of {batches:,} batches are finished" if batches > 1 else "The batch is not finished"
    return Failure(
        description=f"Stopped: {stop.message} {kept}; {generated:,} pictures were generated and are kept.",
        metadata={
            "cause": stop.cause,
            "finished_batches": finished,
            "batches": batches,
            "generated": generated,
            "spent_usd": spent_usd,
        },
        allow_retries=stop.cause in PASSING_CAUSES,
    )
