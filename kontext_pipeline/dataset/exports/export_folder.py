"""The folder of an export: new files are written aside, and take their places together when all are there.

    export.json                    what is in the export: see `export_record`
    .kontext-export/staged/        files that are complete and wait for their place
    .kontext-export/staged.jsonl   what these files are (on an object store: staged-<number>.jsonl)
    .kontext-export/commit.jsonl   the moves that make the staged files the export

Files that didn't change stay as they are, or are renamed. An export that was killed goes on with the files that are staged.
If it was killed while files took their places, the next one first finishes that.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Final

from upath import UPath

from kontext_pipeline.dataset.exports.export_lock import LOCK, locked
from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.dataset.exports.export_record import RECORD, Entry, line_of, read_record, write_record
from kontext_pipeline.dataset.exports.staging import STAGING, Move, Staging, Write
from kontext_pipeline.files import is_local, local_path

_OWN_FOLDERS: Final = ("plan", "images", "inputs", "metadata", "quality", "review", "resamples", "ledger.db.claims")
_UNSEEN: Final = frozenset({LOCK, STAGING, ".DS_Store"})


@contextlib.contextmanager
def open_export(out: UPath, data_dir: UPath) -> Iterator["ExportFolder"]:
    """Open the folder of an export for one writer.

    Raises:
        ExportError: The folder has something else than an export, is one of the data directory's own, or another export
            writes into it.
        OSError: It can't be read or written.
    """
    _check_place(out, data_dir)
    if is_local(out):
        folder = local_path(out)
        if folder.exists() and not folder.is_dir():
            raise ExportError(f"{out} is a file. Name a folder with --out.")
        _check_content(out)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        _check_content(out)
    with locked(out):
        yield ExportFolder(out)


class ExportFolder:
    """An export that is being written. For use from one thread."""

    def __init__(self, out: UPath) -> None:
        """Finish what an export before has left unfinished. The caller has the lock."""
        self.out = out
        self._staging = Staging(out)
        self._staging.finish_commit()
        self._new: dict[str, Entry] = {}
        # By path: where the content is now; None: it is staged.
        self._moves: dict[str, str | None] = {}
        self.written = 0
        """How many files were written; the others were there."""

    # What is there is read when it is first asked for: until then the selection needs the memory.
    @cached_property
    def _old(self) -> dict[str, Entry]:
        found = read_record(self.out / RECORD)
        return {entry.path: entry for entry in found[1]} if found else {}

    @cached_property
    def _old_shards(self) -> dict[str, Entry]:
        return {entry.made_from: entry for entry in self._old.values() if entry.facts}

    @cached_property
    def _sizes(self) -> dict[str, int] | None:
        return _sizes(self.out)

    def put(self, path: str, made_from: str, write: Write, *, may_move: bool = False) -> Entry:
        """Let the export have a file at `path`, and return its entry. The file is written if no equal one is there.

        Args:
            path: Where the file will be, relative to the export.
            made_from: Digest of all that the content follows from.
            write: Writes the content.
            may_move: No other file of the export follows from the same, so an equal file of the export before, at another
                path, may be renamed. Such a file is a shard: it has facts.

        Raises:
            OSError: The file can't be written. The export before is as it was.
        """
        entry = self.reuse(path, made_from, may_move=may_move)
        if entry is None:
            entry = self._staging.add(_staged_name(path, made_from, may_move), path, made_from, write)
            self.written += 1
            self._take(entry)
            self._moves[path] = None
        return entry

    def reuse(self, path: str, made_from: str, *, may_move: bool = False) -> Entry | None:
        """Let the export have a file that `put` would not have to write. Return its entry; None if there is none."""
        if (known := self._new.get(path)) is not None and known.made_from == made_from:
            return known
        old = self._old.get(path)
        if old is not None and old.made_from == made_from and self._usable(old):
            return self._take(old)
        if may_move and (old := self._old_shards.get(made_from)) is not None and self._usable(old):
            self._moves[path] = old.path
            return self._take(old._replace(path=path))
        entry = self._staging.find(_staged_name(path, made_from, may_move), path, made_from)
        if entry is None:
            return None
        self._moves[path] = None
        return self._take(entry)

    def drop(self, path: str) -> None:
        """Let the export not have a file that `reuse` has found."""
        self._new.pop(path, None)
        self._moves.pop(path, None)

    def entries(self) -> list[Entry]:
        """Return the entries of all files, by path."""
        return [self._new[path] for path in sorted(self._new)]

    def read_text(self, path: str) -> str | None:
        """Return the text of a file that is in the folder now, whoever wrote it; None where there is none."""
        try:
            return (self.out / path).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def commit(self, head: dict[str, Any]) -> tuple[Entry, bool]:
        """Make the files that were put, and no others, the export. Return the record's entry, and whether anything changed.

        Files in the folder that no export has written stay.

        Raises:
            OSError: It can't be done. The next export finishes it, or the export before is as it was.
        """
        entries = self.entries()
        gone = [path for path in self._old if path not in self._new]
        digest = hashlib.sha256(json.dumps(head).encode())
        for entry in entries:
            digest.update(line_of(entry).encode())

        def write(path: Path) -> None:
            write_record(path, head, entries)

        name = digest.hexdigest()
        record = self._staging.add(name, RECORD, name, write)
        changed = bool(self._moves or gone or _sha256(self.out / RECORD) != record.sha256)
        if changed:
            self._staging.commit(chain(self._staged_moves(), [(None, name, RECORD)]), gone)
        self._staging.clear()
        return record, changed

    def _take(self, entry: Entry) -> Entry:
        self._new[entry.path] = entry
        return entry

    def _staged_moves(self) -> Iterator[Move]:
        for path, source in self._moves.items():
            entry = self._new[path]
            yield source, _staged_name(path, entry.made_from, entry.facts is not None), path

    def _usable(self, entry: Entry) -> bool:
        # A shard that lacks samples is tried again: their pictures may be back.
        if entry.facts and entry.facts.get("left_out"):
            return False
        return _size(self.out, entry.path, self._sizes) == entry.bytes


def _sha256(path: UPath) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _staged_name(path: str, made_from: str, may_move: bool) -> str:
    # Files that stay at their path may have equal content. Those that may move are the shards, which have facts.
    return made_from if may_move else hashlib.sha256(f"{path} {made_from}".encode()).hexdigest()


def _check_place(out: UPath, data_dir: UPath) -> None:
    where, home = _parts(out), _parts(data_dir)
    if out.protocol != data_dir.protocol and not (is_local(out) and is_local(data_dir)):
        return
    inside = where[: len(home)] == home
    if inside and (where == home or where[len(home)] in _OWN_FOLDERS):
        raise ExportError(
            f"--out is {out}, which belongs to the data directory {data_dir}. Name a folder outside of it, or a new one in "
            f"it, such as {data_dir / 'export'}."
        )


def _parts(path: UPath) -> tuple[str, ...]:
    if is_local(path):
        return local_path(path).expanduser().resolve().parts
    return tuple(part for part in path.path.split("/") if part)


def _check_content(out: UPath) -> None:
    names = _names(out)
    if names <= _UNSEEN or RECORD in names or STAGING in names:
        return
    shown = ", ".join(sorted(names - _UNSEEN)[:3])
    raise ExportError(
        f"{out} has files that are no export ({shown}{', ...' if len(names) > 3 else ''}). Name an empty or new folder, or "
        "one of an earlier export, with --out."
    )


def _names(out: UPath) -> set[str]:
    if is_local(out):
        folder = local_path(out)
        return {path.name for path in folder.iterdir()} if folder.exists() else set()
    out.fs.invalidate_cache(out.path)
    try:
        entries = out.fs.ls(out.path, detail=True)
        return {
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["name"].strip("/") != out.path.strip("/")
        }
    except FileNotFoundError:
        return set()


def _sizes(out: UPath) -> dict[str, int] | None:
    """Return the sizes of all files of a remote folder; None for a local one, whose files are looked at one by one."""
    if is_local(out):
        return None
    prefix = f"{out.path.rstrip('/')}/"
    try:
        found = out.fs.find(out.path, detail=True)
    except FileNotFoundError:
        return {}
    return {name.removeprefix(prefix).lstrip("/"): int(info["size"]) for name, info in found.items()}


def _size(out: UPath, path: str, sizes: dict[str, int] | None) -> int | None:
    if sizes is not None:
        return sizes.get(path)
    try:
        return os.stat(os.path.join(out.path, path)).st_size  # noqa: PTH116, PTH118  a hot loop
    except OSError:
        return None
