"""The layouts, by name; and those of shards, `parquet` and `webdataset`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from kontext_pipeline.dataset.exports.export_job import DECODED_BY_ALL, ExportJob, Part, chunks
from kontext_pipeline.dataset.exports.export_options import ExportOptions
from kontext_pipeline.dataset.exports.image_folder import write_image_folder
from kontext_pipeline.dataset.exports.image_pairs import write_pairs
from kontext_pipeline.dataset.exports.parquet_shard import write_parquet
from kontext_pipeline.dataset.exports.reduced_rows import EDITS
from kontext_pipeline.dataset.exports.sample_rows import PICTURES
from kontext_pipeline.dataset.exports.shards import Extensions, ShardDigest, cut, loaded_samples
from kontext_pipeline.dataset.exports.tar_shard import write_tar

SUFFIXES: Final = {"parquet": "parquet", "webdataset": "tar"}


def write_part(job: ExportJob, config: str, split: str, table: pa.Table) -> Part:
    """Write the samples of one configuration and split, rows of a selection, in the layout that the options name.

    Raises:
        OSError: The export can't be written, or the data directory not read.
    """
    part = Part(config, split)
    match job.options.layout:
        case "imagefolder":
            write_image_folder(job, part, table)
        case "pairs":
            write_pairs(job, part, table)
        case _:
            _write_shards(job, part, table)
    return part


def shard_extensions(options: ExportOptions, parts: Mapping[tuple[str, str], pa.Table], config: str) -> Extensions:
    """Return the format of each picture in the shards of a configuration, whatever the split. `parts` are all samples.

    `datasets` refuses a set of tar files whose samples have different extensions, so pictures of several formats, or of one
    that not all readers decode, become PNG, which has the same pixels.
    """
    names = PICTURES[config]
    if options.image_format is not None or options.layout == "parquet":
        return (options.image_format,) * len(names)
    found: list[set[str]] = [set() for _ in names]
    for (its_config, _), table in parts.items():
        if its_config == config:
            for samples, _ in chunks(table, config):
                for sample in samples:
                    for kinds, picture in zip(found, sample.pictures, strict=True):
                        kinds.add(picture.extension)
    return tuple(kinds.pop() if len(kinds) == 1 and kinds <= DECODED_BY_ALL else "png" for kinds in found)


def _write_shards(job: ExportJob, part: Part, table: pa.Table) -> None:
    extensions = job.extensions[part.config]
    every = (sample for samples, _ in chunks(table, part.config) for sample in samples)
    shards = cut(every, extensions, job.options.shard_bytes)
    folder = "data" if part.config == EDITS else part.config
    for number, place in enumerate(shards):
        digest = ShardDigest(job.options.layout, extensions)
        for samples, some in chunks(table[place], part.config):
            digest.add(samples, job.rows.rows(some, part.config))
        path = f"{folder}/{part.split}-{number:05}-of-{len(shards):05}.{SUFFIXES[job.options.layout]}"
        write = partial(_write_shard, job, table[place], part.config)
        facts = job.folder.put(path, digest.hexdigest(), write, may_move=True).facts or {}
        part.rows += facts["rows"]
        part.bytes += facts["bytes"]
        for reason, ids in facts.get("left_out", {}).items():
            part.leave_out(reason, ids)
        job.advance(place.stop - place.start)


def _write_shard(job: ExportJob, table: pa.Table, config: str, path: Path) -> dict[str, Any]:
    loaded = (
        (loaded_samples(job.reader, samples, job.extensions[config]), job.rows.rows(some, config))
        for samples, some in chunks(table, config)
    )
    write = write_parquet if job.options.layout == "parquet" else write_tar
    return write(path, job.rows.schema(config), loaded, PICTURES[config])
