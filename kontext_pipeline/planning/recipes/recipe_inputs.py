"""The inputs of a recipe: its files and tables become one table, with a row for each picture.

A picture is written as in a manifest: a URL, an absolute path, or a path relative to the recipe's folder.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.files import AnyPath, is_local
from kontext_pipeline.planning import cells
from kontext_pipeline.planning.input_addresses import LocalFolders, how_to_allow
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.problems import FileProblems, ManifestProblems, quoted
from kontext_pipeline.planning.recipes.recipe_file import Recipe, RecipeProblems, Source, read_recipe
from kontext_pipeline.planning.sources import Manifest, find_manifests

ReadTable = Callable[[Manifest, FileProblems], pa.Table | None]
"""Returns the content of a table, or None where the table can't be read, which is a problem."""

BUILT_IN: Final = ("name", "stem", "folder")
"""Columns of every input: name of the file, the name without its extension, and the name of the file's folder."""
IMAGE, IDENTITY, SOURCE, ROW = "\0image", "\0identity", "\0source", "\0row"
"""Columns of `InputTable.rows` that no user's column is named like."""
_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
_URL: Final = r"^[A-Za-z][A-Za-z0-9+.-]+:"
_WILDCARDS: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class InputTable:
    """The inputs of a recipe in their order.

    `rows` has the picture, its identity, the index in `Recipe.inputs` and the row in the source's table (0: none),
    the `BUILT_IN` columns, and the columns that the rows of the manifest carry, `carried`.
    """

    rows: pa.Table
    carried: list[str]


