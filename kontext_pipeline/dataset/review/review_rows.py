"""The rows of a review: all batches of a data directory as one table, with what reviewers decided, filtered and paged.

A selection is an array of row numbers. Text leaves this module as `displayable` gives it.
"""

import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.dataset.quality.quality_tables import quality_path
from kontext_pipeline.dataset.review.decisions import Decision, ReviewError, decision_files, read_decisions
from kontext_pipeline.dataset.samples import QUALITY_SCHEMA, REVIEW_SCHEMA, batch_samples
from kontext_pipeline.dataset.storage import batch_path, written_batches
from kontext_pipeline.escaping import displayable

Numbers = npt.NDArray[np.int64]

MOST_LABELS: Final = 50
"""Most different values of a column of the manifest that the page offers as a filter."""
_CHOICES: Final = ("", "keep", "reject")
_SHOWN_CHARS: Final = 4000
"""Most characters of a value that the page shows."""
_FACTS: Final = (
    "id",
    "variant",
    "batch",
    "manifest",
    "row",
    "prompt",
    "seed",
    "status",
    "status_code",
    "error",
    "cost_usd",
    "possibly_charged_usd",
    "latency_s",
    "attempts",
    "fingerprint",
    "width",
    "height",
    "input_image",
    "input_width",
    "input_height",
    "aspect_ratio",
    "output_format",
    "backend",
    "request_id",
)
_KEYS: Final = ("input_kept_sha256", "image_path", "input_path", "issues")
"""Further columns from which a record is made."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows are wanted, and in which order. An empty text is no filter.

    Attributes:
        batch: Key of a batch.
        status: `succeeded`, `failed`, `pending` or `unknown`.
        decision: `keep`, `reject` or `undecided`.
        issue: Name of a quality issue; `any`: rows with one at least.
        column: A column of the manifest, for `value`.
        value: The value of that column.
        text: Text in the prompt, the id or the error, in any case.
        order: Name of a column of numbers; with a `-` before the name, the largest first. Empty: the plan's order.
    """

    batch: str = ""
    status: str = ""
    decision: str = ""
    issue: str = ""
    column: str = ""
    value: str = ""
    text: str = ""
    order: str = ""


