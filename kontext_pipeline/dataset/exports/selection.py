"""Which samples an export has, in which order and in which split, and why other rows are left out.

The selection holds a few short columns of each sample; `sample_rows` reads the others when they are written.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.exports.export_options import INVERSE_COLUMNS, ExportError, ExportOptions
from kontext_pipeline.dataset.exports.reduced_rows import EDITS, TEXT_TO_IMAGE, KeptInputs, reduced_rows
from kontext_pipeline.dataset.exports.splits import Splits, group_names, split_names
from kontext_pipeline.dataset.exports.stored_files import StoredFiles
from kontext_pipeline.dataset.samples import ReviewDecision, batch_samples
from kontext_pipeline.dataset.storage import written_batches

REASONS: Final[Mapping[str, str]] = {
    "repeated": "the picture is that of an earlier row",
    "failed": "failed",
    "pending": "no outcome yet",
    "unknown": "the answer was lost",
    "rejected": "rejected in the review",
    "no_inverse": "no inverse instruction",
    "no_input": "no input picture to go back to",
    "ambiguous": "the generated picture is also that of another input picture, so there is no one way back",
    "picture_missing": "the picture is not in images/ any more, or has another size",
    "input_not_kept": "the input picture was not kept",
    "input_missing": "the input picture is not in inputs/ any more",
    "picture_changed": "a picture has other bytes than were recorded",
    "picture_unreadable": "a picture that the layout needs in another format can't be decoded",
}
"""Why rows are left out, by reason, for people."""
NOT_KEPT: Final = (
    "Pictures at URLs are kept while rows are generated, unless KONTEXT_KEEP_INPUTS is false; `kontext inputs MANIFEST` "
    "keeps local ones of earlier runs."
)
"""What to do where input pictures were not kept."""
WRONG: Final = frozenset(
    {"picture_missing", "input_not_kept", "input_missing", "picture_changed", "picture_unreadable"}
)
"""The reasons that are losses, not decisions."""
EXAMPLES: Final = 5
SAMPLE_COLUMNS: Final = (
    *("batch", "row", "id", "fingerprint", "backward", "group", "cost_usd"),
    *("input_path", "input_sha256", "input_bytes", "input_pixels"),
    *("image_path", "image_sha256", "image_bytes", "image_pixels"),
)
"""The columns of samples, all short. `batch` is the index of the batch and `row` that of the row in its table."""


@dataclass(slots=True)
class LeftOut:
    """The rows, or ways of rows, that have no sample: how many by reason, and the ids of the first ones."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    rejected_for: Counter[str] = field(default_factory=Counter)
    """Rejected rows by the reviewer's reason."""

    def add(self, reason: str, ids: list[Any]) -> None:
        """Count rows, by their ids."""
        if ids:
            self.counts[reason] += len(ids)
            shown = self.examples.setdefault(reason, [])
            shown += [str(one) for one in ids[: EXAMPLES - len(shown)]]


@dataclass(frozen=True, slots=True)
class Selection:
    """The samples of an export.

    Attributes:
        parts: The samples of each configuration and split that has any: rows of `SAMPLE_COLUMNS`, in order.
        batches: Keys of the batches.
        schemas: The schema of the samples of each batch.
        inverse_column: The column with the inverse instruction, if the dataset has one.
        left_out: Why other rows have no sample.
        leaks, leaks_shown: Groups that the manifest has put into several splits, and the first of them.
        rows, cost_usd, backends: Rows of the metadata table, the bill of all of them in USD, and what made the pictures.
        exported_usd: The bill of the samples' pictures in USD.
    """

    parts: dict[tuple[str, str], pa.Table]
    batches: list[str]
    schemas: list[pa.Schema]
    inverse_column: str | None
    left_out: LeftOut
    leaks: int
    leaks_shown: list[str]
    rows: int
    cost_usd: float
    backends: list[str]
    exported_usd: float

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(table.num_rows for table in self.parts.values())


