"""The column `input_image` of a manifest: which addresses are allowed, and what each of them means.

A picture in a local file and one that is embedded is identified by its content, any other by its URL. So nothing here
reads over the network.
"""

import base64
import os
import posixpath
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.cells import each_chunk, matches
from kontext_pipeline.planning.input_files import InputFile, NotAPictureError, check_head, inspect
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.sources import Manifest, absolute, missing_package

_WEB_URL: Final = r"^(?i:https?)://[^\s/?#\x00-\x1f\x7f]+[^\s\x00-\x1f\x7f]*$"
_AUTHORITY: Final = "^(?i:https?)://(?P<authority>[^/?#]*)"
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.-]+:"
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")
_DATA_SCHEME: Final = "^(?i:data):"
_DATA_URI: Final = re.compile(r"data:image/[a-z0-9.+-]+(?:;[a-z0-9-]+=[^;,]*)*;base64,", re.IGNORECASE)
_LOCAL_SCHEMES: Final = ("file", "local")
_BUCKET_SCHEMES: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory")
"""Schemes whose URLs begin with a name of storage, not of a host."""
_REFUSED_SCHEMES: Final = ("asynclocal", "git", "data")
"""Schemes of fsspec that lead to local files in another way, or stand for none."""
_ALLOWED: Final = (
    "a whole http:// or https:// URL without spaces, a data:image/...;base64, URI, a URL that fsspec reads (s3://, gs://, "
    "az://, file://, ...), or the path of a file, relative to the manifest's folder"
)


@dataclass(slots=True)
class InputImages:
    """What a column of input images means.

    Attributes:
        sources: The absolute path of a local file, or the URL that a relative path of a remote manifest stands for;
            else null.
        files: The local files by path.
        private: How many rows name an address of a private network.
    """

    sources: pa.ChunkedArray
    files: dict[str, InputFile] = field(default_factory=dict)
    private: int = 0


class LocalFolders:
    """The local folders that a manifest may name pictures in. Symbolic links are resolved."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """`folders` are allowed with all that is below them."""
        self._allowed = [os.path.realpath(folder).rstrip(os.sep) + os.sep for folder in folders]
        self._resolved: dict[str, str] = {}

    @classmethod
    def of(cls, manifest_path: object, options: ManifestOptions) -> "LocalFolders":
        """Return the folders of a manifest: its own if it is local, and those of the options."""
        own = [manifest_path.parent] if isinstance(manifest_path, Path) else []
        return cls([*own, *options.input_roots])

    def allow(self, path: str) -> bool:
        """Return whether the file at an absolute path is in an allowed folder, whether it exists or not."""
        folder, name = os.path.split(path)
        # Pictures share few folders, and resolving takes a system call for each part of a path.
        resolved = self._resolved.get(folder)
        if resolved is None:
            resolved = self._resolved[folder] = os.path.realpath(folder)
        real = os.path.join(resolved, name)  # noqa: PTH118  Quicker, and there may be a million files.
        if os.path.islink(real):  # noqa: PTH114
            real = os.path.realpath(real)
        return any((real + os.sep).startswith(allowed) for allowed in self._allowed)


def how_to_allow(path: Path) -> str:
    """Return what allows a manifest to name a local file, which `LocalFolders` doesn't allow."""
    return f"to allow it, add {shlex.quote(str(Path(os.path.realpath(path)).parent))} to KONTEXT_INPUT_ROOTS"


def check_input_images(
    images: pa.ChunkedArray,
    numbers: npt.NDArray[np.int64],
    manifest: Manifest,
    known: Mapping[str, InputFile],
    problems: FileProblems,
    *,
    options: ManifestOptions,
) -> InputImages:
    """Check a column of input images, null where there is none; what is not allowed is a problem.

    `numbers` are the row numbers, `known` local files that are known already, by path.
    """
    is_web = matches(images, _WEB_URL)
    different = pc.unique(images.filter(pc.and_not(pc.is_valid(images), is_web)))
    addresses = _Addresses(manifest, known, options)
    sources: list[str | None] = [None] * len(different)
    reasons: list[str | None] = [None] * len(different)
    for index, value in enumerate(different.to_pylist()):
        try:
            sources[index] = addresses.source(value)
        except NotAPictureError as error:
            reasons[index] = f"{quoted(value)}: {error}"
    indices = pc.index_in(images, value_set=different).combine_chunks()
    why = pa.array(reasons, pa.string()).take(indices)
    problems.add_where(pc.is_valid(why), numbers, lambda index: str(why[index]), "input_image")
    resolved = pa.chunked_array([pa.array(sources, pa.string()).take(indices)])
    is_private = private_inputs(pc.coalesce(resolved, images) if manifest.is_on_the_web else images)
    if addresses.private:
        is_private = pc.or_(is_private, pc.is_in(images, value_set=pa.array(addresses.private, pa.string())))
    if not options.private_inputs:
        problems.add_where(
            is_private,
            numbers,
            lambda index: (
                f"{quoted(images[index].as_py())} is at an address of a private network; "
                "KONTEXT_PRIVATE_INPUTS=true allows such addresses"
            ),
            "input_image",
        )
    return InputImages(resolved, addresses.files, int(pc.sum(is_private).as_py() or 0))


