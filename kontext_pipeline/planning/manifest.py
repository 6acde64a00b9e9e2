"""Manifests: the user's tables, found, read and checked; every fault in them told at once.

A manifest is CSV or Parquet. Rows are counted from 1, without the header (and without the blank lines) of a
CSV. What isn't ours, a manifest's own columns, goes through as it came: a CSV's as text, a Parquet's with
its types.
"""

import codecs
import difflib
import glob
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from kontext_pipeline.planning import cells
from kontext_pipeline.planning.pictures import NotAPictureError, Picture, check_data_uri, look_at
from kontext_pipeline.planning.problems import ManifestProblems, place, quoted
from kontext_pipeline.segmind.model import (
    ASPECT_RATIOS,
    DEFAULT_ASPECT_RATIO,
    DEFAULT_OUTPUT_FORMAT,
    DEFAULT_SAFETY_TOLERANCE,
    OUTPUT_FORMATS,
    SAFETY_TOLERANCES,
    SEEDS,
)

if TYPE_CHECKING:
    from upath import UPath

REQUEST_COLUMNS: Final = (
    "prompt",
    "input_image",
    "aspect_ratio",
    "output_format",
    "safety_tolerance",
    "seed",
    "variants",
    "id",
)
"""The columns of a manifest that mean something here; every other one is its own."""
VARIANTS: Final = range(1, 1001)
"""How many pictures one row may ask for. A larger number is more likely a slip than a wish."""
TAKEN_NAMES: Final = frozenset(
    {
        *("manifest", "row", "batch", "variant", "safety_tolerance_asked", "input_path", "input_sha256"),
        *("fingerprint", "status", "status_code", "error", "attempts", "cost_usd", "cost_estimated"),
        *("possibly_charged_usd", "latency_s", "request_id", "image_path", "image_sha256", "width", "height"),
        *("bytes", "backend", "run_id", "started_at", "finished_at"),
    }
)
"""Columns that the metadata table adds; a manifest's own columns need other names."""
_LONGEST_NAME: Final = 64
_BLOCK_BYTES: Final = 2**20
_LARGEST_BLOCK_BYTES: Final = 2**30
_TYPES: Final = (".csv", ".parquet")
_FORMAT_SPELLINGS: Final = {**{name: name for name in OUTPUT_FORMATS}, "jpeg": "jpg"}
_RATIO_SPELLINGS: Final = {name: name for name in ASPECT_RATIOS}
_WEB_URL: Final = r"^(?i:https?)://[^\s/?#\x00-\x1f\x7f]+[^\s\x00-\x1f\x7f]*$"
_SCHEME: Final = r"^[A-Za-z][A-Za-z0-9+.-]+:"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest file that was found; its content is read by `read_rows`.

    `name` (`[a-z0-9_-]`, at most 64 long) is the beginning of its batches' keys; `shown` is its path as the
    user gave it; `digest` is the sha256 of its bytes and `size` their number.
    """

    name: str
    path: "Path | UPath"
    shown: str
    digest: str
    size: int
    mtime_ns: int | None = None
    """When a local file was changed last; a remote one says nothing that can be relied on."""

    def changed_since_found(self) -> bool:
        """Say whether a local file isn't any more what it was when it was found."""
        if not isinstance(self.path, Path):
            return False
        now = self.path.stat()
        return (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns)

    @property
    def source(self) -> str:
        """The absolute path or URL."""
        return str(self.path)


@dataclass(slots=True)
class ManifestRows:
    """What a manifest says, checked: all columns are as long as there are rows.

    `order` is the manifest's place among those given, `numbers` are the row numbers. `table` has `id`,
    `prompt`, `input_image`, `input_path` (strings; null: not given, or no local file), `aspect_ratio`,
    `output_format` (string), `safety_tolerance` (int32), `seed` (int64, null: not given) and `variants`
    (int32), and the manifest's own columns, `own_names`. `pictures` are the local input pictures by path.
    `notes` are what the user may want to know.
    """

    manifest: Manifest
    order: int
    numbers: npt.NDArray[np.int64]
    table: pa.Table
    own_names: list[str]
    pictures: dict[str, Picture] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def manifest_name(stem: str) -> str:
    """Return the name of a manifest whose file name without its extension is `stem`.

    Lower-case ASCII letters, digits, `_` and `-`. Where letters had to go, or the name had to be cut, a
    digest of the whole stem tells it from others.
    """
    folded = unicodedata.normalize("NFKD", stem.casefold())
    ascii_only = folded.encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9_-]+", "-", ascii_only).strip("-")
    lost = any(ord(letter) > 127 and letter.isalnum() for letter in folded)
    if lost or not name or len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        name = f"{(name or 'manifest')[: _LONGEST_NAME - 9]}-{digest}"
    return name


