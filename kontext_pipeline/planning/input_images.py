"""Checking the column `input_image` of a manifest: http(s) URLs, data URIs and paths of local files."""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.cells import matches
from kontext_pipeline.planning.input_files import InputFile, NotAPictureError, check_head, inspect
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.sources import Manifest, absolute

_WEB_URL: Final = r"^(?i:https?)://[^\s/?#\x00-\x1f\x7f]+[^\s\x00-\x1f\x7f]*$"
_SCHEME: Final = r"^[A-Za-z][A-Za-z0-9+.-]+:"
_DATA_SCHEME: Final = "^(?i:data):"
_DATA_URI: Final = re.compile(r"data:image/[a-z0-9.+-]+(?:;[a-z0-9-]+=[^;,]*)*;base64,", re.IGNORECASE)
_ALLOWED: Final = (
    "a whole http:// or https:// URL without spaces, a data:image/...;base64, URI, or the path of a file, relative "
    "to the manifest's folder"
)


def check_input_images(
    images: pa.ChunkedArray,
    numbers: npt.NDArray[np.int64],
    manifest: Manifest,
    known: Mapping[str, InputFile],
    problems: FileProblems,
) -> tuple[pa.ChunkedArray, dict[str, InputFile]]:
    """Check a column of input images, null where there is none; what is not allowed is a problem.

    Args:
        images: The column.
        numbers: The row numbers.
        manifest: Local paths are relative to its folder.
        known: Local files that are known already, by path.
        problems: Collects the problems.

    Returns:
        A column with the absolute path of each local file (else null), and those files by path.
    """
    is_web = matches(images, _WEB_URL)
    is_data = matches(images, _DATA_SCHEME)
    is_other = pc.and_not(matches(images, _SCHEME), pc.or_(is_web, is_data))
    problems.add_where(
        is_other,
        numbers,
        lambda index: f"{quoted(images[index].as_py())} is not allowed; allowed: {_ALLOWED}",
        "input_image",
    )
    different = pc.unique(images.filter(pc.and_not(pc.is_valid(images), pc.or_(is_web, is_other))))
    files: dict[str, InputFile] = {}
    paths: list[str | None] = []
    reasons: list[str | None] = []
    for value in different.to_pylist():
        path = reason = None
        try:
            if re.match(_DATA_SCHEME, value):
                _check_data_uri(value)
            else:
                file = inspect(_path(value, manifest), known)
                path = file.path
                files[path] = file
        except NotAPictureError as error:
            reason = f"{quoted(value)}: {error}"
        paths.append(path)
        reasons.append(reason)
    indices = pc.index_in(images, value_set=different.drop_null()).combine_chunks()
    why = pa.array(reasons, pa.string()).take(indices)
    problems.add_where(pc.is_valid(why), numbers, lambda index: str(why[index]), "input_image")
    return pa.chunked_array([pa.array(paths, pa.string()).take(indices)]), files


def _path(value: str, manifest: Manifest) -> Path:
    if isinstance(manifest.path, Path):
        return absolute(manifest.path.parent / value)
    if not Path(value).is_absolute():
        raise NotAPictureError("a manifest at a URL can name a local file by its absolute path only")
    return absolute(Path(value))


def _check_data_uri(uri: str) -> None:
    head = _DATA_URI.match(uri)
    if not head:
        raise NotAPictureError("a data URI must be data:image/<format>;base64,<data>")
    try:
        content = base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAPictureError(f"the base64 data of the URI is broken: {error}") from None
    check_head(content, "the data of the URI")