def private_inputs(images: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a mask of the http URLs whose host is of a private network, judged by its name or number alone."""

    def private(chunk: pa.Array) -> pa.Array:
        authorities = pc.struct_field(pc.extract_regex(chunk, _AUTHORITY), "authority")
        different = pc.unique(authorities.drop_null()).to_pylist()
        found = [authority for authority in different if authority and not _is_public(authority)]
        return pc.is_in(authorities, value_set=pa.array(found, pa.string()))

    return each_chunk(private, images)


def _is_public(authority: str) -> bool:
    """Return whether the host of a URL's authority may be public. Where parsers read it differently, it isn't."""
    from kontext_pipeline.segmind.addresses import is_public_host

    host = unicodedata.normalize("NFKC", unquote(authority.rpartition("@")[2])).strip()
    host = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return "\\" not in authority and is_public_host(host)


class _Addresses:
    """Tells what the addresses of one manifest mean.

    Collects the local `files` among them, and those that name a host of a `private` network, without http ones.
    """

    def __init__(self, manifest: Manifest, known: Mapping[str, InputFile], options: ManifestOptions) -> None:
        self.files: dict[str, InputFile] = {}
        self.private: list[str] = []
        self._manifest = manifest
        self._known = known
        self._folders = LocalFolders.of(manifest.path, options)
        self._schemes: dict[str, str | None] = {}

    def source(self, value: str) -> str | None:
        """Return the path of a local file, the URL of a relative path in a remote manifest, else None.

        `value` is anything but a usable http URL.

        Raises:
            NotAPictureError: The address is not allowed, or a file is no picture.
        """
        if re.match(_DATA_SCHEME, value):
            _check_data_uri(value)
            return None
        if not re.match(_SCHEME, value):
            return self._of_path(value)
        scheme, _, rest = value.partition("://")
        if not rest or scheme.lower() in ("http", "https") or _CONTROL_CHARACTER.search(value):
            raise NotAPictureError(f"is not allowed; allowed: {_ALLOWED}")
        if scheme.lower() in _LOCAL_SCHEMES:
            if not Path(rest).is_absolute():
                raise NotAPictureError(
                    f"{scheme}:// must be followed by an absolute path, as in {scheme}:///data/a.png"
                )
            return self._local(Path(rest if "%" not in rest or os.path.lexists(rest) else unquote(rest)))
        self._check_scheme(scheme.lower(), rest, value)
        return None

    def _of_path(self, value: str) -> str:
        path = Path.home() / value[2:] if value.startswith("~/") else Path(value)
        folder = self._manifest.path.parent
        if isinstance(folder, Path):
            return self._local(folder / path)
        if path.is_absolute():
            return self._local(path)
        if not self._manifest.is_on_the_web:
            start, _, rest = str(folder).partition("://")
            return f"{start}://{posixpath.normpath(posixpath.join(rest, value)).lstrip('/' if rest else '')}"
        url = urljoin(self._manifest.source, value)
        if not re.match(_WEB_URL, url):
            raise NotAPictureError(f"{url} has spaces; write them as %20")
        return url

    def _local(self, path: Path) -> str:
        path = absolute(path)
        if not self._folders.allow(str(path)):
            raise NotAPictureError(
                f"{path} is outside the folders that this manifest may name pictures in; {how_to_allow(path)}"
            )
        file = inspect(path, self._known)
        self.files[file.path] = file
        return file.path

    def _check_scheme(self, scheme: str, rest: str, value: str) -> None:
        if scheme not in self._schemes:
            self._schemes[scheme] = _refusal(scheme)
        reason = self._schemes[scheme]
        if reason is None and "::" in value:
            reason = "a URL within a URL (::) is not allowed; name the picture itself"
        if reason:
            raise NotAPictureError(reason)
        if scheme not in _BUCKET_SCHEMES and not _is_public(rest.partition("/")[0]):
            self.private.append(value)


def _refusal(scheme: str) -> str | None:
    """Return why URLs of a scheme can't be read; None: they can."""
    try:
        if scheme not in _REFUSED_SCHEMES:
            fsspec.get_filesystem_class(scheme)
            return None
    except ImportError as error:
        return missing_package(f"{scheme}://", error)
    except ValueError:
        pass
    return f"{scheme}:// is not known; allowed: {_ALLOWED}"


def _check_data_uri(uri: str) -> None:
    head = _DATA_URI.match(uri)
    if not head:
        raise NotAPictureError("a data URI must be data:image/<format>;base64,<data>")
    try:
        content = base64.b64decode(uri[head.end() :], validate=True)
    except ValueError as error:
        raise NotAPictureError(f"the base64 data of the URI is broken: {error}") from None
    check_head(content, "the data of the URI")