class ReviewRows:
    """All rows of a data directory and their decisions. Any number of threads may use one."""

    def __init__(self, data_dir: UPath) -> None:
        """Read the tables and the decisions.

        Raises:
            ReviewError: There are no rows, or the decisions can't be read.
            DatasetError: A table can't be read.
        """
        self.data_dir = data_dir
        self._lock = threading.RLock()
        self._state = _state_of(data_dir)
        self.table = _read(data_dir)
        names = self.table.column_names
        self.own = [name for name in names[: names.index(REVIEW_SCHEMA.names[0])] if name not in _OURS]
        measured = names[names.index(QUALITY_SCHEMA.names[-1]) + 1 :]
        self.measures = [name for name in measured if pa.types.is_floating(self.table[name].type)]
        self._shown = [*_FACTS, *_KEYS, *self.measures, *self.own, *({"near_duplicate_of"} & set(measured))]
        self.labels = {name: values for name in self.own if (values := _labels(self.table[name]))}
        fingerprints = self.table["fingerprint"].combine_chunks().dictionary_encode()
        self._picture = fingerprints.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        self._first_rows: Numbers = np.unique(self._picture, return_index=True)[1].astype(np.int64)
        self._number = {fingerprint: number for number, fingerprint in enumerate(fingerprints.dictionary.to_pylist())}
        self._variants = _Variants.of(self.table)
        self._decisions: dict[str, Decision] = {}
        self._choices = np.zeros(len(self._number), np.int8)
        self._seen: object = None
        self.refresh_decisions()

    @property
    def out_of_date(self) -> bool:
        """Whether tables were written since these rows were read."""
        return _state_of(self.data_dir) != self._state

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._number

    def refresh_decisions(self) -> None:
        """Read the decisions again where other reviewers have written some.

        Raises:
            ReviewError: They can't be read.
        """
        files = [(str(path), _stamp(path)) for path in decision_files(self.data_dir)]
        with self._lock:
            if files == self._seen:
                return
            self._seen = files
            self._decisions = {}
            self._choices[:] = 0
            self.take_in(read_decisions(self.data_dir).values())

    def take_in(self, decisions: Iterable[Decision]) -> None:
        """Show decisions that were recorded."""
        with self._lock:
            for decision in decisions:
                self._decisions[decision.fingerprint] = decision
                if (number := self._number.get(decision.fingerprint)) is not None:
                    self._choices[number] = _CHOICES.index(decision.decision)

    def decision(self, fingerprint: str) -> Decision | None:
        """Return the decision about a picture."""
        found = self._decisions.get(fingerprint)
        return found if found is not None and found.decision else None

    def choices(self) -> npt.NDArray[np.int8]:
        """Return for each row the number of its decision: 0 none, 1 keep, 2 reject."""
        chosen: npt.NDArray[np.int8] = self._choices[self._picture]
        return chosen

    def first_of_each_picture(self) -> Numbers:
        """Return the number of the first row of each picture."""
        return self._first_rows

    def select(self, filters: Filters) -> Numbers:
        """Return the numbers of the rows that pass all filters, in the wanted order."""
        masks: list[Any] = []
        if filters.batch:
            masks.append(pc.equal(self.table["batch"], filters.batch))
        if filters.status:
            masks.append(pc.equal(self.table["status"], filters.status))
        if filters.column in self.labels:
            masks.append(_equals(self.table[filters.column], self.labels[filters.column].get(filters.value)))
        if filters.text:
            found = [
                pc.fill_null(pc.match_substring(self.table[name], filters.text, ignore_case=True), False)
                for name in ("prompt", "id", "error")
            ]
            masks.append(pc.or_(pc.or_(found[0], found[1]), found[2]))
        wanted = np.ones(len(self), bool)
        for mask in masks:
            wanted &= _as_numpy(mask)
        if filters.decision:
            number = {"undecided": 0, "keep": 1, "reject": 2}.get(filters.decision, -1)
            wanted &= self.choices() == number
        if filters.issue:
            wanted &= self._with_issue(filters.issue)
        rows = np.flatnonzero(wanted)
        return self._ordered(rows, filters.order)

    def variants(self, row: int) -> list[int]:
        """Return the numbers of all rows that one row of the manifest asked for, by variant."""
        return self._variants.beside(row)

    def records(self, rows: Sequence[int] | Numbers) -> list[dict[str, Any]]:
        """Return what the page shows of rows: JSON values alone, texts displayable."""
        numbers = [int(row) for row in rows]
        taken = self.table.select(self._shown).take(pa.array(numbers, pa.int64())).to_pylist()
        return [self._record(number, values) for number, values in zip(numbers, taken, strict=True)]

    def _record(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        fingerprint = values["fingerprint"]
        decision = self.decision(fingerprint)
        variants = self.variants(number)
        return {
            "n": number,
            **{name: shown(values[name]) for name in _FACTS},
            "output": fingerprint if is_picture(values["image_path"] or "") else None,
            "input": values["input_kept_sha256"] if is_picture(values["input_path"] or "") else None,
            "issues": [shown(issue) for issue in values["issues"] or []],
            "measures": {displayable(name): shown(values[name]) for name in self.measures},
            "own": {displayable(name): shown(values[name]) for name in self.own if values[name] is not None},
            "near_duplicate_of": self._row_of(values.get("near_duplicate_of")),
            "variants": variants if len(variants) > 1 else [],
            "decision": decision.decision if decision else "",
            "reason": displayable(decision.reason) if decision else "",
            "reviewer": displayable(decision.reviewer) if decision else "",
        }

    def _row_of(self, fingerprint: str | None) -> dict[str, Any] | None:
        """Return number and id of the first row of a picture, for a link to the row."""
        number = self._number.get(fingerprint) if fingerprint else None
        if number is None:
            return None
        row = int(self._first_rows[number])
        return {"n": row, "id": shown(self.table["id"][row].as_py())}

    def _with_issue(self, issue: str) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(self), bool)
        issues = self.table["issues"].combine_chunks()
        parents = pc.list_parent_indices(issues)
        if issue != "any":
            parents = parents.filter(pc.equal(pc.list_flatten(issues), issue))
        found[parents.to_numpy(zero_copy_only=False)] = True
        return found

    def _ordered(self, rows: Numbers, order: str) -> Numbers:
        name = order.removeprefix("-")
        if name not in {*self.measures, "cost_usd", "latency_s"}:
            return rows
        values = self.table[name].cast(pa.float64()).to_numpy()[rows]
        # Rows without a value are last either way.
        keys = np.where(np.isnan(values), np.inf, -values if order.startswith("-") else values)
        ordered: Numbers = rows[np.argsort(keys, kind="stable")]
        return ordered


