"""Pictures that a manifest holds itself, in its column of input images.

Each different picture is kept in the input store and known by its content, as a local file is. A manifest of them may
be larger than memory, so a few are read at a time and dropped once they are kept.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.files import AnyPath
from kontext_pipeline.inputs.input_store import InputStore, NotAnImage
from kontext_pipeline.planning.cells import plain
from kontext_pipeline.planning.input_files import KEPT_MTIME_NS, InputFile, NotAPictureError, check_head
from kontext_pipeline.planning.problems import FileProblems

_THREADS: Final = 4
_LONGEST_TEXT_BYTES: Final = 2**16


@dataclass(slots=True)
class EmbeddedPictures:
    """What became of a column of pictures, row by row.

    Attributes:
        addresses: The path that a picture had, else where it is kept, relative to the data directory; in a row
            without a picture, the address that it has instead.
        sources: The absolute path or URL of the kept picture; null in a row without one.
        files: The kept pictures by `sources`.
    """

    addresses: pa.ChunkedArray
    sources: pa.ChunkedArray
    files: dict[str, InputFile] = field(default_factory=dict)


def may_hold_pictures(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold pictures: binary, or `struct<bytes, path>`."""
    if pa.types.is_dictionary(kind):
        return may_hold_pictures(kind.value_type)
    if pa.types.is_struct(kind):
        types = {field.name: field.type for field in kind}
        is_path = types.get("path", pa.null()) in (pa.null(), pa.string(), pa.large_string(), pa.string_view())
        return set(types) <= {"bytes", "path"} and is_path and _is_binary(types.get("bytes", pa.null()))
    return _is_binary(kind) and not pa.types.is_null(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.null(), pa.binary(), pa.large_binary(), pa.binary_view()) or pa.types.is_fixed_size_binary(kind)


def keep_pictures(
    batches: Iterator[pa.Array], numbers: npt.NDArray[np.int64], data_dir: "AnyPath | None", problems: FileProblems
) -> EmbeddedPictures:
    """Keep the pictures of a column in the data directory's input store (None: only check them).

    `numbers` are the row numbers. A value that is no picture is a problem. Text in a binary column is an address.
    """
    addresses: list[pa.Array] = []
    sources: list[pa.Array] = []
    files: dict[str, InputFile] = {}
    row = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch in batches:
            contents, paths = _contents_and_paths(batch)
            kept = list(pool.map(lambda content: _kept(content, data_dir), contents))
            found_addresses, found_sources = [], []
            for index, one in enumerate(kept):
                address, source = paths[index], None
                if isinstance(one, NotAPictureError):
                    problems.add(str(one), row=int(numbers[row + index]), column="input_image")
                    address = None
                elif one is not None:
                    file, relative = one
                    files[file.path] = file
                    address, source = address or relative, file.path
                found_addresses.append(address)
                found_sources.append(source)
            addresses.append(pa.array(found_addresses, pa.string()))
            sources.append(pa.array(found_sources, pa.string()))
            row += len(batch)
    text = pa.string()
    return EmbeddedPictures(
        pa.chunked_array([pa.chunked_array(addresses, text).combine_chunks()], text),
        pa.chunked_array([pa.chunked_array(sources, text).combine_chunks()], text),
        files,
    )


def _contents_and_paths(batch: pa.Array) -> tuple[list[bytes | None], list[str | None]]:
    """Return for each row the bytes of a picture, if there are any, and the address, if there is one."""
    values = plain(pa.chunked_array([batch])).combine_chunks()
    if pa.types.is_struct(values.type):
        names = [field.name for field in values.type]
        contents, paths = (
            pc.struct_field(values, name).to_pylist() if name in names else [None] * len(values)
            for name in ("bytes", "path")
        )
        return [content or None for content in contents], [path or None for path in paths]
    contents = values.to_pylist()
    texts = [_text(content) for content in contents]
    return [content if content and text is None else None for content, text in zip(contents, texts, strict=True)], texts


def _text(content: bytes | None) -> str | None:
    """Return the text that the bytes are. No picture is text: each has control characters."""
    if not content or (len(content) > _LONGEST_TEXT_BYTES and not content.startswith(b"data:")):
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if any(ord(letter) < 32 for letter in text) else text


def _kept(content: bytes | None, data_dir: "AnyPath | None") -> tuple[InputFile, str] | NotAPictureError | None:
    """Return the kept picture and its path in the data directory, None without one, or what is wrong with it."""
    if content is None:
        return None
    try:
        if data_dir is None:
            check_head(content, "the value")
            return InputFile("in the manifest", len(content), KEPT_MTIME_NS), "in the manifest"
        kept = InputStore(data_dir).keep(content)
    except NotAPictureError as error:
        return error
    except NotAnImage as error:
        return NotAPictureError(str(error))
    path = data_dir / kept.path
    source = str(path.absolute()) if isinstance(path, Path) else str(path)
    return InputFile(source, kept.bytes, KEPT_MTIME_NS, kept.sha256), kept.path
