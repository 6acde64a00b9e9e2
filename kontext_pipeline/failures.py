"""Rows without a picture: by cause, with the server's words, what the cause means, what to do, and what that costs.

A row is here when its request failed or its answers were lost. Rows that are pending need nothing but another run.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.columns import MANIFEST_COLUMNS, PLAN_SCHEMA
from kontext_pipeline.files import write_atomically
from kontext_pipeline.generation.ledger import Ledger, WithoutPicture
from kontext_pipeline.generation.ledger.report import read_without_picture
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Cause

ROWS_SHOWN: Final = 5
"""Rows of one cause that are shown."""
LONGEST_WORDS: Final = 300
"""Characters of the server's words that are shown of one row."""

_EDIT: Final = "Edit these rows; --retry-failed asks again as they are"
_AGAIN: Final = "Start the run again: it tries these rows again"
_UNKNOWN: Final = "--retry-unknown asks once more, and the lost answers may have been charged already"

_MEANINGS: Final[Mapping[str, str]] = {
    Cause.BAD_PARAMETERS: "the API refuses the prompt or a parameter",
    Cause.PARAMETER_REFUSED: "the API refuses the prompt or a parameter",
    Cause.TOO_LARGE: "the API takes no input picture of this size",
    Cause.UNSUPPORTED_MEDIA: "the API takes no input picture of this kind",
    Cause.JOB_FAILED: "the provider accepted the request and could not make the picture",
    Cause.INPUT_MISSING: "the input picture is not there",
    Cause.INPUT_CHANGED: "the input picture has changed since it was planned; plan again",
    Cause.SERVER_ERROR: "the provider had a failure of its own, at every try",
    Cause.BAD_GATEWAY: "the provider had a failure of its own, at every try",
    Cause.UNAVAILABLE: "the provider had no capacity, at every try",
    Cause.REQUEST_TIMEOUT: "the provider did not take the request, at every try",
    Cause.GATEWAY_TIMEOUT: "the provider's gateway did not wait for the picture; --api-version v2 needs no waiting",
    Cause.ANSWER_TIMEOUT: "no answer came in time; KONTEXT_ANSWER_TIMEOUT_S is the limit",
    Cause.ANSWER_TOO_LARGE: "the answer was too large for a picture",
    Cause.ABORTED: "the run ended while the request was under way",
    Cause.CONNECTION_LOST: "the connection broke before the answer came",
    Cause.CUT: "the connection broke in the middle of the answer",
    Cause.RUN_DIED: "the run was killed before the answer came",
    Cause.NO_IMAGE: "the answer had no picture; images/.unusable/ has what came",
    Cause.NOT_A_PICTURE: "the answer had no whole picture; images/.unusable/ has what came",
    Cause.UNKNOWN_JSON: "the answer had no picture; images/.unusable/ has what came",
    Cause.BAD_OUTPUT_URL: "the answer named no usable address of a picture",
    Cause.OUTPUT_UNAVAILABLE: "the picture could not be fetched from where the answer said",
    Cause.OUTPUT_EXPIRED: "the provider removed the picture before it was fetched",
    Cause.RECORD_EXPIRED: "the provider removed the job before its picture was fetched",
    Cause.RECORD_REFUSED: "the provider no longer tells about the job",
}


@dataclass(slots=True)
class CauseOfFailure:
    """The rows that one cause left without a picture. `asked_again`: the next run tries them without being told."""

    cause: str
    status: str
    asked_again: bool
    rows: int = 0
    fingerprints: set[str] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)
    """The first rows, each with the server's words."""

    @property
    def cost_usd(self) -> float:
        """What asking once more costs at the list price, USD."""
        return round(len(self.fingerprints) * LIST_PRICE_USD, 6)

    @property
    def meaning(self) -> str:
        """What the cause means."""
        return _MEANINGS.get(self.cause) or (
            "the answer was lost" if self.status == "unknown" else "the provider made no picture"
        )

    @property
    def advice(self) -> str:
        """What to do, and what that costs."""
        advice = _AGAIN if self.asked_again else _UNKNOWN if self.status == "unknown" else _EDIT
        return f"{advice}: {self.cost_usd:,.2f} USD."

    def lines(self) -> list[str]:
        """Return all of this for people: what happened, the first rows, what to do."""
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        more = self.rows - len(self.shown)
        return [
            f"{rows} {self.status}: {self.meaning} ({self.cause or 'no cause'}).",
            *(f"  {text}" for text in self.shown),
            *([f"  ... and {more:,} more"] if more else []),
            f"  {self.advice}",
        ]