def select(data_dir: UPath, decisions: Mapping[str, ReviewDecision], options: ExportOptions) -> Selection:
    """Select the samples of an export from the metadata tables of a data directory.

    Raises:
        ExportError: There is no batch, or a column or a split's name is not allowed.
        DatasetError: A metadata table can't be read.
        OSError: The pictures can't be listed.
    """
    batches = written_batches(data_dir)
    if not batches:
        raise ExportError(f"{data_dir} has no metadata table, so nothing to export. Run the manifest first.")
    schemas: list[pa.Schema] = []
    reduced: list[pa.Table] = []
    backends: set[str] = set()
    left_out = LeftOut()
    kept = KeptInputs(data_dir)
    for number, key in enumerate(batches):
        table = batch_samples(data_dir, key, decisions)
        schemas.append(table.schema.remove_metadata())
        backends.update(pc.unique(table["backend"]).drop_null().to_pylist())
        reduced.append(kept.complete(reduced_rows(table, number, options)))
    rows = pa.concat_tables(reduced).combine_chunks()
    reduced.clear()
    count, cost_usd = rows.num_rows, math.fsum(rows["row_cost"].to_pylist())
    inverse_column = _inverse_column(schemas, options)
    samples = _candidates(_with_groups(rows), options, left_out, data_dir)
    del rows
    exported_usd = math.fsum(samples["cost_usd"].to_pylist())
    parts, splits = _split(samples, options)
    if not parts:
        counted = "; ".join(f"{count:,}: {REASONS[reason]}" for reason, count in left_out.counts.most_common())
        advice = f" {NOT_KEPT}" if left_out.counts["input_not_kept"] else ""
        raise ExportError(f"No row of {data_dir} can be exported. {counted or 'There are none'}.{advice}")
    return Selection(
        parts=parts,
        batches=batches,
        schemas=schemas,
        inverse_column=inverse_column,
        left_out=left_out,
        leaks=splits.leaks,
        leaks_shown=splits.shown,
        rows=count,
        cost_usd=cost_usd,
        backends=sorted(backends),
        exported_usd=exported_usd,
    )


def _inverse_column(schemas: list[pa.Schema], options: ExportOptions) -> str | None:
    """Return the column with the inverse instruction; None where the dataset has none.

    Raises:
        ExportError: The column that the user names, or any for the direction `backward`, is not there.
    """
    names = {name for schema in schemas for name in schema.names}
    wanted = INVERSE_COLUMNS if options.inverse_column is None else (options.inverse_column,)
    for name in wanted:
        if name in names:
            return name
    if options.inverse_column is not None or options.direction == "backward":
        raise ExportError(
            f"The dataset has no column {' or '.join(wanted)} with the inverse instructions. Add one to the manifest and "
            "plan and run again (pictures that exist cost nothing), or name another column with --inverse-column."
        )
    return None


def _with_groups(rows: pa.Table) -> pa.Table:
    """Add the group of each row: of its input picture, or of its prompt where there is none.

    A generated picture that is also an input picture is in the group of its own input picture.
    """
    pictures = rows["picture"].combine_chunks()
    generated = rows["image_sha256"].combine_chunks()
    chained = pc.if_else(pc.is_in(generated, value_set=pictures), generated, pa.scalar(None, pa.string()))
    groups = group_names(pictures, [chained, rows["input_group"].combine_chunks()], rows["started"].combine_chunks())
    return rows.drop_columns(["picture", "input_group", "started"]).append_column("group", groups)