def read_manifests(patterns: Sequence["str | Path | UPath"]) -> list[Manifest]:
    """Find the manifests that `patterns` name: paths, globs (`**` too) or fsspec URLs, in their order.

    Raises `ManifestError` when a file is missing, of no known type, or named like another one; it then reads
    the contents of the others as well, to tell their faults together. When every file is there, the contents
    are left to `make_plan`, which needs not read what it knows already, or to `check_manifests`.
    """
    faults = ManifestProblems()
    manifests: list[Manifest] = []
    orders: list[int] = []
    by_source: dict[str, Manifest] = {}
    by_name: dict[str, Manifest] = {}
    if not patterns:
        faults.add("manifests", "none is given; name a CSV or Parquet file, or a glob of them", order=0)
    for order, path, shown in _paths(patterns, faults):
        if str(path) in by_source:
            continue
        if path.suffix.lower() not in _TYPES:
            faults.add(
                shown, f"unknown file type {quoted(path.suffix)}; allowed: .csv, .parquet", order=order
            )
            continue
        name = manifest_name(path.stem)
        if name in by_name:
            twin = by_name[name].shown
            text = f"has the same name ({name}) as {twin}; batches are named by it, so rename one of them"
            faults.add(shown, text, order=order)
            continue
        try:
            mtime_ns = path.stat().st_mtime_ns if isinstance(path, Path) else None
            digest, size = _digest(path)
        except OSError as error:
            faults.add(shown, f"can't be read: {error.strerror or error}", order=order)
            continue
        manifest = Manifest(name, path, shown, digest, size, mtime_ns)
        manifests.append(manifest)
        orders.append(order)
        by_source[str(path)] = by_name[name] = manifest
    if faults:
        read_rows(manifests, {}, faults, orders)
    faults.raise_if_any()
    return manifests


def check_manifests(manifests: Sequence[Manifest]) -> None:
    """Read and check the contents; raise `ManifestError` with all faults that they have."""
    read_rows(manifests, {})


def read_rows(
    manifests: Sequence[Manifest],
    known: Mapping[str, Picture],
    faults: ManifestProblems | None = None,
    orders: Sequence[int] | None = None,
) -> list[ManifestRows]:
    """Read and check the contents of manifests that are used together.

    Their own columns are unified: each gets all of them. `known` are local pictures by path that were looked
    at before. Raises `ManifestError` with all faults, together with those already in `faults`, by `orders`:
    the places at which the manifests were given.
    """
    faults = faults or ManifestProblems()
    found: dict[int, ManifestRows] = {}
    for index, manifest in enumerate(manifests):
        rows = _Reader(manifest, orders[index] if orders else index, faults).read(known)
        if rows is not None:
            found[index] = rows
    if found:
        _check_ids(list(found.values()), faults)
        _unify(list(found.values()), faults)
    faults.raise_if_any()
    return list(found.values())


def give_back_memory() -> None:
    """Return what Arrow keeps for later to the system: whatever follows needs it for other things."""
    pa.default_memory_pool().release_unused()


