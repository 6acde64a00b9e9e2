"""The perceptual hash of a picture: 64 bits that hardly change when the picture is scaled, compressed or toned.

The bits say which low frequencies of the brightness are above their median (pHash). The distance of two hashes is the
number of bits that differ: 0 to 64, about 32 for unrelated pictures.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

BITS: Final = 64
_SIDE: Final = 32
_FREQUENCIES: Final = 8

Hashes: TypeAlias = npt.NDArray[np.uint64]


def _cosines() -> npt.NDArray[np.float64]:
    """Return the first rows of the matrix of the discrete cosine transform (DCT-II)."""
    frequency, position = np.arange(_FREQUENCIES)[:, None], np.arange(_SIDE)[None, :]
    return np.asarray(np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE)))


_COSINES: Final = _cosines()
_POPCOUNT: Final = np.array([value.bit_count() for value in range(2**16)], np.uint8)


def perceptual_hash(image: Image.Image) -> int:
    """Return the hash of a picture of any size."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = _COSINES @ np.asarray(grey, np.float64) @ _COSINES.T
    # Rounded, so that the last bits of floating-point sums decide nothing.
    values = np.round(values, 6).ravel()
    bits = values > np.median(values[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hex_of(value: int) -> str:
    """Return a hash as 16 hex digits."""
    return f"{value:016x}"


def hashes_of(texts: list[str]) -> Hashes:
    """Return hashes from their hex digits."""
    return np.array([int(text, 16) for text in texts], np.uint64)


def distance(one: int, other: int) -> int:
    """Return the number of bits in which two hashes differ."""
    return (one ^ other).bit_count()


def distances(one: Hashes, other: Hashes) -> npt.NDArray[np.uint8]:
    """Return the distance of each pair of hashes."""
    words = np.ascontiguousarray(one ^ other).view(np.uint16).reshape(-1, 4)
    return np.asarray(_POPCOUNT[words].sum(axis=1, dtype=np.uint8))
