"""Near-duplicates among many perceptual hashes, found through an index: never every pair is compared.

A hash has four bands of 16 bits. Of two hashes with a distance of 7 or less, one band at least differs by one bit or none
(multi-index hashing), so only hashes in the same or a neighbouring bucket of a band are compared.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from kontext_pipeline.dataset.quality.connected_parts import join
from kontext_pipeline.dataset.quality.perceptual_hash import BITS, Hashes, distances

RADIUS: Final = 7
"""Largest distance at which a pair is found."""
MOST_IN_A_BUCKET: Final = 128
"""Hashes of a bucket that a hash is compared with. Larger buckets hold hundreds of pictures that are alike: a hash then
finds some of its near-duplicates, not each of them."""
_BAND_BITS: Final = 16
_CHUNK: Final = 10_000

Indices: TypeAlias = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of indices, the lower one first, and their distances."""

    one: Indices
    other: Indices
    distance: npt.NDArray[np.uint8]


def near_pairs(hashes: Hashes, *, radius: int = RADIUS) -> Pairs:
    """Return each pair of hashes with a distance of at most `radius`, which is at most `RADIUS`; sorted."""
    found = [np.unique(codes) for codes in _candidates(hashes, radius)]
    codes = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    one, other = codes // max(1, len(hashes)), codes % max(1, len(hashes))
    return Pairs(one, other, distances(hashes[one], hashes[other]))


def _candidates(hashes: Hashes, radius: int) -> Iterator[Indices]:
    count = len(hashes)
    for shift in range(0, BITS, _BAND_BITS):
        band = ((hashes >> np.uint64(shift)) & np.uint64(2**_BAND_BITS - 1)).astype(np.int64)
        order = np.argsort(band, kind="stable")
        keys = band[order]
        for flip in (0, *(1 << bit for bit in range(_BAND_BITS))):
            for start in range(0, count, _CHUNK):
                asking = np.arange(start, min(count, start + _CHUNK))
                wanted = band[asking] ^ flip
                first = np.searchsorted(keys, wanted, side="left")
                length = np.searchsorted(keys, wanted, side="right") - first
                length = np.minimum(length, MOST_IN_A_BUCKET)
                one = np.repeat(asking, length)
                offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
                other = order[np.repeat(first, length) + offset]
                low, high = np.minimum(one, other), np.maximum(one, other)
                near = (low != high) & (distances(hashes[low], hashes[high]) <= radius)
                yield low[near] * count + high[near]


def groups(hashes: Hashes, *, radius: int) -> Indices:
    """Return for each hash the smallest index of those that it is joined with.

    Two hashes are joined by a distance of at most `radius`, also by way of others.
    """
    pairs = near_pairs(hashes, radius=radius)
    return join(len(hashes), pairs.one, pairs.other)
