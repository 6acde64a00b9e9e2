"""Reading manifests that are used together. This is where other rooms enter.

Rows are counted from 1, without the header and blank lines of a file of text. A manifest's own columns are carried
along: as text from CSV and TSV, with their types from JSON Lines and Parquet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat

import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.files import AnyPath
from kontext_pipeline.planning.column_names import add_unused
from kontext_pipeline.planning.input_files import InputFile
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.problems import ManifestProblems, location, quoted
from kontext_pipeline.planning.rows import ManifestRows, check_rows
from kontext_pipeline.planning.sources import Manifest, find_manifests
from kontext_pipeline.planning.tables import READERS


def read_manifests(patterns: Sequence["str | AnyPath"], options: ManifestOptions | None = None) -> list[Manifest]:
    """Return the manifests that `patterns` name: paths, globs (also with `**`) or fsspec URLs, in their order.

    `make_plan` checks the contents, because it needn't read files that it knows. They are only checked here if a
    file can't be found or used, to report all problems together.

    Raises:
        ManifestError: A file is missing, has an unknown type, or the same name as another one.
    """
    problems = ManifestProblems()
    manifests = find_manifests(patterns, tuple(READERS), problems)
    if problems:
        read_rows(manifests, {}, options, problems)
    return [_with_whole_digest(manifest, options or ManifestOptions()) for manifest in manifests]


def _with_whole_digest(manifest: Manifest, options: ManifestOptions) -> Manifest:
    """Return a manifest with the digest of all that its rows follow from: those of a recipe, also from what it finds."""
    if not manifest.is_recipe:
        return manifest
    from kontext_pipeline.planning.recipes.recipe_inputs import recipe_digest

    return replace(manifest, digest=recipe_digest(manifest, tuple(READERS), options))


def read_rows(
    manifests: Sequence[Manifest],
    known: Mapping[str, InputFile],
    options: ManifestOptions | None = None,
    problems: ManifestProblems | None = None,
) -> list[ManifestRows]:
    """Read and check manifests that are used together. Each gets the own columns of all.

    `known` are local input pictures that are known already, by path; `problems` were found before.

    Raises:
        ManifestError: There are problems.
    """
    problems = problems or ManifestProblems()
    options = options or ManifestOptions()
    files = [problems.of(manifest.shown, manifest.order) for manifest in manifests]
    checked = [check_rows(*one, options) for one in zip(manifests, repeat(known), files)]
    found = [rows for rows in checked if rows is not None]
    tables = [file for manifest, file in zip(manifests, files, strict=True) if not manifest.is_recipe]
    # A file that can't be read may have any column.
    if tables and all(file.names for file in tables):
        add_unused(options.columns, tables, problems.of("column mapping (--column, KONTEXT_COLUMNS)", -1))
    if found:
        _check_ids(found, problems)
        _unify_own_columns(found, problems)
    problems.raise_if_any()
    return found


def _check_ids(found: Sequence[ManifestRows], problems: ManifestProblems) -> None:
    """Check that each id is given once in all manifests."""
    given = pa.chunked_array([chunk for rows in found for chunk in rows.table["id"].chunks], pa.string()).drop_null()
    if len(pc.unique(given)) == len(given):
        return
    counts = pc.value_counts(given)
    repeated = counts.field(0).filter(pc.greater(counts.field(1), 1))
    first: dict[str, str] = {}
    for rows in found:
        manifest, ids = rows.manifest, rows.table["id"]
        for index in pc.indices_nonzero(pc.is_in(ids, value_set=repeated)).to_pylist():
            row_id, number = ids[index].as_py(), int(rows.numbers[index])
            here = location(manifest.shown, number)
            before = first.setdefault(row_id, here)
            if before != here:
                text = f"{quoted(row_id)} is the id of {before} already; an id may be given once"
                problems.of(manifest.shown, manifest.order).add(text, row=number, column="id")


def _unify_own_columns(found: Sequence[ManifestRows], problems: ManifestProblems) -> None:
    """Give every manifest the own columns of all, in the order of their first appearance."""
    types: dict[str, pa.DataType] = {}
    origin: dict[str, str] = {}
    for rows in found:
        shown = rows.manifest.shown
        for name in rows.own_names:
            kind = rows.table[name].type
            both = _common_type(types.get(name, pa.null()), kind)
            if both is None:
                text = (
                    f"holds {kind}, and {types[name]} in {origin[name]}; manifests that are used together "
                    "need the same type in a column of the same name (a CSV holds string)"
                )
                problems.of(shown, rows.manifest.order).add(text, column=name)
                continue
            if name not in types or both != types[name]:
                origin[name] = shown
            types[name] = both
    if problems:
        return
    for rows in found:
        table = rows.table.drop_columns(rows.own_names)
        for name, kind in types.items():
            own = rows.table[name].cast(kind) if name in rows.own_names else pa.nulls(len(rows.numbers), kind)
            table = table.append_column(name, own)
        rows.table = table
        rows.own_names = list(types)


def _common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both without a change, or None if there is none."""
    families = (
        pa.types.is_signed_integer,
        pa.types.is_unsigned_integer,
        pa.types.is_floating,
        lambda kind: kind in (pa.string(), pa.large_string()),
        pa.types.is_struct,
    )
    if (
        left == right
        or pa.types.is_null(left)
        or pa.types.is_null(right)
        or any(f(left) and f(right) for f in families)
    ):
        both = [pa.schema([("", left)]), pa.schema([("", right)])]
        try:
            return pa.unify_schemas(both, promote_options="permissive").field(0).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return None
    return None