def _paths(
    patterns: Sequence["str | Path | UPath"], faults: ManifestProblems
) -> Iterator[tuple[int, "Path | UPath", str]]:
    for order, pattern in enumerate(patterns):
        shown = str(pattern)
        try:
            path, pieces = _opened(pattern)
            is_local = isinstance(path, Path)
            if path.is_file():
                yield order, path, shown
                continue
            if path.is_dir():
                text = f"is a folder; name its files, as in {shown.rstrip('/')}/*.csv"
                faults.add(shown, text, order=order)
                continue
            if not any(sign in pieces for sign in "*?["):
                faults.add(shown, "there is no such file", order=order)
                continue
            matches = sorted(_local_glob(pieces) if is_local else _remote_glob(path), key=str)
        except (OSError, ImportError, ValueError) as error:
            # A URL can be of an unknown protocol, or of one whose package isn't installed.
            faults.add(shown, f"can't be read: {getattr(error, 'strerror', None) or error}", order=order)
            continue
        if not matches:
            faults.add(shown, "no file matches this glob", order=order)
        for match in matches:
            yield order, (_absolute(match) if isinstance(match, Path) else match), str(match)


def _opened(pattern: "str | Path | UPath") -> tuple["Path | UPath", str]:
    """Return the path of a pattern, local ones absolute, and what may have wildcards in it."""
    shown = str(pattern)
    if "://" not in shown:
        local = Path(shown).expanduser()
        return _absolute(local), str(local)
    from upath import UPath

    path = UPath(pattern)
    if path.protocol in {"file", "local"}:
        return Path(path.path), path.path
    return path, shown.split("://", 1)[1]


def _absolute(path: Path) -> Path:
    """Return a path as it is told from others: absolute and without `..`, links as they are."""
    return Path(os.path.normpath(path.absolute()))


def _local_glob(pattern: str) -> list["Path | UPath"]:
    # Path.glob takes no absolute pattern.
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207
    return [Path(match) for match in found if Path(match).is_file()]


def _remote_glob(pattern: Any) -> list["Path | UPath"]:
    start = f"{pattern.protocol}://"
    found = pattern.fs.glob(pattern.path)
    kind = type(pattern)
    return [kind(start + str(match).removeprefix(start), **pattern.storage_options) for match in found]


def _digest(path: "Path | UPath") -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        return digest.hexdigest(), file.tell()


