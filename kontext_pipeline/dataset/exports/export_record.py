"""`export.json`: what an export is, and every file of it with its size and sha256.

A line for each file, so that a list of a million files is read and written without being held as JSON.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.files import AnyPath

RECORD: Final = "export.json"
VERSION: Final = 1
_MARK: Final = "kontext_export"
_FILES: Final = '  "files": [\n'
_END: Final = "  ]\n}\n"


class Entry(NamedTuple):
    """A file of an export.

    `path` is relative to the export, `bytes` and `sha256` are the file's. `made_from` is a digest of all that the file
    follows from, so a file with the same digest is not written again. `facts` are figures of a shard.
    """

    path: str
    bytes: int
    sha256: str
    made_from: str
    facts: dict[str, Any] | None = None


def write_record(path: Path, head: dict[str, Any], entries: Iterable[Entry]) -> None:
    """Write a record: `head` (what the export is) and its files, in their order."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{\n  "{_MARK}": {VERSION},\n')
        for name, value in head.items():
            file.write(f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)},\n")
        file.write(_FILES)
        separator = ""
        for entry in entries:
            file.write(f"{separator}    {line_of(entry)}")
            separator = ",\n"
        file.write(f"\n{_END}")


def read_record(path: AnyPath) -> tuple[dict[str, Any], list[Entry]] | None:
    """Return the head and the files of a record; None where there is none.

    Raises:
        ExportError: The file is no record of this kind.
        OSError: The file can't be read.
    """
    head: list[str] = []
    try:
        with path.open("r", encoding="utf-8") as file:
            for line in file:
                if line == _FILES:
                    break
                head.append(line)
            facts = json.loads("".join(head).rstrip().rstrip(",") + "}")
            if not isinstance(facts, dict) or facts.pop(_MARK, None) != VERSION:
                raise ValueError("it has no mark of this version")
            return facts, list(_entries(file))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{path} is no record of an export that this version of kontext has written ({error}). Choose another folder "
            "with --out, or move this one away."
        ) from None


def line_of(entry: Entry) -> str:
    """Return an entry as JSON on one line."""
    found = {name: value for name, value in entry._asdict().items() if value is not None}
    return json.dumps(found, ensure_ascii=False)


def entry_of(line: str) -> Entry:
    """Return the entry that a line of JSON has.

    Raises:
        ValueError, TypeError: It has none.
    """
    entry = Entry(**json.loads(line))
    checked_path(entry.path)
    return entry._replace(sha256=entry.made_from) if entry.sha256 == entry.made_from else entry


def checked_path(path: str) -> str:
    """Return the path of a file of an export. An export may come from somebody else: its paths must stay in its folder.

    Raises:
        ValueError: The path leads out of the folder.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} is no path of a file in the export")
    return path


def _entries(lines: Iterable[str]) -> Iterator[Entry]:
    for line in lines:
        text = line.strip().rstrip(",")
        if text == "]":
            return
        yield entry_of(text)
    raise ValueError("it is cut")
