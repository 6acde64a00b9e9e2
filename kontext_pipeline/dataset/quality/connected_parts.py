"""The connected parts of a mask, without SciPy."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.int64]


def largest_part(mask: Mask) -> int:
    """Return the number of pixels of the largest part of a mask that is connected by sides; 0 for an empty mask."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    # Runs of set pixels in each line are the nodes: far fewer than pixels.
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    if not len(rows):
        return 0
    run_of = np.zeros((height, width), np.int64)
    run_of[mask] = np.repeat(np.arange(len(rows)), ends - starts)
    touching = mask[1:] & mask[:-1]
    links = np.unique(run_of[1:][touching] * len(rows) + run_of[:-1][touching])
    labels = join(len(rows), links // len(rows), links % len(rows))
    return int(np.bincount(labels, weights=ends - starts).max())


def join(nodes: int, one: Indices, other: Indices) -> Indices:
    """Return for each node the smallest node that it is joined with, directly or by way of others.

    `one` and `other` are the ends of each link.
    """
    labels = np.arange(nodes)
    while len(one):
        low, high = np.minimum(labels[one], labels[other]), np.maximum(labels[one], labels[other])
        open_links = low != high
        one, other, low, high = one[open_links], other[open_links], low[open_links], high[open_links]
        np.minimum.at(labels, high, low)
        while not np.array_equal(shorter := labels[labels], labels):
            labels = shorter
    return labels
