"""The layout `pairs`: two folders with files of the same names, as trainers of edit models read them.

    edited/KEY.<ext>    edited/KEY.txt    the edited picture, and its caption: the prompt
    input/KEY.<ext>                       the picture that it was made from
    pairs.jsonl                           `image_path`, `control_path` and `caption` of each, then the other columns

These are of the split `train`. Other splits have the same in a folder with their name. Rows without an input picture are in
`text_to_image/`, picture beside caption.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from kontext_pipeline.dataset.exports.export_job import (
    DECODED_BY_ALL,
    ExportJob,
    Part,
    chunks,
    content_digest,
)
from kontext_pipeline.dataset.exports.export_options import ExportOptions
from kontext_pipeline.dataset.exports.reduced_rows import EDITS
from kontext_pipeline.dataset.exports.sample_pictures import Loaded, Sample, read_ahead
from kontext_pipeline.dataset.exports.sample_rows import PROMPTS, json_value
from kontext_pipeline.dataset.exports.shards import READ_AHEAD_BYTES
from kontext_pipeline.dataset.exports.splits import TRAIN

PAIRS: Final = "pairs.jsonl"


class _Pair(NamedTuple):
    """A sample, its caption, the format that its pictures get, their paths, and whether they are there already."""

    sample: Sample
    caption: str
    extension: str | None
    paths: tuple[str, ...]
    there: bool


def pair_extension(options: ExportOptions, sample: Sample) -> str | None:
    """Return the format that the pictures of a pair get; None: they have one already, and keep their bytes.

    Trainers look for the other picture of a pair under the same name, extension included.
    """
    if options.image_format is not None:
        return options.image_format
    kinds = {picture.extension for picture in sample.pictures}
    return None if len(kinds) == 1 and kinds <= DECODED_BY_ALL else "png"


def pairs_root(config: str, split: str) -> str:
    """Return the folder of a configuration and split, relative to the export: empty, or with a slash at its end."""
    return ("" if split == TRAIN else f"{split}/") + ("" if config == EDITS else f"{config}/")


def write_pairs(job: ExportJob, part: Part, table: pa.Table) -> None:
    """Write the samples of one configuration and split, and count them.

    Raises:
        OSError: The export can't be written, or the data directory not read.
    """
    root = pairs_root(part.config, part.split)
    missing: dict[str, str] = {}
    loaded = read_ahead(
        _pairs(job, part.config, root, table),
        lambda pair: None if pair.there else job.reader.try_all(pair.sample, [pair.extension] * len(pair.paths)),
        weight=lambda pair: sum(picture.bytes_as(pair.extension) for picture in pair.sample.pictures),
        most=READ_AHEAD_BYTES,
    )
    for pair, found in loaded:
        job.advance(1)
        if isinstance(found, str):
            missing[pair.sample.key] = found
            part.leave_out(found, [pair.sample.id])
            for path in pair.paths:
                job.folder.drop(path)
            continue
        part.rows += 1
        for number, (path, picture) in enumerate(zip(pair.paths, pair.sample.pictures, strict=True)):
            write = partial(_write_picture, found or [], number)
            part.bytes += job.folder.put(path, content_digest(picture, pair.extension), write).bytes
        text = pair.caption.encode()
        # The caption is beside the picture that is learned, the last one.
        path = f"{pair.paths[-1].rpartition('.')[0]}.txt"
        job.folder.put(path, hashlib.sha256(text).hexdigest(), partial(_write_text, text))
    digest = hashlib.sha256()
    for line in _lines(job, part.config, table, missing):
        digest.update(line)
    job.folder.put(
        f"{root}{PAIRS}", digest.hexdigest(), lambda path: _write_lines(_lines(job, part.config, table, missing), path)
    )


def _pairs(job: ExportJob, config: str, root: str, table: pa.Table) -> Iterator[_Pair]:
    for samples, part in chunks(table, config):
        captions = job.rows.rows(part, config)[PROMPTS[config]].to_pylist()
        for sample, caption in zip(samples, captions, strict=True):
            extension = pair_extension(job.options, sample)
            paths = tuple(f"{root}{path}" for path in _paths(sample, config, extension))
            there = [
                job.folder.reuse(path, content_digest(picture, extension)) is not None
                for path, picture in zip(paths, sample.pictures, strict=True)
            ]
            yield _Pair(sample, caption or "", extension, paths, all(there))


def _paths(sample: Sample, config: str, extension: str | None) -> tuple[str, ...]:
    folders = ("input/", "edited/") if config == EDITS else ("",)
    return tuple(
        f"{folder}{sample.key}.{extension or picture.extension}"
        for folder, picture in zip(folders, sample.pictures, strict=True)
    )


def _lines(job: ExportJob, config: str, table: pa.Table, missing: dict[str, str]) -> Iterator[bytes]:
    for samples, part in chunks(table, config):
        for sample, row in zip(samples, job.rows.rows(part, config).to_pylist(), strict=True):
            if sample.key in missing:
                continue
            *control, image = _paths(sample, config, pair_extension(job.options, sample))
            line: dict[str, Any] = {"image_path": image}
            if control:
                line["control_path"] = control[0]
            line["caption"] = row.pop(PROMPTS[config]) or ""
            line.update({name: json_value(value) for name, value in row.items()})
            yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _write_picture(found: list[Loaded], number: int, path: Path) -> None:
    path.write_bytes(found[number].data)


def _write_text(text: bytes, path: Path) -> None:
    path.write_bytes(text)


def _write_lines(lines: Iterator[bytes], path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(lines)
