"""The settings of one run of the generation loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from kontext_pipeline.generation.ledger import AskAgain
from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.generation.retries import RetryPolicy


@dataclass(frozen=True, slots=True)
class Options:
    """How a run generates. Times are seconds.

    `concurrency` is the number of slots, `rpm` the requests a minute that the account allows over all
    processes on the ledger (None: no limit but the API's own answers).
    """

    api_version: Literal["v1", "v2"] = "v1"
    concurrency: int = 8
    rpm: float | None = None
    caps: Sequence[Cap] = ()
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    retry_failed: bool = False
    ask_again: AskAgain = "within bounds"
    job_timeout_s: float = 600.0
    drain_s: float = 120.0
