"""Wishes: what a prompt plainly asks for that can be drawn. Everything else in it is left to chance."""

import re
from dataclasses import dataclass
from typing import Final

RGB = tuple[int, int, int]

_SEASONS: Final = {
    "winter": r"winter\w*|icy|frost\w*|frozen|christmas|arctic",
    "autumn": r"autumn\w*|fall (?:colou?rs|foliage|leaves)|in (?:the )?fall|october|november",
    "spring": r"spring(?:time)?|blossom\w*|cherry trees?|april",
    "summer": r"summer\w*|july|august",
}
_TIMES: Final = {
    "sunset": r"sunset|golden hour|evening|sundown",
    "dawn": r"dawn|sunrise|daybreak|early morning|morning",
    "dusk": r"dusk|blue hour|twilight",
    "night": r"night\w*|midnight|moonli\w+|starry|stars|milky way|after dark|aurora",
    "day": r"daylight|midday|noon|afternoon|daytime|sunny|bright day|lovely day|blue sky|clear sky",
}
_WEATHERS: Final = {
    "storm": r"storm\w*|thunder\w*|lightning",
    "snow": r"snow\w*|blizzard",
    "rain": r"rain(?:y|ing|fall|s)?|drizzle|downpour|wet|puddles?",
    "fog": r"fog\w*|mist\w*|haz[ey]\w*",
    "clouds": r"cloud(?:s|y)|overcast|gr[ea]y sky",
    "sun": r"sunny|sunshine|sunlit|lovely day|bright|clear (?:sky|day)|blue sky",
}
_STYLES: Final = {
    "monochrome": r"black[ -]?(?:and|&|n)[ -]?white|b ?& ?w|monochrom\w+|gr[ea]y ?scale|noir|silver gelatin",
    "sepia": r"sepia|vintage|daguerreotype|old photo\w*|19[0-5]0s|antique",
    "sketch": r"sketch\w*|pencil|charcoal|line ?art|line drawing|engraving|etching|hand[ -]drawn",
    "painting": r"watercolou?r\w*|oil paint\w*|painting|painted|gouache|impressionis\w+|van gogh|monet|ghibli",
    "pop": r"pop[ -]?art|poster(?:ised|ized)|screen ?print\w*|risograph|comic\w*|cartoon\w*",
    "blur": r"blur\w*|out of focus|soft focus|bokeh|shallow depth of field",
    "neon": r"neon|cyberpunk|synthwave|vaporwave",
    "warm": r"warm(?:er)?(?: light| tones?| colou?rs?)?",
    "cold": r"cold(?:er)?|cool(?:er)? (?:light|tones?|colou?rs?)",
    "vivid": r"vivid|vibrant|saturated|colou?rful",
    "mirror": r"mirror(?:ed)? (?:image|horizontally)|flip(?:ped)?(?: it)?(?: horizontally)?|mirrored",
}
_PLACES: Final = {
    "city": r"city\w*|skyline|skyscrapers?|downtown|streets?|town|tokyo|new york|manhattan|metropolis|urban|buildings?",
    "sea": r"sea\w*|ocean|beach\w*|coast\w*|shore|waves?|island\w*|surf\w*|harbou?r|sail\w*|ship|lighthouse|underwater",
    "lake": r"lakes?|rivers?|ponds?|fjords?|reflections?|reflecting|water|boat\w*|canoe",
    "desert": r"deserts?|dunes?|sahara|camels?|oasis|mars|sand\w*|arid|canyon",
    "forest": r"forests?|woods|woodland|trees?|pines?|jungle|foxe?s?|deer|bears?|owls?|woodpecker",
    "mountains": r"mountain\w*|alps?|alpine|peaks?|himalaya\w*|hik(?:e|er|ing)|volcano|valleys?|glaciers?|eagles?",
    "fields": r"fields?|meadows?|hills?|farm\w*|countryside|vineyards?|flowers?|lavender|sheep|cows?|horses?|tuscan\w*",
}
_THINGS: Final = {
    "boat": r"boats?|sail\w*|ship|canoe|yacht|regatta",
    "balloon": r"balloons?",
    "cabin": r"cabins?|cottages?|huts?|houses?|home|chalet|farmhouse|barn",
    "lighthouse": r"lighthouses?",
    "birds": r"birds?|gulls?|seagulls?|geese|swallows?|eagles?|flock",
    "lavender": r"lavender",
    "flowers": r"flowers?|poppies|lavender|tulips?|blossoms?|wildflowers?|daisies",
    "aurora": r"aurora\w*|northern lights",
    "rainbow": r"rainbows?",
}
_COLOURS: Final[dict[str, RGB]] = {
    "red": (205, 38, 42),
    "crimson": (176, 22, 54),
    "orange": (240, 128, 32),
    "yellow": (244, 204, 44),
    "gold": (214, 168, 52),
    "golden": (214, 168, 52),
    "green": (52, 150, 74),
    "emerald": (22, 140, 104),
    "teal": (22, 132, 140),
    "turquoise": (46, 182, 182),
    "cyan": (40, 186, 210),
    "blue": (44, 96, 200),
    "navy": (28, 48, 112),
    "purple": (126, 64, 176),
    "violet": (136, 84, 196),
    "magenta": (204, 44, 148),
    "pink": (236, 124, 168),
}
_PHRASES_THAT_NAME_NO_COLOUR: Final = re.compile(r"golden hour|blue (?:hour|sky)|red ?wood\w*|gold fish", re.IGNORECASE)
_UNWANTED: Final = r"(?:\bno |\bnot |\bwithout (?:any |the )?|\bremove (?:the |all )?|\bnever )"
_QUOTED: Final = re.compile(
    r'"([^"\n]{1,120})"|“([^”\n]{1,120})”|„([^“”\n]{1,120})[“”]|«\s?([^»\n]{1,120}?)\s?»'
    r"|(?<!\w)['‘]([^'’\n]{1,120})['’](?!\w)"
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a prompt asks for; None or empty: it doesn't say."""

    season: str | None
    time: str | None
    weather: str | None
    place: str | None
    styles: frozenset[str]
    things: frozenset[str]
    colour: RGB | None
    caption: str | None

    @property
    def edits(self) -> bool:
        """Whether anything here changes what a photograph looks like, beside a caption."""
        return bool(self.season or self.time or self.weather or self.styles or self.colour)


def read_wishes(prompt: str) -> Wishes:
    """Return what `prompt` plainly asks for. Words after "no" or "without" don't count, nor do quoted ones."""
    caption = next((next(filter(None, match.groups())).strip() for match in _QUOTED.finditer(prompt)), None)
    text = _QUOTED.sub(" ", prompt).casefold()
    return Wishes(
        season=_first(_SEASONS, text),
        time=_first(_TIMES, text),
        weather=_first(_WEATHERS, text),
        place=_place(text),
        styles=_all(_STYLES, text),
        things=_all(_THINGS, text),
        colour=_colour(text),
        caption=caption or None,
    )


def _place(text: str) -> str | None:
    """Return the place a text names first; mountains beside water are drawn as the lake they're mirrored in."""
    place = _first(_PLACES, text)
    return "lake" if place in {"mountains", "forest"} and _mentions(_PLACES["lake"], text) is not None else place


def _mentions(pattern: str, text: str) -> int | None:
    """Return where `text` asks for `pattern` first, if it does."""
    for match in re.finditer(rf"\b(?:{pattern})\b", text):
        if not re.search(_UNWANTED + r"$", text[: match.start()]):
            return match.start()
    return None


def _first(patterns: dict[str, str], text: str) -> str | None:
    found = [(place, name) for name, pattern in patterns.items() if (place := _mentions(pattern, text)) is not None]
    return min(found)[1] if found else None


def _all(patterns: dict[str, str], text: str) -> frozenset[str]:
    return frozenset(name for name, pattern in patterns.items() if _mentions(pattern, text) is not None)


def _colour(text: str) -> RGB | None:
    name = _first({name: name for name in _COLOURS}, _PHRASES_THAT_NAME_NO_COLOUR.sub(" ", text))
    return _COLOURS[name] if name else None
