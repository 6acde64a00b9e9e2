"""The model's parameters as the gateway checks them: by the source document, one error for the first fault."""

from collections.abc import Mapping
from typing import Any, Final

from kontext_pipeline.sandbox.renderer import Recipe
from kontext_pipeline.segmind.model import (
    ASPECT_RATIOS,
    DEFAULT_ASPECT_RATIO,
    DEFAULT_OUTPUT_FORMAT,
    DEFAULT_SAFETY_TOLERANCE,
    OUTPUT_FORMATS,
    SAFETY_TOLERANCES,
    SEEDS,
)

DEFAULT_SEED: Final = 123
"""What the provider fills in for an absent seed, by the source document."""


class BadParameter(Exception):
    """A parameter is missing or not allowed; the text names it and what is allowed."""


class Parameters:
    """A body's parameters, checked, with the provider's defaults for what is absent.

    An absent `input_image` is the one default that isn't followed: the provider would edit a demo
    picture of its own, here it means text-to-image, which is what nobody leaves out by mistake.
    """

    __slots__ = ("aspect_ratio", "input_image", "output_format", "prompt", "safety_tolerance", "seed")

    def __init__(self, body: Mapping[str, Any]) -> None:
        """Check `body`. Raises BadParameter."""
        self.prompt = _text(body, "prompt", required=True)
        if not self.prompt.strip():
            raise BadParameter("prompt must not be empty")
        self.input_image = _text(body, "input_image") if "input_image" in body else None
        self.aspect_ratio = _choice(body, "aspect_ratio", ASPECT_RATIOS, DEFAULT_ASPECT_RATIO)
        self.output_format = _choice(body, "output_format", OUTPUT_FORMATS, DEFAULT_OUTPUT_FORMAT)
        self.safety_tolerance = _integer(body, "safety_tolerance", SAFETY_TOLERANCES, DEFAULT_SAFETY_TOLERANCE)
        self.seed = _integer(body, "seed", SEEDS, DEFAULT_SEED)

    def recipe(self, input_image: Any) -> Recipe:
        """Return what to draw, from the picture that `input_image` led to."""
        return Recipe(self.prompt, self.seed, self.aspect_ratio, self.output_format, input_image)


def _text(body: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    if required and name not in body:
        raise BadParameter(f"{name} is required")
    value = body[name]
    if not isinstance(value, str):
        raise BadParameter(f"{name} must be a string")
    return value


def _choice(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or value not in allowed:
        raise BadParameter(f"{name} must be one of {', '.join(allowed)}")
    return value


def _integer(body: Mapping[str, Any], name: str, allowed: range, default: int) -> int:
    value = body.get(name, default)
    # JSON knows no integers: 3.0 is the integer 3, as in JSON schema; true is none, though Python says so.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadParameter(f"{name} must be an integer")
    if value not in allowed:
        raise BadParameter(f"{name} must be between {allowed.start} and {allowed.stop - 1}")
    return value
