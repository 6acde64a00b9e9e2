"""The column names of a manifest: which ones are ours, the user's own, misspelled or not allowed."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from kontext_pipeline.columns import MANIFEST_COLUMNS, RESERVED_NAMES
from kontext_pipeline.planning.cells import is_blank
from kontext_pipeline.planning.problems import FileProblems, quoted

MANIFEST_NAMES: Final = tuple(column.name for column in MANIFEST_COLUMNS)
"""The names of the columns that mean something here."""


def with_checked_names(table: pa.Table, problems: FileProblems) -> pa.Table | None:
    """Return the table with trimmed column names and without nameless columns.

    Names that seem to be misspelled ones of ours become notes. Returns None where the columns can't be used:
    `prompt` is missing, or a name is there more than once.
    """
    names = [name.strip() for name in table.column_names]
    for index in reversed([index for index, name in enumerate(names) if not name]):
        if not is_blank(table.column(index)).all():
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
        if name in MANIFEST_NAMES:
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
    squeezed = {column.replace("_", ""): column for column in MANIFEST_NAMES if column not in present}
    close = difflib.get_close_matches(plain.replace("_", ""), list(squeezed), n=1, cutoff=0.8)
    likely = squeezed[close[0]] if close else None
    # Too many words resemble one of two letters.
    return likely if likely != "id" or plain == "id" else None
