"""Prompt features: what a prompt plainly asks for that the sandbox can draw. The seed decides the rest.

The words that are understood are in `vocabulary.toml`.
"""

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Final

from PIL import ImageColor

RGB = tuple[int, int, int]

_VOCABULARY: Final[dict[str, dict[str, re.Pattern[str]]]] = {
    group: {name: re.compile(rf"\b(?:{words})\b") for name, words in patterns.items()}
    for group, patterns in tomllib.loads(
        resources.files(__package__).joinpath("vocabulary.toml").read_text("utf-8")
    ).items()
}
_COLOUR_WORDS: Final = re.compile(
    r"\b(?:red|crimson|orange|yellow|gold|green|teal|turquoise|cyan|blue|navy|purple|violet|magenta|pink)\b"
)
_SOFTER: Final = {"red": "crimson", "green": "seagreen", "blue": "royalblue", "magenta": "mediumvioletred"}
_NO_COLOURS: Final = re.compile(
    r"(?:gold(?:en)?|blue|pink|orange|red|purple)(?: and \w+)? (?:hour|sky|sun)\b|\w+-on-\w+"
)
"""Phrases whose colour is not one of an object."""
_REPLACEMENT: Final = re.compile(r"\b(?:to|into|for)\b")
_UNWANTED: Final = re.compile(r"(?:\bno |\bnot |\bwithout (?:any |the )?|\bremove (?:the |all )?|\bnever )$")
_QUOTED: Final = re.compile(
    r'"([^"\n]{1,120})"|“([^”\n]{1,120})”|„([^“”\n]{1,120})[“”]|«\s?([^»\n]{1,120}?)\s?»'
    r"|(?<!\w)['‘]([^'’\n]{1,120})['’](?!\w)"
)


@dataclass(frozen=True, slots=True)
class PromptFeatures:
    """What a prompt asks for. None or empty: the prompt does not say."""

    season: str | None = None
    time: str | None = None
    weather: str | None = None
    setting: str | None = None
    styles: frozenset[str] = frozenset()
    colour: RGB | None = None
    """The colour that an object gets."""
    replaced_colour: RGB | None = None
    """The colour that the object has now."""
    captions: tuple[str, ...] = ()


def read_prompt(prompt: str) -> PromptFeatures:
    """Return what `prompt` asks for. Words after "no" or "without" do not count, nor do words in quotes."""
    quoted = (next(filter(None, match.groups())).strip() for match in _QUOTED.finditer(prompt))
    text = _QUOTED.sub(" ", prompt).casefold()
    styles = {name for name in _VOCABULARY["style"] if _position("style", name, text) is not None}
    if "colourise" in styles:
        # "Colourise this black and white photograph" asks for one of the two.
        styles.discard("monochrome")
    colour, replaced = _colours(_NO_COLOURS.sub(" ", text))
    season, time, weather, setting = (_first(group, text) for group in ("season", "time", "weather", "setting"))
    return PromptFeatures(
        season, time, weather, setting, frozenset(styles), colour, replaced, tuple(filter(None, quoted))
    )


def _position(group: str, name: str, text: str) -> int | None:
    """Return where `text` first asks for a word of the vocabulary, if it does."""
    for match in _VOCABULARY[group][name].finditer(text):
        if not _UNWANTED.search(text[: match.start()]):
            return match.start()
    return None


def _first(group: str, text: str) -> str | None:
    positions = {name: _position(group, name, text) for name in _VOCABULARY[group]}
    found = {name: position for name, position in positions.items() if position is not None}
    return min(found, key=found.__getitem__, default=None)


def _colours(text: str) -> tuple[RGB | None, RGB | None]:
    """Return the colour asked for and the colour that it replaces ("change the red door to blue")."""
    words = [match for match in _COLOUR_WORDS.finditer(text) if not _UNWANTED.search(text[: match.start()])]
    if not words:
        return None, None
    first, second = words[0], words[min(1, len(words) - 1)]
    if first is not second and _REPLACEMENT.search(text[first.end() : second.start()]):
        return _rgb(second[0]), _rgb(first[0])
    return _rgb(first[0]), None


def _rgb(name: str) -> RGB:
    red, green, blue = ImageColor.getrgb(_SOFTER.get(name, name))[:3]
    return red, green, blue
