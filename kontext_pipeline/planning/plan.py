"""A plan that was made: its batches, their requests, and what the user should know. Sends nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.errors import PlanError
from kontext_pipeline.files import AnyPath
from kontext_pipeline.planning.batches import COMFORTABLE_BATCHES, MOST_BATCHES, batch_key
from kontext_pipeline.planning.plan_file import Footer, Origin, PlanFile
from kontext_pipeline.segmind.model import (
    DEFAULT_ASPECT_RATIO,
    LIST_PRICE_USD,
    MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE,
)
from kontext_pipeline.segmind.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A batch: partition key, name of the manifest, requested pictures, and index of its row group."""

    key: str
    manifest: str
    rows: int
    row_group: int


class Plan:
    """A plan of one or more manifests, read from its files when needed. Safe to use from several threads.

    `rows` counts the rows of the manifests, `text_to_image` those without an input image, and `requested` the pictures
    that they request, where equal requests count each. `backend` makes the pictures.
    """

    def __init__(self, files: Sequence[PlanFile]) -> None:
        """Take over open plan files; `make_plan` and `load_plan` make plans."""
        self._files = {file.name: file for file in files}
        self.manifests = [file.name for file in files]
        self.batches = [
            BatchInfo(batch_key(file.name, number), file.name, size, group)
            for file in files
            for group, (number, size) in enumerate(zip(file.footer.numbers, file.footer.sizes, strict=True))
        ]
        self._batches = {batch.key: batch for batch in self.batches}
        self.rows = sum(file.footer.rows for file in files)
        self.requested = sum(batch.rows for batch in self.batches)
        self.text_to_image = sum(file.footer.text_to_image for file in files)
        self.backend = str(files[0].footer.origin["backend"])

    @property
    def batch_keys(self) -> list[str]:
        """The keys of the batches, in order."""
        return list(self._batches)

    @cached_property
    def pictures(self) -> int:
        """How many requests differ, whether their pictures exist or not."""
        if len(self._files) == 1:
            return next(iter(self._files.values())).footer.pictures
        return int(pc.count_distinct(pa.chunked_array(self.fingerprints())).as_py())

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each manifest as it was planned, by the manifest's name."""
        return {name: str(file.footer.origin["digest"]) for name, file in self._files.items()}

    def is_as(self, other: "Plan") -> bool:
        """Return whether two plans were made from the same. Plans that were not may ask for the same all the same."""
        return [file.footer for file in self._files.values()] == [file.footer for file in other._files.values()]

    def has_batch(self, key: str) -> bool:
        """Return whether there is a batch with this key."""
        return key in self._batches

    def batch_table(self, key: str) -> pa.Table:
        """Return a batch: `PLAN_SCHEMA` and the user's own columns, a row for each requested picture.

        Raises:
            PlanError: There is no such batch.
        """
        batch = self._batches.get(key)
        if batch is None:
            raise PlanError(
                f"there is no batch {key} in the plan of {', '.join(self.manifests)}; it has "
                f"{len(self.batches):,}, from {self.batches[0].key} to {self.batches[-1].key}"
            )
        return self._files[batch.manifest].row_group(batch.row_group)

    @property
    def origins(self) -> dict[str, Origin]:
        """What the plan of each manifest follows from, by the manifest's name."""
        return {name: file.footer.origin for name, file in self._files.items()}

    @property
    def mapped_columns(self) -> dict[str, str]:
        """Our names of columns, with the manifests' names where these differ."""
        return {ours: theirs for file in self._files.values() for ours, theirs in file.footer.mapped.items()}

    @property
    def warnings(self) -> list[str]:
        """What the user should know before paying, a sentence each."""
        footers = [file.footer for file in self._files.values()]
        found = [note for footer in footers for note in footer.notes]
        above = _rows_named((footer.shown, footer.above_tolerance) for footer in footers)
        if above:
            limit = MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE
            clamped = all(footer.origin["clamp_safety_tolerance"] for footer in footers)
            consequence = (
                f"it is sent as {limit}, and the table keeps both values"
                if clamped
                else "it is sent as it is, and such rows may be refused"
            )
            found.append(
                f"safety_tolerance is above {limit}, the most the provider allows beside an input image, in {above}; "
                + consequence
            )
        matching = _rows_named((footer.shown, footer.match_without_image) for footer in footers)
        if matching:
            found.append(f"aspect_ratio is match_input_image without an input image in {matching}")
        found += _ratio_warnings(footers)
        same = _rows_named((footer.shown, footer.same_edits) for footer in footers)
        if same:
            found.append(f"prompt and input_image are those of an earlier row in {same}")
        if self.text_to_image:
            rows = "1 row has" if self.text_to_image == 1 else f"{self.text_to_image:,} rows have"
            found.append(f"{rows} no input_image and will be text-to-image")
        if self.requested > self.pictures:
            found.append(
                f"{self.requested:,} pictures are requested and {self.pictures:,} of them differ; equal requests are "
                "generated once"
            )
        if len(self.batches) > COMFORTABLE_BATCHES:
            found.append(
                f"the plan has {len(self.batches):,} batches; above {COMFORTABLE_BATCHES:,} Dagster's pages get "
                f"slow, above {MOST_BATCHES:,} it can't show them, so make the batch size (KONTEXT_BATCH_SIZE) larger"
            )
        return found

    def fingerprints(self) -> Iterator[pa.Array]:
        """Yield the fingerprints of all requests, in arrays of a size that a ledger can look up at once."""
        for file in self._files.values():
            yield from file.fingerprints()