class RecipeInputs:
    """Finds and reads the inputs of one recipe."""

    def __init__(
        self, manifest: Manifest, file_types: Sequence[str], read_table: ReadTable, options: ManifestOptions
    ) -> None:
        """`file_types` are the extensions of files that `read_table` reads."""
        self._allowed = LocalFolders.of(manifest.path, options)
        self._folder = manifest.path.parent
        self._file_types = [kind for kind in file_types if kind != manifest.path.suffix.lower()]
        self._read_table = read_table

    def tables(self, recipe: Recipe, found: RecipeProblems) -> InputTable | None:
        """Return the inputs, or None where some can't be found or used, which are problems."""
        parts = []
        for index, source in enumerate(recipe.inputs):
            rows = self._files(source, index, found) if source.files else self._table(source, index, found)
            if rows is None:
                continue
            for name, value in source.values.items():
                kind = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[type(value)]
                rows = rows.append_column(name, pa.repeat(pa.scalar(value, kind), len(rows)))
            counts = np.full(len(rows), index, np.int32)
            parts.append(rows.append_column(SOURCE, pa.array(counts)))
        if found:
            return None
        try:
            rows = pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            found.add(("inputs",), f"a column has another type in another source: {error}")
            return None
        if not _are_different(rows, found):
            return None
        carried = [name for name in rows.column_names if name not in {IMAGE, IDENTITY, SOURCE, ROW}]
        return InputTable(_with_built_in(rows), carried)

    def digest(self, recipe: Recipe) -> str:
        """Return a sha256 of the names of the files and the contents of the tables that the inputs are.

        Raises:
            _NotFoundError: An input can't be found.
        """
        parts: list[Any] = []
        for source in recipe.inputs:
            if source.files:
                parts.append([list(self._found_files(pattern)) for pattern in source.files])
            else:
                parts.append([[table.source, table.digest] for table in self._found_tables(source)])
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def _files(self, source: Source, index: int, found: RecipeProblems) -> pa.Table | None:
        images: dict[str, None] = {}
        for pattern in source.files or []:
            try:
                images |= dict.fromkeys(self._found_files(pattern))
            except _NotFoundError as error:
                found.add(("inputs", index, "files"), str(error))
        texts = pa.array(images, pa.string())
        return pa.table({IMAGE: texts, IDENTITY: texts, ROW: pa.repeat(pa.scalar(0, pa.int64()), len(texts))})

    def _table(self, source: Source, index: int, found: RecipeProblems) -> pa.Table | None:
        path = ("inputs", index, "table")
        parts = []
        try:
            tables = self._found_tables(source)
        except _NotFoundError as error:
            found.add(path, str(error))
            return None
        for table in tables:
            problems = ManifestProblems()
            raw = self._read_table(table, problems.of(table.shown, 0))
            try:
                problems.raise_if_any()
                if raw is not None:
                    parts.append(self._checked(raw, source, table))
            except ManifestError as error:
                for problem in error.problems:
                    found.add(path, problem)
            except (_NotFoundError, cells.UnreadableColumnError) as error:
                found.add(path, f"{table.shown}: {error}")
        try:
            return pa.concat_tables(parts, promote_options="permissive") if parts else None
        except pa.ArrowException as error:
            found.add(path, f"a column has different types in these tables: {error}")
            return None

    def _checked(self, raw: pa.Table, source: Source, table: Manifest) -> pa.Table:
        """Return the columns of a table that the source names."""
        names = raw.column_names
        for name in (source.image, *filter(None, [source.id]), *source.columns):
            if names.count(name) != 1:
                there = ", ".join(quoted(column) for column in names[:20])
                hint = "; name the column of the picture with image" if name == source.image else ""
                raise _NotFoundError(f"there is no column {quoted(name)} (columns there: {there}){hint}")
        images = cells.text(raw[source.image], trim=True)
        identities = cells.ids(raw[source.id]) if source.id else None
        for column, its_name in ((images, source.image), (identities, source.id)):
            if column is not None and column.null_count:
                row = int(pc.indices_nonzero(pc.is_null(column))[0].as_py()) + 1
                raise _NotFoundError(f"row {row}, column {its_name}: is empty; every row needs a value")
        images = moved(images, table.path.parent, self._folder)
        columns = {IMAGE: images, IDENTITY: images if identities is None else identities}
        columns[ROW] = pa.array(np.arange(1, len(raw) + 1, dtype=np.int64))
        return pa.table({**columns, **{name: cells.plain(raw[name]) for name in source.columns}})

    def _found_tables(self, source: Source) -> list[Manifest]:
        problems = ManifestProblems()
        text = str(source.table)
        pattern = text if re.match(_URL, text) else self._folder / Path(text).expanduser()
        tables = find_manifests([pattern], self._file_types, problems)
        try:
            problems.raise_if_any()
        except ManifestError as error:
            raise _NotFoundError("; ".join(error.problems)) from None
        for path in (table.path for table in tables if isinstance(table.path, Path)):
            if not self._allowed.allow(str(path)):
                raise _NotFoundError(f"{path} is outside the folders of this recipe; {how_to_allow(path)}")
        return tables

    def _found_files(self, pattern: str) -> list[str]:
        """Return the pictures that a pattern names, sorted."""
        if re.match(r"^(?i:https?):", pattern):
            return [pattern]
        try:
            is_here = is_local(pattern) and isinstance(self._folder, Path)
            found = sorted(_local(pattern, self._folder) if is_here else _remote(pattern, self._folder))  # type: ignore[arg-type]
        except (OSError, ImportError, ValueError) as error:
            # A URL with an unknown protocol is a ValueError, one whose package isn't installed an ImportError.
            raise _NotFoundError(
                f"{quoted(pattern)} can't be read: {getattr(error, 'strerror', None) or error}"
            ) from None
        if not found:
            raise _NotFoundError(f"no picture is at {quoted(pattern)}")
        return found


class _NotFoundError(Exception):
    """An input can't be found or used. The text of the error says why."""


def recipe_digest(manifest: Manifest, file_types: Sequence[str], options: ManifestOptions) -> str:
    """Return the digest of what a recipe expands to, as far as listing its inputs can tell.

    The digest covers the recipe, the names of the files that it finds and the contents of its tables. Changed pictures
    are noticed by their size and modification time, as those of every manifest are. A recipe with problems has the
    digest of its own content.
    """
    problems = ManifestProblems()
    try:
        read = read_recipe(manifest, problems.of(manifest.shown, manifest.order))
        if read is None:
            return manifest.digest
        listed = RecipeInputs(manifest, file_types, lambda *_: None, options).digest(read[0])
    except (_NotFoundError, OSError):
        return manifest.digest
    return hashlib.sha256(f"{manifest.digest}\n{listed}".encode()).hexdigest()


