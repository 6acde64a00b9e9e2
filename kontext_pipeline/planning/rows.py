"""Checking the columns and rows of one manifest: raw columns become typed columns with defaults."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.columns import MANIFEST_COLUMNS, RESERVED_NAMES
from kontext_pipeline.planning import cells
from kontext_pipeline.planning.input_files import InputFile, check_input_images
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.sources import Manifest
from kontext_pipeline.planning.tables import RawTable, read_table
from kontext_pipeline.segmind import model

_MANIFEST_NAMES: Final = tuple(column.name for column in MANIFEST_COLUMNS)
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
    means: not given (`id`, `input_image`, `seed`), or no local file (`input_source`).
    """

    manifest: Manifest
    numbers: npt.NDArray[np.int64]
    table: pa.Table
    own_names: list[str]
    input_files: dict[str, InputFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_rows(manifest: Manifest, known: Mapping[str, InputFile], problems: FileProblems) -> ManifestRows | None:
    """Read and check one manifest. Returns None if the file is not a table of prompts.

    `known` are local input pictures that are known already, by path. If there are problems, the rows are unusable, but
    can be compared with those of other manifests.
    """
    raw = read_table(manifest, problems)
    if raw is None:
        return None
    table = _with_checked_names(raw.table, problems)
    if table is None:
        return None
    release_memory()
    raw.table = table
    _drop_empty_rows(raw)
    if raw.table.num_rows == 0:
        if not raw.has_bad_rows:
            problems.add("has no rows")
        return None
    columns = _Cells(raw, problems).columns()
    columns["input_source"], files = check_input_images(columns["input_image"], raw.numbers, manifest, known, problems)
    own_names = [name for name in raw.table.column_names if name not in _MANIFEST_NAMES]
    columns |= {name: cells.plain(raw.table[name]) for name in own_names}
    return ManifestRows(manifest, raw.numbers, pa.table(columns), own_names, files, problems.notes)


def release_memory() -> None:
    """Return memory that Arrow keeps for later to the system, because the next step needs it elsewhere."""
    pa.default_memory_pool().release_unused()


def _with_checked_names(table: pa.Table, problems: FileProblems) -> pa.Table | None:
    """Return the table with trimmed column names and without nameless columns.

    Names that seem to be misspelled ones of ours become notes. Returns None where the columns can't be used:
    `prompt` is missing, or a name is there more than once.
    """
    names = [name.strip() for name in table.column_names]
    for index in reversed([index for index, name in enumerate(names) if not name]):
        if not cells.is_blank(table.column(index)).all():
            problems.note(f"column number {index + 1} has no name and is left out")
        table = table.remove_column(index)
        del names[index]
    counts = Counter(names)
    repeated = sorted(name for name in counts if counts[name] > 1)
    for name in repeated:
        problems.add(f"there are {counts[name]} columns of this name", column=name)
    if repeated:
        return None
    for name in names:
        if name in _MANIFEST_NAMES:
            continue
        meant = _likely_meant(name, names)
        hint = f"; did you mean {meant}?" if meant else ""
        if name in RESERVED_NAMES:
            problems.add(f"the metadata table has a column of this name; rename it{hint}", column=name)
        elif meant and meant != "prompt":
            problems.note(f"column {name} is carried along and means nothing here{hint}")
    if "prompt" not in names:
        _add_missing_prompt(names, problems)
        return None
    return table.rename_columns(names)


def _add_missing_prompt(names: Sequence[str], problems: FileProblems) -> None:
    likely = next((name for name in names if _likely_meant(name, names) == "prompt"), None)
    hint = f"; did you mean {quoted(likely)} to be it?" if likely else ""
    if len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
        hint = "; the values seem to be separated by something else than commas"
    shown = ", ".join(quoted(name) for name in names[:20])
    problems.add(f"is missing; every manifest needs it (columns here: {shown}){hint}", column="prompt")


def _likely_meant(name: str, present: Sequence[str]) -> str | None:
    """Return the column of ours that `name` resembles, unless the manifest has that column anyway."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    squeezed = {column.replace("_", ""): column for column in _MANIFEST_NAMES if column not in present}
    close = difflib.get_close_matches(plain.replace("_", ""), list(squeezed), n=1, cutoff=0.8)
    likely = squeezed[close[0]] if close else None
    # Too many words resemble one of two letters.
    return likely if likely != "id" or plain == "id" else None


def _drop_empty_rows(raw: RawTable) -> None:
    """Drop rows without any value, which spreadsheets have at their end. The others keep their numbers."""
    table = raw.table
    # Whole columns are slow to check; few rows have a blank prompt.
    candidates = np.flatnonzero(cells.is_blank(table["prompt"]))
    if not len(candidates):
        return
    empty = np.ones(len(candidates), bool)
    for column in table.take(pa.array(candidates)).columns:
        empty &= cells.is_blank(column)
    if empty.any():
        keep = np.ones(table.num_rows, bool)
        keep[candidates[empty]] = False
        raw.numbers = raw.numbers[keep]
        raw.table = table.filter(pa.array(keep))


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
        return {
            "id": ids,
            "prompt": prompts,
            "input_image": images,
            "aspect_ratio": self._choices("aspect_ratio", _RATIO_SPELLINGS, model.DEFAULT_ASPECT_RATIO),
            "output_format": self._choices("output_format", _FORMAT_SPELLINGS, model.DEFAULT_OUTPUT_FORMAT),
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

    def _choices(self, name: str, spellings: Mapping[str, str], default: str) -> pa.ChunkedArray:
        values, bad = self._read(name, lambda column: cells.choices(column, spellings))
        self._add_not_allowed(bad, name, ", ".join(dict.fromkeys(spellings.values())))
        return pc.fill_null(values, default)

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