def load_plan(data_dir: AnyPath, names: Sequence[str] | None = None, *, backend: str | None = None) -> Plan:
    """Open the plan of the manifests `names` (None: all) in a data directory, without reading a manifest.

    Plans for another `backend` (None: any) are left out, because they are of other pictures.

    Raises:
        PlanError: There is no such plan, or it can't be read.
    """
    folder = data_dir / "plan"
    try:
        found = sorted(path.stem for path in folder.glob("*.parquet")) if folder.is_dir() else []
        missing = [name for name in names or () if name not in found]
        if missing or not found:
            what = f"no plan of {', '.join(missing)}" if missing else "no plan"
            raise PlanError(f"there is {what} in {data_dir}; make one with: kontext plan MANIFEST...")
        files = [PlanFile(name, folder / f"{name}.parquet") for name in names or found]
        suitable = [file for file in files if backend in (None, file.footer.origin["backend"])]
        if not suitable:
            raise PlanError(
                f"the plan in {data_dir} is for another backend than {backend}, so for other pictures. Plan again, "
                "or set KONTEXT_BACKEND to the backend that it was planned for. Nothing was sent."
            )
        return Plan(suitable)
    except OSError as error:
        raise PlanError(f"the plan in {data_dir} can't be read: {error.strerror or error}") from error


def requests_of(table: pa.Table) -> Iterator[tuple[str, GenerationRequest]]:
    """Yield fingerprint and request of each row of a batch's table; rows may have equal ones.

    The input image of a request is a URL of any file system, a data URI, or the absolute path of a local file.
    """
    names = ["fingerprint", "prompt", "seed", "input_sha256", "aspect_ratio", "output_format", "safety_tolerance"]
    image = pc.coalesce(table["input_source"], table["input_image"])
    requests = table.select(names).append_column("input_image", image)
    for row in requests.to_pylist():
        yield row.pop("fingerprint"), GenerationRequest(**row)


def _ratio_warnings(footers: Sequence[Footer]) -> list[str]:
    found = []
    default = _rows_named((footer.shown, footer.default_ratio) for footer in footers)
    if default:
        pictures = sum(footer.default_ratio.get("pictures", 0) for footer in footers)
        found.append(
            f"rows that edit a picture and name no aspect_ratio get {DEFAULT_ASPECT_RATIO}, whatever the shape of the "
            f"picture is (pictures: {pictures:,}, {pictures * LIST_PRICE_USD:,.2f} USD): {default}; to keep the "
            "picture's shape, write match_input_image into the column, or set KONTEXT_ASPECT_RATIO=match_input_image, "
            "which changes no row that has its picture"
        )
    kept = _rows_named((footer.shown, footer.kept_ratio) for footer in footers)
    if kept:
        pictures = sum(footer.kept_ratio.get("pictures", 0) for footer in footers)
        found.append(
            f"KONTEXT_ASPECT_RATIO doesn't change rows whose pictures exist at another ratio, {kept}; to ask for them "
            f"again ({pictures:,} pictures, {pictures * LIST_PRICE_USD:,.2f} USD), write the ratio into the manifest"
        )
    return found


def _rows_named(found: Iterator[tuple[str, dict[str, Any]]]) -> str:
    """Return the rows of each manifest for a sentence, or nothing where no manifest has any."""
    parts = []
    for shown, rows in found:
        if rows.get("count"):
            word = "row" if rows["count"] == 1 else "rows"
            numbers = ", ".join(str(number) for number in rows["first"])
            more = rows["count"] - len(rows["first"])
            parts.append(f"{shown} {word} {numbers}" + (f" and {more:,} more" if more else ""))
    return "; ".join(parts)