def _candidates(rows: pa.Table, options: ExportOptions, left_out: LeftOut, data_dir: UPath) -> pa.Table:
    """Return a row for each sample, and count what has none."""

    def without(table: pa.Table, reason: str, mask: pa.ChunkedArray) -> pa.Table:
        mask = pc.fill_null(mask, False)
        left_out.add(reason, table["id"].filter(mask).to_pylist())
        return table.filter(pc.invert(mask))

    for status in ("failed", "pending", "unknown"):
        rows = without(rows, status, pc.equal(rows["status"], status))
    rows = _distinct(rows, left_out)
    if not options.include_rejected:
        rejected = pc.fill_null(pc.equal(rows["decision"], "reject"), False)
        left_out.rejected_for.update(reason or "" for reason in rows["reason"].filter(rejected).to_pylist())
        rows = without(rows, "rejected", rejected)
    images = StoredFiles(data_dir, "images").sizes_of(rows["image_path"].combine_chunks())
    rows = without(rows, "picture_missing", pc.invert(pc.fill_null(pc.equal(images, rows["image_bytes"]), False)))
    is_edit = pc.equal(rows["config"], EDITS)
    rows = without(rows, "input_not_kept", pc.and_(is_edit, pc.is_null(rows["input_path"])))
    inputs = StoredFiles(data_dir, "inputs").sizes_of(rows["input_path"].combine_chunks())
    rows = rows.append_column("input_bytes", inputs)
    is_edit = pc.equal(rows["config"], EDITS)
    rows = without(rows, "input_missing", pc.and_(is_edit, pc.is_null(rows["input_bytes"])))
    ways = []
    if options.direction != "backward":
        ways.append(rows.append_column("backward", pa.repeat(pa.scalar(False), rows.num_rows)))
    if options.direction != "forward":
        is_edit = pc.equal(rows["config"], EDITS)
        back = (
            without(rows, "no_input", pc.invert(is_edit)) if options.direction == "backward" else rows.filter(is_edit)
        )
        back = without(back, "no_inverse", pc.invert(back["has_inverse"]))
        back = without(back, "ambiguous", _ambiguous(back))
        cost = back["cost_usd"] if options.direction == "backward" else pa.array([0.0] * back.num_rows)
        back = back.set_column(back.column_names.index("cost_usd"), "cost_usd", cost)
        ways.append(back.append_column("backward", pa.repeat(pa.scalar(True), back.num_rows)))
    names = [*SAMPLE_COLUMNS, "config", "declared_split"]
    found = pa.concat_tables([way.select(names) for way in ways])
    if len(ways) == 1:
        # In order already.
        return found
    return found.sort_by([("batch", "ascending"), ("row", "ascending"), ("backward", "ascending")])


def _distinct(rows: pa.Table, left_out: LeftOut) -> pa.Table:
    """Return the first row of each fingerprint, with the cost of all of them."""
    numbered = rows.append_column("number", pa.array(np.arange(rows.num_rows)))
    found = numbered.group_by("fingerprint").aggregate([("number", "min"), ("row_cost", "sum")]).sort_by("number_min")
    first = found["number_min"].combine_chunks()
    repeated = pc.invert(pc.is_in(numbered["number"], value_set=first))
    left_out.add("repeated", rows["id"].filter(repeated).to_pylist())
    return rows.take(first).append_column("cost_usd", found["row_cost_sum"])


def _ambiguous(rows: pa.Table) -> pa.Array:
    """Return whether each row's generated picture is also that of a row of another group."""
    counted = rows.group_by("image_sha256").aggregate([("group", "count_distinct")])
    several = counted.filter(pc.greater(counted["group_count_distinct"], 1))["image_sha256"].combine_chunks()
    return pc.is_in(rows["image_sha256"], value_set=several)


def _split(samples: pa.Table, options: ExportOptions) -> tuple[dict[tuple[str, str], pa.Table], Splits]:
    """Return the samples of each configuration and split that has any, and what is to be said of the splits."""
    declared = samples["declared_split"].combine_chunks()
    splits = split_names(
        samples["group"].combine_chunks(),
        declared if declared.null_count < len(declared) else None,
        validation=options.validation,
        seed=options.seed,
    )
    parts = {}
    for config in (EDITS, TEXT_TO_IMAGE):
        of_config = pc.equal(samples["config"], config)
        names = pc.unique(splits.names.filter(of_config.combine_chunks())).to_pylist()
        for split in sorted(names, key=_split_order):
            wanted = pc.and_(of_config, pc.equal(splits.names, split))
            parts[config, split] = samples.select(SAMPLE_COLUMNS).filter(wanted).combine_chunks()
    return parts, splits


def _split_order(name: str) -> tuple[int, str]:
    order = ("train", "validation", "test")
    return (order.index(name) if name in order else len(order), name)
