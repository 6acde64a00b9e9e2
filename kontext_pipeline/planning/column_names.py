"""Which column of a manifest is which: names of ours, names that the user maps to them, and names that resemble them."""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from kontext_pipeline.columns import MANIFEST_COLUMNS, RESERVED_NAMES
from kontext_pipeline.planning import cells
from kontext_pipeline.planning.problems import FileProblems, quoted

OURS: Final = tuple(column.name for column in MANIFEST_COLUMNS)
_USUAL_PROMPTS: Final = (
    *("edit_prompt", "edit_instruction", "instruction", "caption", "text", "description"),
    *("edit", "query", "sentence", "captions", "texts", "title"),
)
"""What other data sets call a prompt, in lower case; the likeliest first."""


def name_in_file(ours: str, names: Sequence[str], columns: Mapping[str, str]) -> str:
    """Return the name that our column has among the `names` of a file, which may have spaces around them."""
    present = {name.strip(): name for name in names}
    theirs = columns.get(ours)
    return present[theirs] if theirs in present else present.get(ours, ours)


def with_checked_names(table: pa.Table, columns: Mapping[str, str], problems: FileProblems) -> pa.Table | None:
    """Return the table with trimmed column names, our names for mapped columns, and without nameless columns.

    `columns` are our names with those of the file. Names that seem to be misspelled ones of ours become notes. Returns
    None where the columns can't be used: `prompt` is missing, or a name is there more than once.
    """
    names = [name.strip() for name in table.column_names]
    for index in reversed([index for index, name in enumerate(names) if not name]):
        if not cells.is_blank(table.column(index)).all():
            problems.note(f"column number {index + 1} has no name and is left out")
        table = table.remove_column(index)
        del names[index]
    problems.names = list(dict.fromkeys(names))
    counts = Counter(names)
    repeated = sorted(name for name in counts if counts[name] > 1)
    for name in repeated:
        problems.add(f"there are {counts[name]} columns of this name", column=name)
    if repeated:
        return None
    table = _mapped(table.rename_columns(names), columns, problems)
    if table is None:
        return None
    names = table.column_names
    for name in names:
        if name in OURS:
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
    return table


def _mapped(table: pa.Table, columns: Mapping[str, str], problems: FileProblems) -> pa.Table | None:
    """Return the table with our names for the columns that are mapped to them; one column may get several."""
    present = {ours: theirs for ours, theirs in columns.items() if theirs in table.column_names}
    # A column that keeps its name would be mistaken for the mapped one.
    taken = [ours for ours in present if ours in table.column_names and ours not in present.values()]
    for ours in taken:
        problems.add(
            f"is there beside {quoted(present[ours])}, which {_option(ours, present[ours])} names as {ours}; rename or "
            "remove one of them, or leave the option out",
            column=ours,
        )
    if taken:
        return None
    names, kept = [], []
    for name in table.column_names:
        targets = [ours for ours, theirs in present.items() if theirs == name] or [name]
        names += targets
        kept += [table[name]] * len(targets)
    problems.mapped = {ours: theirs for ours, theirs in present.items() if ours != theirs}
    return pa.table(kept, names)


def add_unused(columns: Mapping[str, str], files: Sequence[FileProblems], problems: FileProblems) -> None:
    """Add a problem for each mapped column that no manifest has."""
    present = list(dict.fromkeys(name for file in files for name in file.names))
    for ours, theirs in columns.items():
        if theirs not in present:
            close = difflib.get_close_matches(theirs, present, n=1)
            hint = f"; did you mean {_option(ours, close[0])}?" if close else ""
            problems.add(f"no manifest has a column {quoted(theirs)} (columns there: {_shown(present)}){hint}")


def _add_missing_prompt(names: Sequence[str], problems: FileProblems) -> None:
    resembling = [name for name in names if _likely_meant(name, names) == "prompt"]
    usual = [name for likely in _USUAL_PROMPTS for name in names if name.casefold() == likely]
    hint = ""
    if likely := [*resembling, *usual][:1]:
        hint = (
            f"; if {quoted(likely[0])} holds the prompts, say so with {_option('prompt', likely[0])} or KONTEXT_COLUMNS"
        )
    elif len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
        hint = "; the values seem to be separated by something else than commas (a file with tabs is named .tsv)"
    elif names:
        hint = "; name the column that holds the prompts with --column prompt=NAME or KONTEXT_COLUMNS"
    problems.add(f"is missing; every manifest needs it (columns here: {_shown(names)}){hint}", column="prompt")


def _option(ours: str, theirs: str) -> str:
    return "--column " + shlex.quote(f"{ours}={theirs}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _likely_meant(name: str, present: Sequence[str]) -> str | None:
    """Return the column of ours that `name` resembles, unless the manifest has that column anyway."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")
    squeezed = {column.replace("_", ""): column for column in OURS if column not in present}
    close = difflib.get_close_matches(plain.replace("_", ""), list(squeezed), n=1, cutoff=0.8)
    likely = squeezed[close[0]] if close else None
    # Too many words resemble one of two letters.
    return likely if likely != "id" or plain == "id" else None
