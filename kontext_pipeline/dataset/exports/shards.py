"""Shards: how samples are cut into files, and what a file follows from.

A cut depends on the samples beside it alone. So where samples are added or left out, the shards around them change, and the
others stay.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from kontext_pipeline.dataset.exports.sample_pictures import PICTURE_VERSION, Loaded, PictureReader, Sample, read_ahead

SHARD_VERSION: Final = 1
"""Part of the digest of every shard. Raise the version when the same samples must give other files."""
SAMPLE_BYTES: Final = 4096
"""Bytes of a sample besides its pictures, about."""
READ_AHEAD_BYTES: Final = 64 * 2**20
"""Bytes of pictures that wait for their turn to be written, at most."""


Extensions = tuple[str | None, ...]
"""The format of each picture of a sample, by its extension; None: the picture keeps its bytes."""

LoadedSamples = Iterator[tuple[Sample, list[Loaded] | str]]
"""Samples with their pictures, or with the reason, one of `REASONS`, for which a sample has none."""

Chunks = Iterable[tuple[LoadedSamples, pa.Table]]
"""Samples with their pictures, and their rows, in the same order, a few at a time."""


@dataclass(slots=True)
class ShardFacts:
    """What became of the samples of a shard: rows and bytes of their pictures, and ids by reason of those left out."""

    rows: int = 0
    bytes: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, sample: Sample, reason: str) -> None:
        """Count a sample without its pictures."""
        self.left_out.setdefault(reason, []).append(sample.id)

    def add(self, pictures: list[Loaded]) -> int:
        """Count a sample, and return the bytes of its pictures."""
        size = sum(len(one.data) for one in pictures)
        self.rows += 1
        self.bytes += size
        return size

    def as_dict(self) -> dict[str, Any]:
        """Return these facts for the record of the export."""
        return {"rows": self.rows, "bytes": self.bytes, **({"left_out": self.left_out} if self.left_out else {})}


def cut(samples: Iterable[Sample], extensions: Extensions, most_bytes: int) -> list[slice]:
    """Return the shards of samples: each has about `most_bytes` at most, and no fewer than a quarter but for the last."""
    shards: list[slice] = []
    start, held, number = 0, 0, -1
    for number, sample in enumerate(samples):
        size = size_of(sample, extensions)
        if held and held + size > most_bytes:
            shards.append(slice(start, number))
            start, held = number, 0
        held += size
        # On average, a shard ends a quarter of the limit after the first quarter.
        chance = int.from_bytes(hashlib.sha256(sample.key.encode()).digest()[:8]) / 2**64
        if held >= most_bytes / 4 and chance < 4 * size / most_bytes:
            shards.append(slice(start, number + 1))
            start, held = number + 1, 0
    if start <= number:
        shards.append(slice(start, number + 1))
    return shards


def size_of(sample: Sample, extensions: Extensions) -> int:
    """Return the bytes of a sample in a shard, about."""
    pictures = zip(sample.pictures, extensions, strict=True)
    return SAMPLE_BYTES + sum(picture.bytes_as(extension) for picture, extension in pictures)


class ShardDigest:
    """The digest of all that a shard, or a table of samples, follows from. Its samples are added a few at a time."""

    def __init__(self, layout: str, extensions: Extensions) -> None:
        self._digest = hashlib.sha256(repr((SHARD_VERSION, PICTURE_VERSION, layout, extensions)).encode())

    def add(self, samples: Sequence[Sample], rows: pa.Table) -> None:
        """Add samples and their rows."""
        for sample in samples:
            pictures = [(one.path, one.sha256, one.bytes) for one in sample.pictures]
            self._digest.update(repr((sample.key, pictures)).encode())
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, rows.schema) as writer:
            writer.write_table(rows.combine_chunks())
        self._digest.update(stream.getvalue())

    def hexdigest(self) -> str:
        """Return the digest as 64 hex digits."""
        return self._digest.hexdigest()


def loaded_samples(reader: PictureReader, samples: Sequence[Sample], extensions: Extensions) -> LoadedSamples:
    """Yield each sample with its pictures, or with the reason for which it has none."""
    return read_ahead(
        samples,
        lambda sample: reader.try_all(sample, extensions),
        weight=lambda sample: size_of(sample, extensions),
        most=READ_AHEAD_BYTES,
    )
