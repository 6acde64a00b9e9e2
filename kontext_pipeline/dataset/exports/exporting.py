"""An export from its beginning to its end: select, write, describe, and let the files take their places."""

import contextlib
import errno
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from upath import UPath

from kontext_pipeline.dataset.exports.card import CARD, CardFacts, card, owners_card
from kontext_pipeline.dataset.exports.croissant import CROISSANT, croissant
from kontext_pipeline.dataset.exports.export_folder import ExportFolder, open_export
from kontext_pipeline.dataset.exports.export_job import ExportJob, Part
from kontext_pipeline.dataset.exports.export_options import ExportError, ExportOptions
from kontext_pipeline.dataset.exports.layouts import shard_extensions, write_part
from kontext_pipeline.dataset.exports.sample_pictures import PictureReader
from kontext_pipeline.dataset.exports.sample_rows import SampleRows
from kontext_pipeline.dataset.exports.selection import WRONG, LeftOut, select
from kontext_pipeline.dataset.review.decisions import read_decisions
from kontext_pipeline.files import is_local

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int], None]
"""Is told of samples that are done, and of all samples."""


@dataclass(frozen=True, slots=True)
class Export:
    """An export that was made.

    Attributes:
        out: The folder.
        parts: Its configurations and splits.
        left_out: Why other rows have no sample.
        leaks, leaks_shown: Groups of input pictures that the manifest has put into several splits, and the first of them.
        files, bytes: Its files without `export.json`, and their size.
        written: Files that were written; the others were there.
        changed: Whether the export differs from the one that was there before.
        sha256: Of `export.json`, so of the whole export.
    """

    out: str
    parts: list[Part]
    left_out: LeftOut
    leaks: int
    leaks_shown: list[str]
    files: int
    bytes: int
    written: int
    changed: bool
    sha256: str

    @property
    def samples(self) -> int:
        """All samples."""
        return sum(part.rows for part in self.parts)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, and no picture is in several splits."""
        return not self.leaks and not any(self.left_out.counts[reason] for reason in WRONG)


def folder_of(out: str) -> UPath:
    """Return the folder of a path or URL. A local path is absolute."""
    folder = UPath(out)
    return UPath(folder.path).expanduser().absolute() if is_local(folder) else folder


def export_dataset(
    data_dir: UPath,
    out: UPath,
    options: ExportOptions,
    *,
    progress: Progress | None = None,
    published_card: str | None = None,
) -> Export:
    """Export the dataset of a data directory to a folder, which is new or has an earlier export.

    `published_card` is the card of an export that was published before: the owner's text in it stays.

    Raises:
        ExportError: The export can't be made as it is asked for, or there is no room. An earlier export is as it was.
        DatasetError: A metadata table can't be read.
        ReviewError: The decisions can't be read.
        OSError: Something can't be read or written. An earlier export is as it was.
    """
    with _explained(out), open_export(out, data_dir) as folder:
        decisions = read_decisions(data_dir)
        selection = select(data_dir, decisions, options)
        # The rows that were not selected are gone; the system can have their memory back.
        pa.default_memory_pool().release_unused()
        total, done = selection.samples, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        rows = SampleRows(data_dir, selection, decisions, options)
        configs = dict.fromkeys(config for config, _ in selection.parts)
        extensions = {config: shard_extensions(options, selection.parts, config) for config in configs}
        job = ExportJob(options, folder, PictureReader(data_dir), rows, extensions, advance)
        written = [write_part(job, config, split, table) for (config, split), table in selection.parts.items()]
        left_out = selection.left_out
        for part in written:
            for reason, ids in part.left_out.items():
                left_out.add(reason, ids)
        facts = CardFacts(
            options=options,
            parts=written,
            columns={config: rows.schema(config) for config in extensions},
            extensions=extensions,
            left_out=left_out,
            rows=selection.rows,
            cost_usd=selection.cost_usd,
            exported_usd=selection.exported_usd,
            backends=selection.backends,
            leaks=selection.leaks,
        )
        _put_text(folder, CROISSANT, croissant(facts, folder.entries()))
        _put_text(folder, CARD, card(facts, old=owners_card(folder.read_text(CARD), published_card)))
        head = _head(facts)
        record, changed = folder.commit(head)
        entries = folder.entries()
        return Export(
            out=str(out),
            parts=written,
            left_out=left_out,
            leaks=selection.leaks,
            leaks_shown=selection.leaks_shown,
            files=len(entries),
            bytes=sum(entry.bytes for entry in entries),
            written=folder.written,
            changed=changed,
            sha256=record.sha256,
        )


def _head(facts: CardFacts) -> dict[str, Any]:
    """Return what the record says of the export as a whole."""
    options = facts.options
    return {
        "layout": options.layout,
        "direction": options.direction,
        "validation": options.validation,
        "seed": options.seed,
        "include_rejected": options.include_rejected,
        "image_format": options.image_format,
        "samples": {f"{part.config}/{part.split}": part.rows for part in facts.parts},
        "left_out": dict(sorted(facts.left_out.counts.items())),
    }


def _put_text(folder: ExportFolder, path: str, text: str) -> None:
    data = text.encode()

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    folder.put(path, hashlib.sha256(data).hexdigest(), write)


@contextlib.contextmanager
def _explained(out: UPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ExportError(
            f"{out} can't be written: {error.strerror}. An earlier export there is as it was. Make room and start again: "
            "the export goes on with the files that are complete."
        ) from error
