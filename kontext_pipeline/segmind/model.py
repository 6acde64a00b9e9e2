"""What the provider publishes of FLUX.1 Kontext [max]: its name, price, time and parameters.

The figures are the source document's (`data/` ships its sample as the first row of the demo manifest);
`ASPECT_RATIOS` holds the ten it lists and the four that the model's public schema adds.
"""

from typing import Final

MODEL: Final = "flux-kontext-max"
LIST_PRICE_USD: Final = 0.10
"""USD a generation, by the price list. What an attempt really cost is what its answer says."""
TYPICAL_LATENCY_S: Final = 24.34
"""Seconds a generation takes, by the source document."""

ASPECT_RATIOS: Final = (
    "match_input_image",
    "1:1",
    "16:9",
    "9:16",
    "4:3",
    "3:4",
    "3:2",
    "2:3",
    "4:5",
    "5:4",
    "21:9",
    "9:21",
    "2:1",
    "1:2",
)
OUTPUT_FORMATS: Final = ("png", "jpg")
SAFETY_TOLERANCES: Final = range(1, 7)
"""1 is the strictest, 6 the most permissive."""
MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE: Final = 2
"""What the provider's note allows beside an input image; its own sample sends 6."""
SEEDS: Final = range(2**32)
"""The source says no more than "integer"; four bytes are what every sampler takes."""

DEFAULT_ASPECT_RATIO: Final = "16:9"
DEFAULT_OUTPUT_FORMAT: Final = "png"
DEFAULT_SAFETY_TOLERANCE: Final = 2