_PICTURE: Final = re.compile(r"(images|inputs)(/[0-9A-Za-z_-][0-9A-Za-z._-]*)+")
_OURS: Final = frozenset([*TABLE_SCHEMA.names, "batch"])


def is_picture(path: str) -> bool:
    """Return whether a path of a table leads to a picture of the data directory, and nowhere else."""
    return _PICTURE.fullmatch(path) is not None


def shown(value: Any) -> Any:
    """Return a value as JSON has it, a text displayable and of bounded length."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, datetime):
        return value.isoformat()
    text = str(value)
    return displayable(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} …")


def _read(data_dir: UPath) -> pa.Table:
    keys = written_batches(data_dir)
    tables = [table for key in keys if (table := batch_samples(data_dir, key, {})).num_rows]
    if not tables:
        raise ReviewError(
            f"{data_dir} has no rows to review: no batch has its metadata table yet. Run `kontext run MANIFEST "
            "--data-dir DIR` first, or name another directory with --data-dir."
        )
    return pa.concat_tables(tables, promote_options="permissive")


def _state_of(data_dir: UPath) -> list[tuple[str, object]]:
    keys = written_batches(data_dir)
    return [(key, (_stamp(batch_path(data_dir, key)), _stamp(quality_path(data_dir, key)))) for key in keys]


def _stamp(path: UPath) -> object:
    """Return what changes when a file changes, or a folder's names; None where there is none."""
    try:
        found = path.stat()
    except (OSError, NotImplementedError):
        return None
    return found.st_mtime, found.st_size


def _labels(column: pa.ChunkedArray) -> dict[str, Any]:
    """Return the values of a column by their displayable text; empty where the column is no label."""
    if not (pa.types.is_string(column.type) or pa.types.is_boolean(column.type) or pa.types.is_integer(column.type)):
        return {}
    values = pc.unique(column).drop_null()
    if not 1 < len(values) <= MOST_LABELS:
        return {}
    return {label_text(value): value for value in sorted(values.to_pylist())}


def label_text(value: Any) -> str:
    """Return a value of a filter as text, as JSON has it."""
    return str(value).lower() if isinstance(value, bool) else str(shown(value))


def _equals(column: pa.ChunkedArray, value: Any) -> Any:
    return pc.fill_null(pc.equal(column, pa.scalar(value, column.type)), False)


def _as_numpy(mask: Any) -> npt.NDArray[np.bool_]:
    array = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    converted: npt.NDArray[np.bool_] = pc.fill_null(array, False).to_numpy(zero_copy_only=False).astype(bool)
    return converted


@dataclass(frozen=True, slots=True)
class _Variants:
    """The rows sorted by the manifest's row, where each of those begins, and which of those each row belongs to."""

    order: Numbers
    starts: Numbers
    group: Numbers

    @classmethod
    def of(cls, table: pa.Table) -> "_Variants":
        manifests = table["manifest"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        numbers = table["row"].to_numpy()
        order = np.lexsort((table["variant"].to_numpy(), numbers, manifests)).astype(np.int64)
        changes = (np.diff(manifests[order]) != 0) | (np.diff(numbers[order]) != 0)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(order)]]).astype(np.int64)
        group = np.empty(len(order), np.int64)
        group[order] = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        return cls(order, starts, group)

    def beside(self, row: int) -> list[int]:
        """Return the rows that the same row of the manifest asked for, this one among them."""
        group = self.group[row]
        return [int(one) for one in self.order[self.starts[group] : self.starts[group + 1]]]