class Failures:
    """The rows of a plan that have no picture."""

    def __init__(self, plan: Plan, ledger: Ledger, *, unknown_retries: int, keys: Iterable[str] | None = None) -> None:
        """Find them, in the batches `keys` (None: all). `unknown_retries` is the setting of that name."""
        self._plan = plan
        self._keys = plan.batch_keys if keys is None else list(keys)
        wanted = None
        if keys is not None:
            parts = [plan.batch_table(key)["fingerprint"] for key in self._keys]
            wanted = pc.unique(pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string()))
        found = read_without_picture(ledger.database, None if wanted is None else wanted.to_pylist())
        self._found = {one.fingerprint: one for one in found}
        known = ledger.statuses(list(self._found), unknown_retries=unknown_retries)
        self._again = {fingerprint: again for fingerprint, (_, again) in known.items()}
        self.causes = self._by_cause()
        """By cause, the one with the most rows first."""

    @property
    def rows(self) -> int:
        """How many rows have no picture."""
        return sum(cause.rows for cause in self.causes)

    def lines(self) -> list[str]:
        """Return all causes for people."""
        return [line for cause in self.causes for line in cause.lines()]

    def _by_cause(self) -> list[CauseOfFailure]:
        causes: dict[tuple[str, str, bool], CauseOfFailure] = {}
        for row, one in self._each():
            key = (one.cause, one.status, self._again[one.fingerprint])
            cause = causes.setdefault(key, CauseOfFailure(*key))
            cause.rows += 1
            cause.fingerprints.add(one.fingerprint)
            if len(cause.shown) < ROWS_SHOWN:
                words = " ".join(str(part) for part in (one.status_code, one.error) if part)
                variant = f", variant {row['variant']}" if row["variant"] > 1 else ""
                cause.shown.append(
                    f"{row['manifest']} row {row['row']}, id {row['id']}{variant}: {words[:LONGEST_WORDS] or 'no words'}"
                )
        return sorted(causes.values(), key=lambda cause: -cause.rows)

    def _each(self) -> Iterator[tuple[dict[str, Any], WithoutPicture]]:
        """Yield each row of the plan without a picture, and how its request ended."""
        if not self._found:
            return
        prints = pa.array(list(self._found), pa.string())
        for key in self._keys:
            batch = self._plan.batch_table(key)
            for row in batch.filter(pc.is_in(batch["fingerprint"], value_set=prints)).to_pylist():
                yield row, self._found[row["fingerprint"]]

    def write_csv(self, path: Path) -> None:
        """Write every row as CSV: the manifest's columns, our findings, then the manifest's own columns.

        Raises:
            OSError: The file can't be written. The old one, if any, is untouched.
        """
        names = [column.name for column in MANIFEST_COLUMNS if column.name in PLAN_SCHEMA.names]
        own = list(
            dict.fromkeys(
                name
                for key in {batch.manifest: batch.key for batch in self._plan.batches}.values()
                for name in self._plan.batch_table(key).column_names
                if name not in PLAN_SCHEMA.names
            )
        )
        findings = ["in_manifest", "in_row", *(f"failure_{name}" for name in ("status", "cause", "code", "words"))]
        findings.append("what_to_do")
        advice = {(cause.cause, cause.status, cause.asked_again): cause for cause in self.causes}

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow([*names, *findings, *own])
                for row, one in self._each():
                    cause = advice[one.cause, one.status, self._again[one.fingerprint]]
                    found = [
                        row["manifest"],
                        row["row"],
                        one.status,
                        one.cause,
                        one.status_code,
                        one.error,
                        cause.advice,
                    ]
                    writer.writerow([*(row[name] for name in names), *found, *(row.get(name) for name in own)])

        write_atomically(path, write)
