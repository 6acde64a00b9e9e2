"""FLUX.1 Kontext [max] as the provider publishes it: name, price, duration and parameters.

The figures come from the source document, whose sample is the first row of the demo manifest in `data/`.
"""

from typing import Final

MODEL: Final = "flux-kontext-max"
LIST_PRICE_USD: Final = 0.10
"""USD for a generation. The actual cost of an attempt is the one that its answer names."""
HIGHEST_COST_USD: Final = 100 * LIST_PRICE_USD
"""The highest cost of a generation that is believed, USD: room for every change of the price, and none for a figure
that would use up a budget at once."""
TYPICAL_LATENCY_S: Final = 24.34
"""Seconds for a generation."""

ASPECT_RATIOS: Final = (
    *("match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4"),
    *("21:9", "9:21", "2:1", "1:2"),
)
"""The ten of the source document, then the four that the model's public schema adds."""
OUTPUT_FORMATS: Final = ("png", "jpg")
SAFETY_TOLERANCES: Final = range(1, 7)
"""1 is the strictest, 6 the most permissive."""
MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE: Final = 2
"""The maximum beside an input image according to the provider's note, although its own sample sends 6."""
SEEDS: Final = range(2**32)
"""The source document says only "integer". Every sampler takes four bytes."""

DEFAULT_ASPECT_RATIO: Final = "16:9"
DEFAULT_OUTPUT_FORMAT: Final = "png"
DEFAULT_SAFETY_TOLERANCE: Final = 2
