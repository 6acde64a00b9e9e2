"""The lock file, `kontext.lock.json`: JSON with one manifest, one row or one file a line, sorted.

Its bytes follow from the plan, the tables and the files alone, so that equal datasets have equal locks, and a version
control system shows which rows have changed. It is read and written line by line.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.lock.listed_files import FilePath, join_path, split_path
from kontext_pipeline.dataset.lock.sorted_lines import SortedLines
from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import AnyPath, write_atomically

LOCK_NAME: Final = "kontext.lock.json"
"""The lock's name in the data directory."""
LOCK_VERSION: Final = 1
TABLE_COLUMNS: Final = (
    "fingerprint",
    "manifest",
    "id",
    "variant",
    "seed",
    "input_sha256",
    "input_kept_sha256",
    "input_path",
    "image_sha256",
    "image_path",
    "status",
    "finished_at",
)
"""Columns of the metadata table that the lock is made from."""

Section = Literal["manifests", "rows", "others"]
_SECTIONS: Final[tuple[Section, ...]] = ("manifests", "rows", "others")
_END_OF_KEY: Final = ',"seed":'


class LockError(KontextError):
    """A lock file is missing or can't be read. Nothing was compared and nothing was sent."""


def row_lines(table: pa.Table, *, model: str) -> Iterator[str]:
    """Yield the line of each row of a metadata table that has `TABLE_COLUMNS`.

    A line begins with `fingerprint`, `manifest`, `id` and `variant`, which no two rows share.
    """
    made = pc.equal(table["status"], "succeeded")
    dates = pc.strftime(table["finished_at"].cast(pa.timestamp("s", "UTC"), safe=False), format="%Y-%m-%dT%H:%M:%SZ")
    columns = {
        **{name: table[name] for name in ("fingerprint", "manifest", "id", "variant", "seed")},
        "model": pa.repeat(pa.scalar(model), len(table)),
        "input_sha256": pc.coalesce(table["input_kept_sha256"], table["input_sha256"]),
        "output_sha256": pc.if_else(made, table["image_sha256"], None),
        "date": pc.if_else(made, dates, None),
        "input_path": table["input_path"],
        "image_path": pc.if_else(made, table["image_path"], None),
    }
    for row in pa.table(columns).to_pylist():
        yield line_of(row)


def line_of(record: Mapping[str, Any]) -> str:
    """Return a record as JSON on one line, without spaces."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def key_of(line: str) -> str:
    """Return the part of a row's line that names the row. Lines sort by this part.

    Raises:
        ValueError: It is no line of a row.
    """
    return line[: line.index(_END_OF_KEY) + 1]


def sorted_rows(tables: Iterable[pa.Table], *, model: str) -> SortedLines:
    """Return the lines of all rows, sorted. Close it."""
    lines = SortedLines()
    for table in tables:
        prefixes = pc.utf8_slice_codeunits(table["fingerprint"], 0, 2).to_pylist()
        for prefix, line in zip(prefixes, row_lines(table, model=model), strict=True):
            lines.add((prefix,), line)
    return lines


def files_of(row: Mapping[str, Any]) -> Iterator[tuple[FilePath, str]]:
    """Yield the files that a row names, with their sha256.

    Raises:
        ValueError: A path leads out of the stores.
    """
    for path, sha256 in (("image_path", "output_sha256"), ("input_path", "input_sha256")):
        if row[path] is not None:
            yield _located(str(row[path])), str(row[sha256])


def file_of(other: Mapping[str, Any]) -> tuple[FilePath, str]:
    """Return the file that a record of `others` names, with its sha256.

    Raises:
        ValueError: A path leads out of the stores.
    """
    return _located(str(other["path"])), str(other["sha256"] or "")


def _located(path: str) -> FilePath:
    located = split_path(path)
    if located is None:
        raise ValueError(f"{path} is no file of images/ or inputs/")
    return located


def other_line(path: FilePath, sha256: str | None) -> str:
    """Return the line of a file that no row names."""
    return line_of({"path": join_path(path), "sha256": sha256})


def write_lock(
    path: AnyPath, *, manifests: Iterable[Mapping[str, Any]], rows: Iterable[str], others: Iterable[str]
) -> None:
    """Write a lock; `rows` and `others` are sorted lines. An existing lock is replaced as a whole.

    Raises:
        OSError: The file can't be written; the old one is untouched.
    """
    sections = {"manifests": map(line_of, manifests), "rows": rows, "others": others}

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{{\n"lock_version": {LOCK_VERSION}')
            for section, lines in sections.items():
                file.write(f',\n"{section}": [')
                for number, line in enumerate(lines):
                    file.write(f",\n{line}" if number else f"\n{line}")
                file.write("\n]")
            file.write("\n}\n")

    write_atomically(path, write)


def read_lock(path: UPath) -> Iterator[tuple[Section, str, dict[str, Any]]]:
    """Yield section, line and record of everything in a lock, in its order.

    Raises:
        LockError: There is no lock, or it is not as `kontext lock` writes it.
    """
    try:
        with path.open("r", encoding="utf-8", newline="\n") as file:
            yield from _records(str(path), file)
    except FileNotFoundError:
        raise LockError(f"there is no lock: {path} does not exist. Write one with: kontext lock") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LockError(f"the lock {path} can't be read: {reason}") from None


def _records(path: str, file: Iterable[str]) -> Iterator[tuple[Section, str, dict[str, Any]]]:
    expected = iter(_SECTIONS)
    section: Section | None = None
    before = ""
    text = ""
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        where = f"the lock {path}, line {number}"
        if number == 2:
            version = text.removeprefix('"lock_version": ').removesuffix(",")
            if version != str(LOCK_VERSION):
                raise LockError(f"{where}: version {LOCK_VERSION} is expected; use the release that wrote the lock")
        elif number > 2 and section is None and text != "}":
            section, before = next(expected, None), ""
            if section is None or text != f'"{section}": [':
                raise LockError(f"{where}: it is not as `kontext lock` writes it. Get the file back, or lock again")
        elif section is not None and text in ("]", "],"):
            section = None
        elif section is not None:
            text = text.removesuffix(",")
            try:
                record = json.loads(text)
                if section == "rows":
                    key = key_of(text)
                    if key <= before:
                        raise ValueError("rows are not sorted")
                    before = key
                    list(files_of(record))
                elif section == "others":
                    file_of(record)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise LockError(
                    f"{where}: it is not as `kontext lock` writes it ({error}). Get the file back, or lock again"
                ) from None
            yield section, text, record
    if text != "}" or next(expected, None) is not None:
        raise LockError(f"the lock {path} ends too early. Get the file back, or lock again")
