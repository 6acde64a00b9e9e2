"""Checking the columns and rows of one manifest: raw columns become typed columns with defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning import cells
from kontext_pipeline.planning.column_names import OURS, with_checked_names
from kontext_pipeline.planning.embedded_pictures import EmbeddedPictures, keep_pictures
from kontext_pipeline.planning.input_addresses import check_input_images
from kontext_pipeline.planning.input_files import InputFile
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.portable_types import portable
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.raw_table import RawTable, UnreadablePicturesError
from kontext_pipeline.planning.sources import Manifest
from kontext_pipeline.planning.tables import read_table
from kontext_pipeline.segmind import model

_VARIANTS: Final = range(1, 1001)
"""How many pictures a row may request. A larger number is probably a mistake."""
_FORMAT_SPELLINGS: Final = {**{name: name for name in model.OUTPUT_FORMATS}, "jpeg": "jpg"}
_RATIO_SPELLINGS: Final = {name: name for name in model.ASPECT_RATIOS}
_CONTROL_CHARACTER: Final = r"[\x00-\x1f\x7f]"
_T = TypeVar("_T")


@dataclass(slots=True)
class ManifestRows:
    """The checked rows of a manifest, with their row `numbers` and the local input pictures by path.

    `table` has `MANIFEST_COLUMNS` and `input_source`, with the types of the registry, and the user's own columns. Null
    means: not given (`id`, `input_image`, `seed`), or neither a local file nor another URL than `input_image`
    (`input_source`). `private_inputs` counts rows with an address of a private network; `mapped` has our names of
    columns that the file names otherwise; `without_ratio` tells which rows edit a picture and name no aspect ratio.
    """

    manifest: Manifest
    numbers: npt.NDArray[np.int64]
    table: pa.Table
    own_names: list[str]
    input_files: dict[str, InputFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    private_inputs: int = 0
    mapped: dict[str, str] = field(default_factory=dict)
    without_ratio: pa.Array | None = None


def check_rows(
    manifest: Manifest, known: Mapping[str, InputFile], problems: FileProblems, options: ManifestOptions
) -> ManifestRows | None:
    """Read and check one manifest. Returns None if the file is not a table of prompts.

    `known` are local input pictures that are known already, by path. If there are problems, the rows are unusable, but
    can be compared with those of other manifests.
    """
    raw = read_table(manifest, problems, options)
    if raw is None:
        return None
    # A recipe gives its columns our names.
    table = with_checked_names(raw.table, {} if manifest.is_recipe else options.columns, problems)
    if table is None:
        return None
    release_memory()
    raw.table = table
    try:
        pictures = _keep_pictures(raw, options, problems)
    except UnreadablePicturesError as error:
        problems.add(str(error), column="input_image")
        return None
    kept = _drop_empty_rows(raw)
    if raw.table.num_rows == 0:
        if not raw.has_bad_rows:
            problems.add("has no rows")
        return None
    cells_of_ours = _Cells(raw, problems)
    columns = cells_of_ours.columns()
    _check_count(columns["variants"], options, problems)
    images = columns["input_image"]
    sources = None
    if pictures is not None:
        sources = pictures.sources.filter(kept)
        images = pc.if_else(pc.is_valid(sources), pa.scalar(None, pa.string()), images)
    inputs = check_input_images(images, raw.numbers, manifest, known, problems, options=options)
    columns["input_source"] = inputs.sources if sources is None else pc.coalesce(sources, inputs.sources)
    own_names = [name for name in raw.table.column_names if name not in OURS]
    columns |= {name: _own_column(name, raw.table[name], problems) for name in own_names}
    return ManifestRows(
        manifest,
        raw.numbers,
        pa.table(columns),
        own_names,
        inputs.files | (pictures.files if pictures else {}),
        problems.notes,
        inputs.private,
        problems.mapped,
        pc.and_(cells_of_ours.without_ratio, pc.is_valid(columns["input_image"])).combine_chunks(),
    )


def _keep_pictures(raw: RawTable, options: ManifestOptions, problems: FileProblems) -> EmbeddedPictures | None:
    """Keep the pictures that are in the column of input images, and replace them there by addresses."""
    if raw.pictures is None:
        return None
    pictures = keep_pictures(raw.pictures(), raw.numbers, options.data_dir, problems)
    index = raw.table.column_names.index("input_image")
    raw.table = raw.table.set_column(index, "input_image", pictures.addresses)
    return pictures


def _check_count(variants: pa.ChunkedArray, options: ManifestOptions, problems: FileProblems) -> None:
    count = pc.sum(variants.cast(pa.int64())).as_py()
    if count > options.max_rows:
        problems.add(
            f"requests {count:,} pictures, and {options.max_rows:,} are allowed; split it, or raise KONTEXT_MAX_ROWS",
            column="variants",
        )


def _own_column(name: str, column: pa.ChunkedArray, problems: FileProblems) -> pa.ChunkedArray:
    try:
        column, note = portable(column)
    except cells.UnreadableColumnError as error:
        problems.add(str(error), column=name)
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    if note:
        problems.note(f"column {name} {note}")
    return column


def release_memory() -> None:
    """Return memory that Arrow keeps for later to the system, because the next step needs it elsewhere."""
    pa.default_memory_pool().release_unused()


def _drop_empty_rows(raw: RawTable) -> pa.Array:
    """Drop rows without any value, which spreadsheets have at their end. The others keep their numbers.

    Returns a mask of the rows that are kept.
    """
    table = raw.table
    # Whole columns are slow to check; few rows have a blank prompt.
    candidates = np.flatnonzero(cells.is_blank(table["prompt"]))
    keep = np.ones(table.num_rows, bool)
    if not len(candidates):
        return pa.array(keep)
    empty = np.ones(len(candidates), bool)
    for column in table.take(pa.array(candidates)).columns:
        empty &= cells.is_blank(column)
    if empty.any():
        keep[candidates[empty]] = False
        raw.numbers = raw.numbers[keep]
        raw.table = table.filter(pa.array(keep))
    return pa.array(keep)


class _Cells:
    """Checks the cells of the columns of ours. Where a cell has a problem, any allowed value replaces it."""

    def __init__(self, raw: RawTable, problems: FileProblems) -> None:
        self._table = raw.table
        self._numbers = raw.numbers
        self._problems = problems
        self._nothing = pa.chunked_array([pa.nulls(raw.table.num_rows, pa.string())])

    def columns(self) -> dict[str, pa.ChunkedArray]:
        prompts = self._read("prompt", lambda column: cells.text(column, trim=False), pc.fill_null(self._nothing, "?"))
        self._add_where(pc.is_null(prompts), "prompt", "is empty; every row needs a prompt")
        self._add_where(cells.matches(prompts, "\0"), "prompt", "holds a NUL character; remove it")
        ids = self._read("id", cells.ids)
        self._add_where(cells.matches(ids, _CONTROL_CHARACTER), "id", "holds a control character; remove it")
        images = self._read("input_image", lambda column: cells.text(column, trim=True))
        tolerances = self._whole_numbers("safety_tolerance", model.SAFETY_TOLERANCES)
        tolerances = pc.fill_null(tolerances, model.DEFAULT_SAFETY_TOLERANCE)
        ratios = self._choices("aspect_ratio", _RATIO_SPELLINGS)
        self.without_ratio = pc.is_null(ratios)
        return {
            "id": ids,
            "prompt": prompts,
            "input_image": images,
            "aspect_ratio": pc.fill_null(ratios, model.DEFAULT_ASPECT_RATIO),
            "output_format": pc.fill_null(
                self._choices("output_format", _FORMAT_SPELLINGS), model.DEFAULT_OUTPUT_FORMAT
            ),
            "safety_tolerance": tolerances.cast(pa.int32()),
            "seed": self._whole_numbers("seed", model.SEEDS),
            "variants": pc.fill_null(self._whole_numbers("variants", _VARIANTS), 1).cast(pa.int32()),
        }

    def _given(self, name: str) -> pa.ChunkedArray:
        return self._table[name] if name in self._table.column_names else self._nothing

    def _read(self, name: str, read: Callable[[pa.ChunkedArray], _T], otherwise: pa.ChunkedArray | None = None) -> _T:
        """Return what `read` makes of a column, or of `otherwise` if the column has an unsuitable type."""
        try:
            return read(self._given(name))
        except cells.UnreadableColumnError as error:
            self._problems.add(str(error), column=name)
            return read(self._nothing if otherwise is None else otherwise)

    def _choices(self, name: str, spellings: Mapping[str, str]) -> pa.ChunkedArray:
        values, bad = self._read(name, lambda column: cells.choices(column, spellings))
        self._add_not_allowed(bad, name, ", ".join(dict.fromkeys(spellings.values())))
        return values

    def _whole_numbers(self, name: str, allowed: range) -> pa.ChunkedArray:
        values, bad = self._read(name, lambda column: cells.whole_numbers(column, allowed))
        self._add_not_allowed(bad, name, f"whole numbers from {allowed.start} to {allowed.stop - 1}")
        return pc.if_else(bad, pa.scalar(None, pa.int64()), values)

    def _add_not_allowed(self, bad: pa.ChunkedArray, name: str, allowed: str) -> None:
        given = self._given(name)
        self._problems.add_where(
            bad,
            self._numbers,
            lambda index: f"{quoted(given[index].as_py())} is not allowed; allowed: {allowed}",
            name,
        )

    def _add_where(self, mask: pa.ChunkedArray, name: str, text: str) -> None:
        self._problems.add_where(mask, self._numbers, lambda _: text, name)
