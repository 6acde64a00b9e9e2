"""Checking the column `input_image` of a manifest: http(s) URLs, data URIs and paths of local files."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.cells import matches
from kontext_pipeline.planning.input_files import (
    HEAD_BYTES,
    PICTURE_FORMATS,
    InputFile,
    NotAPictureError,
    inspect,
    is_picture,
)
from kontext_pipeline.planning.problems import FileProblems, quoted
from kontext_pipeline.planning.sources import Manifest, absolute

_WEB_URL: Final = r"^(?i:https?)://[^\s/?#\x00-\x1f\x7f]+[^\s\x00-\x1f\x7f]*$"
_SCHEME: Final = r"^[A-Za-z][A-Za-z0-9+.-]+:"
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
    """Check a column of input images; what is not allowed is a problem.

    Args:
        images: The values, null where there is none.
        numbers: The row numbers.
        manifest: The manifest; local paths are relative to its folder.
        known: Local files that are known already, by path.
        problems: Collects the problems.

    Returns:
        A column with the absolute path of each local file (else null), and those files by path.
    """
    nowhere = pa.chunked_array([pa.nulls(len(images), pa.string())])
    if images.null_count == len(images):
        return nowhere, {}
    is_web = matches(images, _WEB_URL)
    is_data = matches(images, "^(?i:data):")
    is_other = pc.and_not(matches(images, _SCHEME), pc.or_(is_web, is_data))
    is_local = pc.and_not(pc.is_valid(images), pc.or_(pc.or_(is_web, is_data), is_other))

    def add_where(mask: pa.ChunkedArray, text: Callable[[int], str]) -> None:
        problems.add_where(mask, numbers, text, "input_image")

    add_where(is_other, lambda index: f"{quoted(images[index].as_py())} is not allowed; allowed: {_ALLOWED}")
    files: dict[str, InputFile] = {}

    def check_local(value: str) -> str:
        file = inspect(_path(value, manifest), known)
        files[file.path] = file
        return file.path

    _, reasons = _checked(images, is_data, _check_data_uri)
    add_where(pc.is_valid(reasons), lambda index: str(reasons[index]))
    paths, reasons_local = _checked(images, is_local, check_local)
    add_where(
        pc.is_valid(reasons_local),
        lambda index: f"{quoted(images[index].as_py())}: {reasons_local[index]}",
    )
    return pa.chunked_array([paths]), files


def _checked(
    values: pa.ChunkedArray, mask: pa.ChunkedArray, check: Callable[[str], str | None]
) -> tuple[pa.Array, pa.Array]:
    """Call `check` for each different value where `mask` is true.

    Returns:
        Two string columns as long as `values`: what `check` returned, and the text of the `NotAPictureError` that
        it raised.
    """
    different = pc.unique(values.filter(mask))
    results: list[str | None] = []
    reasons: list[str | None] = []
    for value in different.to_pylist():
        try:
            results.append(check(value))
            reasons.append(None)
        except NotAPictureError as error:
            results.append(None)
            reasons.append(str(error))
    indices = pc.if_else(mask, pc.index_in(values, value_set=different), pa.scalar(None, pa.int32()))
    indices = indices.combine_chunks()
    return (
        pa.array(results, pa.string()).take(indices),
        pa.array(reasons, pa.string()).take(indices),
    )


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
    if not is_picture(content[:HEAD_BYTES]):
        raise NotAPictureError(f"the data of the URI is no picture of a known format ({PICTURE_FORMATS})")
