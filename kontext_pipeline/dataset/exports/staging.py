"""Files of an export that are complete and wait for their places, and the journal of moves that gives them these.

A commit has two phases, each of which can be repeated: files that keep their content and change their names are gathered
among the staged ones; then all staged files are placed. The journal says which phase has begun.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from upath import UPath

from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.dataset.exports.export_record import Entry, checked_path, entry_of, line_of
from kontext_pipeline.files import flush, is_local, local_path, write_atomically

STAGING: Final = ".kontext-export"
GATHERING: Final = "gathering"
PLACING: Final = "placing"
"""The phases of a commit."""
Write = Callable[[Path], dict[str, Any] | None]
"""Writes a file to the local path that it is given, and returns the facts of its entry."""
Move = tuple[str | None, str, str]
"""Where the content is now (None: among the staged files), its staged name, and its new path."""

_FLUSHED_FROM: Final = 2**20
"""Files of so many bytes are flushed to the disk one by one; smaller ones together, before a commit."""
_LOGGED_AT_ONCE: Final = 200
_CHUNK: Final = 2**20


class Staging:
    """The staged files of one export. For use from one thread."""

    def __init__(self, out: UPath) -> None:
        """Which files are staged already is read when it is first asked for."""
        self._out = out
        self._folder = out / STAGING
        self._local = local_path(out) if is_local(out) else None
        self._known: dict[str, Entry] | None = None
        self._unlogged: list[str] = []
        self._logs = 0

    def find(self, name: str, path: str, made_from: str) -> Entry | None:
        """Return the entry of a staged file, for `path`; None if it isn't staged, or lacks samples. Each is found once."""
        if self._known is None:
            self._known = self._read_log()
        known = self._known.pop(name, None)
        if known is None or known.made_from != made_from or (known.facts and known.facts.get("left_out")):
            return None
        with contextlib.suppress(OSError):
            if int(self._staged(name).stat().st_size) == known.bytes:
                return known._replace(path=path)
        return None

    def add(self, name: str, path: str, made_from: str, write: Write) -> Entry:
        """Write a file, by a function that gets a local path, and return its entry for `path`.

        Raises:
            OSError: It can't be written.
        """
        with self._writing() as temporary:
            facts = write(temporary)
            size, sha256 = _measured(temporary)
            self._stage(temporary, name, size)
        # One text for both: a hundred thousand pictures have as many.
        entry = Entry(path, size, made_from if sha256 == made_from else sha256, made_from, facts)
        self._log(name, entry)
        return entry

    def commit(self, moves: Iterable[Move], gone: Iterable[str]) -> None:
        """Move every file to its place, and remove those that are gone.

        Raises:
            OSError: It can't be done; `finish_commit` goes on.
        """
        if self._local is not None and hasattr(os, "sync"):
            # One call, because flushing a hundred thousand small files one by one takes half an hour.
            os.sync()
        self._write_journal(GATHERING, chain(moves, gone))
        self.finish_commit()

    def finish_commit(self) -> None:
        """Finish a commit that was begun, if there is one.

        Raises:
            ExportError: The journal is none that an export has written. Nothing was moved.
            OSError: It can't be finished.
        """
        self._check_journal()
        phase = next(self._journal(), None)
        if phase is None:
            return
        if phase == GATHERING:
            for source, name, _ in self._journaled_moves():
                if source is not None and not self._staged(name).exists():
                    self._move(self._out / source, self._staged(name))
            self._write_journal(PLACING, islice(self._journal(), 1, None))
        for _, name, path in self._journaled_moves():
            if self._staged(name).exists():
                self._move(self._staged(name), self._out / path)
        gone = [item for item in islice(self._journal(), 1, None) if isinstance(item, str)]
        for path in gone:
            with contextlib.suppress(FileNotFoundError):
                (self._out / path).unlink()
        if self._local is not None:
            _remove_empty_folders(self._local, gone)
        self.clear()

    def clear(self) -> None:
        """Remove all staged files."""
        self._known = {}
        self._unlogged.clear()
        if self._local is not None:
            folder = self._local / STAGING
            # The journal first: the rest is nothing without it.
            (folder / "commit.jsonl").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            return
        with contextlib.suppress(FileNotFoundError):
            (self._folder / "commit.jsonl").unlink()
        with contextlib.suppress(FileNotFoundError):
            self._folder.fs.rm(self._folder.path, recursive=True)

    def flush_log(self) -> None:
        """Let an export that starts after this one was killed know of all staged files."""
        if self._local is not None or not self._unlogged:
            return
        text = "".join(self._unlogged)
        (self._folder / f"staged-{self._logs}.jsonl").write_text(text, encoding="utf-8")
        self._logs += 1
        self._unlogged.clear()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Path]:
        """Give the path of a new local file, which is removed after the block if it is still there."""
        if self._local is None:
            with tempfile.TemporaryDirectory(prefix="kontext-export-") as folder:
                yield Path(folder) / "file"
            return
        path = self._local / STAGING / "writing"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _staged(self, name: str) -> Path | UPath:
        folder: Path | UPath = self._folder if self._local is None else self._local / STAGING
        return folder / "staged" / name[:2] / name

    def _stage(self, temporary: Path, name: str, size: int) -> None:
        target = self._staged(name)
        if self._local is None:
            write_atomically(target, temporary.replace)
            return
        if size >= _FLUSHED_FROM:
            flush(temporary)
        local_path(target).parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(local_path(target))

    def _log(self, name: str, entry: Entry) -> None:
        line = f"{json.dumps(name)} {line_of(entry)}\n"
        if self._local is not None:
            with (self._local / STAGING / "staged.jsonl").open("a", encoding="utf-8") as file:
                file.write(line)
            return
        self._unlogged.append(line)
        if len(self._unlogged) >= _LOGGED_AT_ONCE or entry.bytes >= _FLUSHED_FROM:
            self.flush_log()

    def _read_log(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for path in self._log_files():
            try:
                with path.open("r", encoding="utf-8") as file:
                    for line in file:
                        # The last line of a process that was killed may be cut.
                        with contextlib.suppress(ValueError, TypeError):
                            name, _, text = line.partition(" ")
                            found[json.loads(name)] = entry_of(text)
            except FileNotFoundError:
                continue
        return found

    def _log_files(self) -> list[Path | UPath]:
        if self._local is not None:
            return [self._local / STAGING / "staged.jsonl"]
        paths = sorted(self._folder.glob("staged-*.jsonl"), key=str) if self._folder.exists() else []
        self._logs = 1 + max((int(path.stem.rpartition("-")[2]) for path in paths), default=-1)
        return [*paths]

    def _write_journal(self, phase: str, items: Iterable[Move | str]) -> None:
        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(item)}\n" for item in chain([phase], items))

        write_atomically(self._folder / "commit.jsonl", write)

    def _journal(self) -> Iterator[Any]:
        """Yield the phase, the moves, and the paths of files that go; nothing where there is no journal."""
        with (
            contextlib.suppress(FileNotFoundError),
            (self._folder / "commit.jsonl").open("r", encoding="utf-8") as file,
        ):
            for line in file:
                yield json.loads(line)

    def _check_journal(self) -> None:
        """Refuse a journal with a path that leads out of the folder, before anything is moved or removed."""
        try:
            for item in islice(self._journal(), 1, None):
                for path in [item] if isinstance(item, str) else item:
                    if path is not None:
                        checked_path(path)
        except (ValueError, TypeError) as error:
            raise ExportError(
                f"{self._folder / 'commit.jsonl'} is no journal of an export ({error}). Remove {self._folder}, or choose "
                "another folder with --out."
            ) from None

    def _journaled_moves(self) -> Iterator[Move]:
        for item in self._journal():
            if isinstance(item, list):
                source, name, path = item
                yield source, name, path

    def _move(self, source: Path | UPath, target: Path | UPath) -> None:
        if self._local is not None:
            local_path(target).parent.mkdir(parents=True, exist_ok=True)
            local_path(source).replace(local_path(target))
            return
        assert isinstance(source, UPath)
        assert isinstance(target, UPath)
        source.fs.mv(source.path, target.path)


def _measured(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return file.tell(), digest.hexdigest()


def _remove_empty_folders(root: Path, gone: Iterable[str]) -> None:
    folders = {parent for path in gone for parent in Path(path).parents if parent != Path()}
    for folder in sorted(folders, key=lambda one: -len(one.parts)):
        try:
            (root / folder).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