class _Reader:
    """Reads one manifest into columns; what is wrong goes to the faults."""

    def __init__(self, manifest: Manifest, order: int, faults: ManifestProblems) -> None:
        self._manifest = manifest
        self._order = order
        self._faults = faults
        self._notes: list[str] = []
        self._numbers: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._ragged = 0

    def read(self, known: Mapping[str, Picture]) -> ManifestRows | None:
        """Return the rows, or None when the file is no table of prompts at all."""
        is_csv = self._manifest.path.suffix.lower() == ".csv"
        try:
            table = self._csv() if is_csv else self._parquet()
        except OSError as error:
            self._fault(f"can't be read: {error.strerror or error}")
            return None
        if table is not None:
            table = self._with_checked_names(table)
        if table is None:
            return None
        give_back_memory()
        table = self._without_empty_rows(table)
        if table.num_rows == 0:
            if not self._ragged:
                self._fault("has no rows")
            return None
        own_names = [name for name in table.column_names if name not in REQUEST_COLUMNS]
        columns = self._columns(table)
        columns["input_path"], pictures = self._images(columns["input_image"], known)
        columns |= {name: cells.plain(table[name]) for name in own_names}
        return ManifestRows(
            self._manifest, self._order, self._numbers, pa.table(columns), own_names, pictures, self._notes
        )

    def _fault(self, text: str, *, row: int = 0, column: str = "") -> None:
        self._faults.add(self._manifest.shown, text, order=self._order, row=row, column=column)

    def _fault_where(self, mask: Any, column: str, text: Callable[[int], str]) -> None:
        """Add a fault to each row where the boolean column `mask` is true."""
        indices = _indices(mask)
        if len(indices):
            self._faults.add_rows(
                self._manifest.shown,
                order=self._order,
                rows=self._numbers,
                indices=indices,
                column=column,
                text=text,
            )

    # ---- files into tables of raw columns

    def _csv(self) -> pa.Table | None:
        block = _BLOCK_BYTES
        while True:
            ragged: list[pa_csv.InvalidRow] = []
            try:
                table = self._parsed_csv(block, ragged)
                break
            except UnicodeDecodeError:
                self._fault_undecodable()
                return None
            except pa.ArrowInvalid as error:
                if "straddling object" in str(error) and block < _LARGEST_BLOCK_BYTES:
                    block *= 8
                    continue
                if "invalid UTF8" in str(error):
                    self._fault_undecodable()
                elif "Empty CSV file" in str(error):
                    self._fault("is empty; its first line must name the columns, prompt among them")
                else:
                    self._fault(f"can't be read as CSV: {error}")
                return None
        if table is not None:
            bad = np.array([row.number - 1 for row in ragged], np.int64)
            self._ragged = len(bad)
            everything = np.arange(1, table.num_rows + len(bad) + 1, dtype=np.int64)
            self._numbers = np.delete(everything, bad - 1)
            self._faults.add_rows(
                self._manifest.shown,
                order=self._order,
                rows=bad,
                indices=np.arange(len(bad)),
                column="",
                text=lambda index: _uneven(ragged[index]),
            )
            if self._ends_in_a_quote(table):
                self._fault(_NEVER_CLOSED, row=int(self._numbers[-1]))
        return table

    def _ends_in_a_quote(self, table: pa.Table) -> bool:
        """Say whether an unclosed quote has made the rest of the file into the last cell."""
        last = table.columns[-1][-1].as_py() if table.num_rows else ""
        if "\n" not in last and "\r" not in last:
            return False
        # A cell with a line break is quoted; if it is the last one, its closing quote ends the file.
        with self._manifest.path.open("rb") as file:
            file.seek(max(0, self._manifest.size - _BLOCK_BYTES))
            return not file.read().rstrip().endswith(b'"')

    def _parsed_csv(self, block: int, ragged: list[pa_csv.InvalidRow]) -> pa.Table | None:
        def open_csv(types: dict[str, pa.DataType], on_ragged: Callable[[Any], str]) -> Any:
            path = self._manifest.path
            return pa_csv.open_csv(
                str(path) if isinstance(path, Path) else io.BytesIO(path.read_bytes()),
                # One thread: rows have numbers only when they are read in order.
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=block),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_ragged),
                convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
            )

        def keep(row: pa_csv.InvalidRow) -> str:
            ragged.append(row)
            return "skip"

        with open_csv({}, lambda _: "skip") as reader:
            names = reader.schema.names
        if self._has_duplicates([name.strip() for name in names]):
            return None
        with open_csv(dict.fromkeys(names, pa.string()), keep) as reader:
            return reader.read_all()

    def _fault_undecodable(self) -> None:
        """Say where the first bytes are that aren't UTF-8."""
        with self._manifest.path.open("rb") as file:
            content = file.read()
        try:
            content.decode()
        except UnicodeDecodeError as error:
            start = error.start
        else:
            self._fault("isn't UTF-8 text")
            return
        row, column = _csv_place(content[:start].removeprefix(codecs.BOM_UTF8))
        text = (
            f"byte {start:,} of the file (0x{content[start]:02x}) isn't UTF-8; save the file as "
            "CSV in UTF-8 encoding"
        )
        self._fault(text, row=row, column=f"number {column}")

    def _parquet(self) -> pa.Table | None:
        path = self._manifest.path
        try:
            source = str(path) if isinstance(path, Path) else io.BytesIO(path.read_bytes())
            with pq.ParquetFile(source) as file:
                if self._has_duplicates(file.schema_arrow.names):
                    return None
                table = file.read()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            self._fault(f"can't be read as Parquet: {error}")
            return None
        self._numbers = np.arange(1, table.num_rows + 1, dtype=np.int64)
        for name in table.column_names:
            try:
                table[name].validate(full=True)
            except pa.ArrowInvalid as error:
                self._fault(f"isn't valid: {error}", column=name)
                return None
        return table

    # ---- names of columns

    def _has_duplicates(self, names: list[str]) -> bool:
        twice = sorted({name for name in names if name and names.count(name) > 1})
        for name in twice:
            self._fault(f"there are {names.count(name)} columns of this name", column=name)
        return bool(twice)

    def _with_checked_names(self, table: pa.Table) -> pa.Table | None:
        names = [name.strip() for name in table.column_names]
        nameless = [index for index, name in enumerate(names) if not name]
        for index in reversed(nameless):
            if not _is_blank(table.column(index)):
                self._note(f"column number {index + 1} has no name and is left out")
            table = table.remove_column(index)
            del names[index]
        if self._has_duplicates(names):
            return None
        table = table.rename_columns(names)
        for name in names:
            if name in REQUEST_COLUMNS:
                continue
            meant = _column_meant(name, names)
            hint = f"; did you mean {meant}?" if meant else ""
            if name in TAKEN_NAMES:
                self._fault(f"the metadata table has a column of this name; rename it{hint}", column=name)
            elif meant and meant != "prompt":
                self._note(f"column {name} is carried along and means nothing here{hint}")
        if "prompt" in names:
            return table
        likely = next((name for name in names if _column_meant(name, names) == "prompt"), None)
        hint = f"; did you mean {quoted(likely)} to be it?" if likely else ""
        if len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
            hint = "; the values seem to be separated by something else than commas"
        shown = ", ".join(quoted(name) for name in names[:20])
        self._fault(f"is missing; every manifest needs it (columns here: {shown}){hint}", column="prompt")
        return None

    def _note(self, text: str) -> None:
        self._notes.append(f"{self._manifest.shown}: {text}")

    # ---- cells

    def _without_empty_rows(self, table: pa.Table) -> pa.Table:
        """Leave out rows in which nothing is given, as spreadsheets have them at their end.

        The others keep their numbers.
        """
        try:
            prompts = cells.text(table["prompt"], trim=True)
        except cells.UnreadableColumnError:
            return table
        candidates = _indices(pc.is_null(prompts))
        if not len(candidates):
            return table
        few = table.take(pa.array(candidates))
        empty = np.ones(len(candidates), bool)
        for column in few.columns:
            empty &= _blanks(column)
        if not empty.any():
            return table
        keep = np.ones(table.num_rows, bool)
        keep[candidates[empty]] = False
        self._numbers = self._numbers[keep]
        return table.filter(pa.array(keep))

    def _columns(self, table: pa.Table) -> dict[str, pa.ChunkedArray]:
        """Return the request columns, checked but for the images; where one is at fault, something that fits."""
        nothing = pa.chunked_array([pa.nulls(table.num_rows, pa.string())])

        def given(name: str) -> pa.ChunkedArray:
            return table[name] if name in table.column_names else nothing

        def attempt(name: str, read: Callable[[pa.ChunkedArray], _T], otherwise: _T) -> _T:
            try:
                return read(given(name))
            except cells.UnreadableColumnError as error:
                self._fault(str(error), column=name)
                return otherwise

        def chosen(name: str, spellings: Mapping[str, str], default: str) -> pa.ChunkedArray:
            values, bad = attempt(name, lambda c: cells.choices(c, spellings), (nothing, _never(nothing)))
            allowed = ", ".join(dict.fromkeys(spellings.values()))
            self._fault_where(bad, name, _not_allowed(given(name), allowed))
            return pc.fill_null(values, default)

        def numbered(name: str, allowed: range) -> pa.ChunkedArray:
            empty = nothing.cast(pa.int64())
            values, bad = attempt(name, lambda c: cells.whole_numbers(c, allowed), (empty, _never(nothing)))
            text = f"whole numbers from {allowed.start} to {allowed.stop - 1}"
            self._fault_where(bad, name, _not_allowed(given(name), text))
            return pc.if_else(bad, pa.scalar(None, pa.int64()), values)

        prompts = attempt("prompt", lambda c: cells.text(c, trim=False), None)
        if prompts is None:
            prompts = pc.fill_null(nothing, "?")
        self._fault_where(pc.is_null(prompts), "prompt", lambda _: "is empty; every row needs a prompt")
        self._fault_where(_matches(prompts, "\0"), "prompt", lambda _: "holds a NUL character; remove it")
        ids = attempt("id", cells.names, nothing)
        self._fault_where(_matches(ids, _CONTROL), "id", lambda _: "holds a control character; remove it")
        images = attempt("input_image", lambda c: cells.text(c, trim=True), nothing)
        tolerances = pc.fill_null(numbered("safety_tolerance", SAFETY_TOLERANCES), DEFAULT_SAFETY_TOLERANCE)
        variants = pc.fill_null(numbered("variants", VARIANTS), 1)
        return {
            "id": ids,
            "prompt": prompts,
            "input_image": images,
            "aspect_ratio": chosen("aspect_ratio", _RATIO_SPELLINGS, DEFAULT_ASPECT_RATIO),
            "output_format": chosen("output_format", _FORMAT_SPELLINGS, DEFAULT_OUTPUT_FORMAT),
            "safety_tolerance": tolerances.cast(pa.int32()),
            "seed": numbered("seed", SEEDS),
            "variants": variants.cast(pa.int32()),
        }

    def _images(
        self, images: pa.ChunkedArray, known: Mapping[str, Picture]
    ) -> tuple[pa.ChunkedArray, dict[str, Picture]]:
        """Check the input images; return the absolute path of each local one, else null, and the pictures."""
        nowhere = pa.chunked_array([pa.nulls(len(images), pa.string())])
        if images.null_count == len(images):
            return nowhere, {}
        is_web = _matches(images, _WEB_URL)
        is_data = _matches(images, "^(?i:data):")
        other = pc.and_not(_matches(images, _SCHEME), pc.or_(is_web, is_data))
        self._fault_where(
            other,
            "input_image",
            lambda index: (
                f"{quoted(images[index].as_py())} is not allowed; allowed: a whole http:// or https:// URL "
                "without spaces, a data:image/...;base64, URI, or the path of a file, relative to the "
                "manifest's folder"
            ),
        )
        problems: dict[int, str] = {}
        for index in _indices(is_data).tolist():
            try:
                check_data_uri(images[index].as_py())
            except NotAPictureError as error:
                problems[index] = str(error)
        self._fault_where(_at(problems, len(images)), "input_image", lambda index: problems[index])

        is_local = pc.and_not(pc.is_valid(images), pc.or_(pc.or_(is_web, is_data), other))
        if not pc.any(is_local).as_py():
            return nowhere, {}
        given = pc.unique(images.filter(is_local))
        pictures: dict[str, Picture] = {}
        paths: list[str | None] = []
        reasons: list[str | None] = []
        for value in given.to_pylist():
            try:
                picture = look_at(self._absolute(value), known)
            except NotAPictureError as error:
                reasons.append(str(error))
                paths.append(None)
            else:
                pictures[picture.path] = picture
                reasons.append(None)
                paths.append(picture.path)
        index_of = pc.if_else(is_local, pc.index_in(images, value_set=given), pa.scalar(None, pa.int32()))
        index_of = index_of.combine_chunks()
        why = pa.array(reasons, pa.string()).take(index_of)
        self._fault_where(
            pc.is_valid(why),
            "input_image",
            lambda index: f"{quoted(images[index].as_py())}: {why[index].as_py()}",
        )
        return pa.chunked_array([pa.array(paths, pa.string()).take(index_of)]), pictures

    def _absolute(self, value: str) -> Path:
        """Return a local picture's path, seen from the manifest's folder."""
        if isinstance(self._manifest.path, Path):
            return _absolute(self._manifest.path.parent / value)
        if not Path(value).is_absolute():
            raise NotAPictureError("a manifest at a URL can name a local file by its absolute path only")
        return _absolute(Path(value))