def moved(images: pa.ChunkedArray, old: AnyPath, new: AnyPath) -> pa.ChunkedArray:
    """Return a column of pictures as a table in the folder `new` names them, whose relative paths are relative to `old`."""
    if str(old) == str(new):
        return images
    flat = images.combine_chunks()
    is_relative = pc.fill_null(pc.invert(pc.match_substring_regex(flat, rf"{_URL}|^[/\\~]")), False)
    texts = flat.filter(is_relative).to_pylist()
    if isinstance(old, Path) and isinstance(new, Path):
        try:
            start = os.path.relpath(old, new)
        except ValueError:  # Windows: another drive.
            start = str(old)
        written = [Path(os.path.normpath(f"{start}/{text}")).as_posix() for text in texts]
    else:
        written = [f"{str(old).rstrip('/')}/{text}" for text in texts]
    return pa.chunked_array([pc.replace_with_mask(flat, is_relative, pa.array(written, pa.string()))])


def _local(pattern: str, folder: Path) -> Iterator[str]:
    text = os.path.expanduser(pattern)  # noqa: PTH111  Path would drop a trailing slash and ./ of a glob.
    if "://" in text:
        text = text.split("://", 1)[1]
    path = folder / text
    if path.is_file():
        yield Path(text).as_posix()
    elif path.is_dir():
        for entry in os.scandir(path):
            if entry.name.lower().endswith(_PICTURES) and not entry.name.startswith(".") and entry.is_file():
                yield (Path(text) / entry.name).as_posix()
    else:
        # Not Path.glob: it takes no absolute pattern, and no "..".
        for match in glob.glob(text, root_dir=folder, recursive=True):  # noqa: PTH207
            if os.path.isfile(folder / match):  # noqa: PTH113  Quicker, and there may be a million files.
                yield Path(match).as_posix()


def _remote(pattern: str, folder: AnyPath) -> Iterator[str]:
    from upath import UPath

    is_relative = "://" not in pattern
    path: Any = folder / pattern if is_relative else UPath(pattern)
    names: list[str]
    if path.is_file():
        names = [path.path]
    elif path.is_dir():
        names = [name for name in path.fs.ls(path.path, detail=False) if name.lower().endswith(_PICTURES)]
    else:
        names = path.fs.glob(path.path)
    start = str(getattr(folder, "path", folder)).rstrip("/") + "/"
    for name in names:
        yield name.removeprefix(start) if is_relative else path.fs.unstrip_protocol(name)


def _are_different(rows: pa.Table, found: RecipeProblems) -> bool:
    """Check that no two inputs have the same identity."""
    identities = rows[IDENTITY]
    if len(pc.unique(identities)) == len(identities):
        return True
    counts = pc.value_counts(identities)
    repeated = counts.field(0).filter(pc.greater(counts.field(1), 1))
    first: dict[str, tuple[int, int]] = {}
    which = rows.filter(pc.is_in(identities, value_set=repeated)).select([IDENTITY, SOURCE, ROW])
    for row in which.slice(0, 1000).to_pylist():
        source, number = row[SOURCE], row[ROW]
        before = first.setdefault(row[IDENTITY], (source, number))
        if before != (source, number):
            place = f"line {found.lines.of(('inputs', before[0]))}" + (f", row {before[1]}" if before[1] else "")
            here = f"row {number}: " if number else ""
            text = f"{here}{quoted(row[IDENTITY])} is an input already ({place}); name each input once"
            hint = ", or tell rows with the same picture apart by a column: id = NAME" if number else ""
            found.add(("inputs", source), text + hint)
    return False


def _with_built_in(rows: pa.Table) -> pa.Table:
    """Return the table with the `BUILT_IN` columns that it doesn't have."""
    paths = cells.each_chunk(
        lambda chunk: pc.replace_substring_regex(
            pc.if_else(pc.starts_with(chunk, "data:"), "", chunk), r"^([A-Za-z][A-Za-z0-9+.-]+://[^?#]*)[?#].*$", r"\1"
        ),
        rows[IMAGE],
    )
    patterns = {
        "name": (r"^.*/", ""),
        "stem": (r"^(?:.*/)?([^/]+?)(?:\.[^./]*)?$", r"\1"),
        "folder": (r"^(?:.*/)?([^/]*)/[^/]*$|^[^/]*$", r"\1"),
    }
    for name, (pattern, replacement) in patterns.items():
        if name not in rows.column_names:
            rows = rows.append_column(name, pc.replace_substring_regex(paths, pattern, replacement))
    return rows
