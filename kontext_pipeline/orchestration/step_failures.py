"""Failures of a step, as Dagster gets them: which ones are retried, and which ones wait for a person.

A retried step requests only missing pictures, so it never pays twice. Where the account, the budget or a setting is the
cause, a retry can't help.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from dagster import Backoff, DagsterExecutionInterruptedError, Failure, Jitter, RetryPolicy

from kontext_pipeline.errors import KontextError, LedgerError
from kontext_pipeline.escaping import displayable
from kontext_pipeline.segmind.outcomes import Cause

if TYPE_CHECKING:
    from kontext_pipeline.generation.progress import Stop
    from kontext_pipeline.pipeline import RunReport

PASSING_CAUSES: Final = frozenset({Cause.UNREACHABLE, Cause.OUTAGE, Cause.LEDGER, Cause.STILL_OUT_THERE})
"""Causes of a stop that tend to pass without help: the network, the provider, the ledger's database."""


class _FailuresAlone(RetryPolicy):
    """A retry policy for failures alone: an interrupt passes, where Dagster's policies would retry the step."""

    def calculate_delay(self, attempt_num: int) -> float:
        """Return the time until an attempt, seconds. Raises the interrupt again for which Dagster asks."""
        error = sys.exception()
        if isinstance(error, (DagsterExecutionInterruptedError, KeyboardInterrupt)):
            raise error
        return super().calculate_delay(attempt_num)


RETRIES: Final = _FailuresAlone(max_retries=3, delay=30, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""For failures of the infrastructure. Retries of single requests are the policy in the resource `segmind`."""


@contextlib.contextmanager
def as_failures() -> Iterator[None]:
    """Turn errors that the user can correct into failures with the same message, without a traceback."""
    try:
        yield
    except KontextError as error:
        passing = isinstance(error, LedgerError) or not getattr(error, "reachable", True)
        raise Failure(
            description=displayable(str(error)),
            metadata={"cause": type(error).__name__},
            allow_retries=passing,
        ) from None


def failure_of_ended(reason: str) -> Failure:
    """Return the failure of a step that is not to begin, because its run has ended."""
    return Failure(
        description=f"{reason} Nothing was sent.", metadata={"cause": Cause.INTERRUPTED.value}, allow_retries=False
    )


def failure_of(stop: "Stop", report: "RunReport", *, batches: int, without_picture: Sequence[str] = ()) -> Failure:
    """Return the failure of a step that was stopped, with the batches and pictures that were finished.

    `without_picture`: lines about rows that failed or whose answers were lost.
    """
    finished, generated = len(report.finished), report.progress.succeeded
    kept = f"{finished:,} of {batches:,} batches are finished" if batches > 1 else "The batch is not finished"
    return Failure(
        description="\n".join(
            displayable(line)
            for line in [
                f"Stopped: {stop.message} {kept}; {generated:,} pictures were generated and are kept.",
                *without_picture,
            ]
        ),
        metadata={
            "cause": stop.cause.value,
            "finished_batches": finished,
            "batches": batches,
            "generated": generated,
            "spent_usd": report.progress.spent / 1e6,
        },
        allow_retries=stop.cause in PASSING_CAUSES,
    )