_T = TypeVar("_T")
_NEVER_CLOSED: Final = "a double quote opens here and is never closed"
_CONTROL: Final = r"[\x00-\x1f\x7f]"


def _check_ids(found: Sequence[ManifestRows], faults: ManifestProblems) -> None:
    """Every id may be given once, in all the manifests together."""
    ids = pa.chunked_array([chunk for rows in found for chunk in rows.table["id"].chunks], pa.string())
    ids_given = ids.drop_null()
    if len(pc.unique(ids_given)) == len(ids_given):
        return
    counts = pc.value_counts(ids_given)
    repeated = counts.field(0).filter(pc.greater(counts.field(1), 1))
    starts = np.cumsum([0, *(len(rows.numbers) for rows in found)])
    first: dict[str, str] = {}
    for index in _indices(pc.is_in(ids, value_set=repeated)).tolist():
        which = int(np.searchsorted(starts, index, side="right")) - 1
        rows = found[which]
        number = int(rows.numbers[index - starts[which]])
        row_id = ids[index].as_py()
        here = place(rows.manifest.shown, number)
        before = first.setdefault(row_id, here)
        if before != here:
            text = f"{quoted(row_id)} is the id of {before} already; an id may be given once"
            faults.add(rows.manifest.shown, text, order=rows.order, row=number, column="id")


