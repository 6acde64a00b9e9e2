"""Manifest files: finding the files that the user names by paths, globs or fsspec URLs, and opening them."""

import glob
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kontext_pipeline.files import AnyPath, is_local
from kontext_pipeline.planning.problems import ManifestProblems, quoted

RECIPE: Final = ".toml"
"""Extension of recipes."""
_LONGEST_NAME: Final = 64
_EXTRAS: Final = {
    "s3": ("s3", "s3a"),
    "gcs": ("gs", "gcs"),
    "azure": ("az", "abfs", "abfss", "adl"),
}
"""The package's extras, each with the schemes of fsspec that it is for."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest file that exists. Its content has not been checked yet.

    Attributes:
        name: Start of the keys of its batches: `[a-z0-9_-]`, at most 64 characters.
        path: Absolute path, or URL; `shown` is as the user gave it.
        order: Index of the pattern that named it.
        digest: sha256 of the content; `size` is in bytes.
        mtime_ns: Modification time of a local file, in nanoseconds. None for a remote one.
    """

    name: str
    path: AnyPath
    shown: str
    order: int
    digest: str
    size: int
    mtime_ns: int | None = None

    @property
    def source(self) -> str:
        """The absolute path or URL as text."""
        return str(self.path)

    @property
    def is_recipe(self) -> bool:
        """Whether the file stands for a table that it doesn't hold."""
        return file_type(self.path) == RECIPE

    @property
    def is_on_the_web(self) -> bool:
        """Whether the manifest is at an http URL."""
        return not isinstance(self.path, Path) and self.path.protocol in ("http", "https")

    def open_for_arrow(self) -> AbstractContextManager[Any]:
        """Return a context with what Arrow reads at any position: the path of a local file, or an open remote one."""
        return nullcontext(str(self.path)) if isinstance(self.path, Path) else self.path.open("rb")

    def has_changed(self) -> bool:
        """Return whether a local file has another size or modification time than when it was found."""
        if not isinstance(self.path, Path):
            return False
        now = self.path.stat()
        return (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns)


def find_manifests(
    patterns: Sequence["str | AnyPath"], file_types: Sequence[str], problems: ManifestProblems
) -> list[Manifest]:
    """Return the manifests that paths, globs (also with `**`) and fsspec URLs name, each once, in their order.

    A file is a problem if it is missing, can't be read, has none of the `file_types` (extensions in lower case),
    or has the same name as another one.
    """
    if not patterns:
        problems.of("manifests", 0).add(
            "none is given; name a CSV, TSV, JSON Lines or Parquet file, a recipe (.toml), or a glob of them"
        )
    by_name: dict[str, Manifest] = {}
    for order, path, shown in _paths(patterns, problems):
        file = problems.of(shown, order)
        extension = file_type(path)
        if extension not in file_types:
            file.add(f"unknown file type {quoted(extension)}; allowed: {', '.join(file_types)}")
            continue
        name = manifest_name(path.name[: len(path.name) - len(extension)])
        twin = by_name.get(name)
        if twin:
            if twin.source != str(path):
                file.add(f"has the same name ({name}) as {twin.shown}; batches are named by it, so rename one of them")
            continue
        try:
            mtime_ns = path.stat().st_mtime_ns if isinstance(path, Path) else None
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
                size = opened.tell()
        except OSError as error:
            file.add(f"can't be read: {error.strerror or error}")
            continue
        by_name[name] = Manifest(name, path, shown, order, digest, size, mtime_ns)
    return list(by_name.values())


def file_type(path: AnyPath) -> str:
    """Return the extension in lower case; of a gzipped file, the last two, such as `.csv.gz`."""
    first, last = ("", *path.suffixes)[-2:] if len(path.suffixes) > 1 else ("", path.suffix)
    return (first + last if last.lower() == ".gz" else last).lower()


def manifest_name(stem: str) -> str:
    """Return the name of a manifest from the name of its file without the extension.

    The name has ASCII letters, digits, `_` and `-`. If other letters were dropped or the name was too long, it ends in
    a digest of `stem`, so that different files have different names.
    """
    folded = unicodedata.normalize("NFKD", stem.casefold())
    ascii_only = folded.encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9_-]+", "-", ascii_only).strip("-")
    lost = any(ord(letter) > 127 and letter.isalnum() for letter in folded)
    if lost or not name or len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        name = f"{(name or 'manifest')[: _LONGEST_NAME - 9]}-{digest}"
    return name


def missing_package(url: str, error: ImportError) -> str:
    """Return what to install, so that fsspec can read a URL."""
    scheme = url.partition("://")[0].lower()
    extra = next((extra for extra, schemes in _EXTRAS.items() if scheme in schemes), None)
    if extra is None:
        return f"a package for {scheme}:// is not installed ({error})"
    return f"{scheme}:// needs a package that is not installed: pip install kontext-pipeline[{extra}]"


def absolute(path: Path) -> Path:
    """Return an absolute path without `..`; symbolic links are not resolved."""
    return Path(os.path.normpath(path.absolute()))


def _paths(patterns: Sequence["str | AnyPath"], problems: ManifestProblems) -> Iterator[tuple[int, AnyPath, str]]:
    """Yield index of the pattern, path, and the path as it is shown to the user."""
    for order, pattern in enumerate(patterns):
        shown = str(pattern)
        file = problems.of(shown, order)
        try:
            path, glob_text = _parsed(pattern)
            if path.is_file():
                yield order, path, shown
                continue
            if path.is_dir():
                file.add(f"is a folder; name its files, as in {shown.rstrip('/')}/*.csv")
                continue
            if not any(sign in glob_text for sign in "*?["):
                file.add("there is no such file")
                continue
            matches = _matches(path, glob_text)
        except ImportError as error:
            file.add(f"can't be read: {missing_package(shown, error)}")
            continue
        except (OSError, ValueError) as error:
            # A URL with an unknown protocol is a ValueError.
            file.add(f"can't be read: {getattr(error, 'strerror', None) or error}")
            continue
        if not matches:
            file.add("no file matches this glob")
        for match in sorted(matches, key=str):
            yield order, (absolute(match) if isinstance(match, Path) else match), str(match)


def _parsed(pattern: "str | AnyPath") -> tuple[AnyPath, str]:
    """Return the path of a pattern, absolute if local, and the text that may have wildcards."""
    shown = str(pattern)
    if "://" not in shown:
        local = Path(shown).expanduser()
        return absolute(local), str(local)
    from upath import UPath

    path = UPath(pattern)
    if is_local(path):
        return Path(path.path), path.path
    return path, shown.split("://", 1)[1]


def _matches(path: Any, glob_text: str) -> list[AnyPath]:
    if isinstance(path, Path):
        # Path.glob takes no absolute pattern.
        found = glob.glob(glob_text, recursive=True)  # noqa: PTH207
        return [Path(match) for match in found if Path(match).is_file()]
    start = f"{path.protocol}://"
    remote = (start + str(match).removeprefix(start) for match in path.fs.glob(path.path))
    return [type(path)(match, **path.storage_options) for match in remote]
