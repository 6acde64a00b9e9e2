"""The measures: what is measured of each picture, each with its version.

A measure whose version rises is measured again, for every picture. What a user may change without measuring again is
in `thresholds`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from PIL import Image

from kontext_pipeline.dataset.quality.connected_parts import largest_part
from kontext_pipeline.dataset.quality.perceptual_hash import distance, hex_of
from kontext_pipeline.dataset.quality.picture_pair import PicturePair

FLOAT: Final = pa.float64()
Value = float | str | bytes | None


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the quality table that follows from a picture and its input picture alone.

    Attributes:
        name: The column.
        meaning: What a value says, with its unit.
        compute: Returns the value; None where the pair has none.
        compares: Whether the value depends on the input picture.
        type: The column's type.
        version: Raised when the same pictures must give another value.
    """

    name: str
    meaning: str
    compute: Callable[[PicturePair], Value]
    compares: bool = False
    type: pa.DataType = FLOAT
    version: int = 1


def _cropped(ratio: float, wanted: float) -> float:
    """Return the share of a picture that has to be cropped to get from one ratio to another."""
    return 1 - min(ratio / wanted, wanted / ratio)


def _aspect_ratio_error(pair: PicturePair) -> float | None:
    width, _, height = (pair.asked_ratio or "").partition(":")
    if height:
        return _cropped(pair.ratio, int(width) / int(height))
    return _input_aspect_ratio_error(pair)


def _input_aspect_ratio_error(pair: PicturePair) -> float | None:
    return None if pair.input_ratio is None else _cropped(pair.ratio, pair.input_ratio)


def _percentile(pair: PicturePair, share: float) -> float:
    return int(np.searchsorted(pair.histogram.cumsum(), share - 1e-9)) / 255


def _contrast(pair: PicturePair) -> float:
    levels = np.arange(256) / 255
    mean = (pair.histogram * levels).sum()
    return float(np.sqrt((pair.histogram * (levels - mean) ** 2).sum()))


def _entropy(pair: PicturePair) -> float:
    shares = pair.histogram[pair.histogram > 0]
    return abs(float(-(shares * np.log2(shares)).sum()))


def _sharpness(pair: PicturePair) -> float:
    image = pair.brightness
    if min(image.size) < 3:
        # Without a pixel that has all four neighbours.
        image = image.resize((max(3, image.width), max(3, image.height)), Image.Resampling.NEAREST)
    values = np.asarray(image)
    # Every fourth line says as much as all of them.
    above, lines, below = (values[start : image.height - 2 + start : 4].astype(np.int16) for start in range(3))
    inner = lines[:, 1:-1] * 4
    inner -= above[:, 1:-1]
    inner -= below[:, 1:-1]
    inner -= lines[:, :-2]
    inner -= lines[:, 2:]
    return float(inner.var())


def _input_distance(pair: PicturePair) -> float | None:
    return None if pair.source is None else float(distance(pair.hash, pair.source.hash))


def _mean_difference(pair: PicturePair) -> float | None:
    return None if pair.difference is None else float(pair.difference.mean())


def _changed_share(pair: PicturePair) -> float | None:
    return None if pair.changed is None else float(pair.changed.mean())


def _largest_change_share(pair: PicturePair) -> float | None:
    if pair.changed is None or not pair.changed.any():
        return None
    return largest_part(pair.changed) / float(pair.changed.sum())


MEASURES: Final = (
    Measure(
        "aspect_ratio_error",
        "share of the picture to crop for the ratio that was asked for, 0 to 1",
        _aspect_ratio_error,
        compares=True,
    ),
    Measure(
        "input_aspect_ratio_error",
        "share of the picture to crop for the ratio of the input picture, 0 to 1",
        _input_aspect_ratio_error,
        compares=True,
    ),
    Measure("brightness_p5", "brightness that 5 % of the pixels don't exceed, 0 to 1", lambda p: _percentile(p, 0.05)),
    Measure(
        "brightness_p99", "brightness that 99 % of the pixels don't exceed, 0 to 1", lambda p: _percentile(p, 0.99)
    ),
    Measure("contrast", "standard deviation of the brightness, 0 to 0.5", _contrast),
    Measure("entropy", "entropy of the brightness, 0 to 8 bits", _entropy),
    Measure("sharpness", "variance of the Laplacian of the brightness; low is blurry", _sharpness),
    Measure("input_distance", "distance of the perceptual hash to that of the input, 0 to 64", _input_distance, True),
    Measure("mean_difference", "mean difference of the channels to the input, 0 to 255", _mean_difference, True),
    Measure("changed_share", "share of pixels that differ from the input by more than 40 of 255", _changed_share, True),
    Measure(
        "largest_change_share",
        "largest connected part of the changed pixels, as a share of them, 0 to 1; null where none is changed",
        _largest_change_share,
        True,
    ),
    Measure("perceptual_hash", "perceptual hash, 16 hex digits", lambda p: hex_of(p.hash), type=pa.string()),
    Measure(
        "input_perceptual_hash",
        "perceptual hash of the input picture, 16 hex digits",
        lambda p: hex_of(p.source.hash) if p.source else None,
        compares=True,
        type=pa.string(),
    ),
    Measure("color_layout", "mean colours of 8 x 8 cells, 3 bytes each", lambda p: p.color_layout, type=pa.binary()),
)
"""Every measure of this package, in the order of the table's columns."""