def _unify(found: Sequence[ManifestRows], faults: ManifestProblems) -> None:
    """Give every manifest the own columns of all, in the order in which they come up."""
    types: dict[str, pa.DataType] = {}
    origin: dict[str, str] = {}
    for rows in found:
        for name in rows.own_names:
            kind = rows.table[name].type
            both = _common_type(types.get(name, pa.null()), kind)
            if both is None:
                text = (
                    f"holds {kind}, and {types[name]} in {origin[name]}; manifests that are used together "
                    "need the same type in a column of the same name (a CSV holds string)"
                )
                faults.add(rows.manifest.shown, text, order=rows.order, column=name)
                continue
            if name not in types or both != types[name]:
                origin[name] = rows.manifest.shown
            types[name] = both
    if faults:
        return
    for rows in found:
        columns = {name: rows.table[name] for name in rows.table.column_names if name not in rows.own_names}
        for name, kind in types.items():
            has_it = name in rows.own_names
            columns[name] = (
                rows.table[name].cast(kind)
                if has_it
                else pa.chunked_array([pa.nulls(len(rows.numbers), kind)])
            )
        rows.table = pa.table(columns)
        rows.own_names = list(types)


def _common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Return the type that holds both without changing a value; None if there is none."""
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    texts = (pa.types.is_string, pa.types.is_large_string)
    if any(is_text(left) for is_text in texts) and any(is_text(right) for is_text in texts):
        return pa.large_string()
    families = (pa.types.is_signed_integer, pa.types.is_unsigned_integer, pa.types.is_floating)
    if any(family(left) and family(right) for family in families):
        return max(left, right, key=lambda kind: kind.bit_width)
    return None


def _uneven(row: pa_csv.InvalidRow) -> str:
    has = f"has {row.actual_columns} values where the header has {row.expected_columns} columns; "
    if row.text.count('"') % 2:
        return has + _NEVER_CLOSED
    return has + "a value with a comma or a line break in it must be in double quotes"


def _csv_place(before: bytes) -> tuple[int, int]:
    """Return the data row (0: the header) and the column number of the byte that comes after `before`."""
    row, record, quotes = 0, b"", 0
    for line in before.splitlines(keepends=True):
        record += line
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith((b"\n", b"\r")):
            row += bool(record.strip())
            record, quotes = b"", 0
    return row, 1 + sum(part.count(b",") for part in record.split(b'"')[::2])


def _column_meant(name: str, present: Sequence[str]) -> str | None:
    """Return the request column that `name` looks like, if the manifest doesn't have it anyway."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    missing = [column for column in REQUEST_COLUMNS if column not in present]
    squeezed = {column.replace("_", ""): column for column in missing}
    close = difflib.get_close_matches(plain.replace("_", ""), list(squeezed), n=1, cutoff=0.8)
    likely = squeezed[close[0]] if close else None
    # Two letters are like too many words.
    return likely if likely != "id" or plain == "id" else None


def _not_allowed(values: pa.ChunkedArray, allowed: str) -> Callable[[int], str]:
    return lambda index: f"{quoted(values[index].as_py())} is not allowed; allowed: {allowed}"


def _matches(column: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring_regex(column, pattern), False)


def _never(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_valid(column)


def _indices(mask: Any) -> npt.NDArray[np.int64]:
    return np.asarray(pc.indices_nonzero(mask)).astype(np.int64)


def _at(indices: Mapping[int, object], length: int) -> pa.Array:
    mask = np.zeros(length, bool)
    mask[list(indices)] = True
    return pa.array(mask)


def _blanks(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Say where nothing is given: null, NaN or blank text."""
    column = cells.plain(column)
    if pa.types.is_floating(column.type):
        nothing = pc.is_null(column, nan_is_null=True)
    else:
        try:
            nothing = pc.is_null(cells.text(column, trim=True))
        except cells.UnreadableColumnError:
            nothing = pc.is_null(column)
    return np.asarray(nothing)


def _is_blank(column: pa.ChunkedArray) -> bool:
    return bool(_blanks(column).all())
