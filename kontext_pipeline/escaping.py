"""Text that goes out: made safe for where it is shown, one function for a terminal, one for Markdown.

Nothing is lost: what is hidden is shown as an escape. `plain_text` is for text that comes in, which is bounded and cleaned
for good before it is kept.

HTML pages are Jinja templates that escape all text; `displayable` is their last step.
"""

import re
from typing import Final

_HIDDEN: Final = re.compile(
    # Controls (C0 but for tab and line feed, DEL, C1), marks and overrides of writing direction, other line ends,
    # and surrogates, which no output can encode.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")


def displayable(text: str) -> str:
    r"""Return `text` with every character that could steer a terminal or reorder a page as `\u001b`.

    Lines and tabs stay. The escapes are those of JSON, so a JSON document stays valid.
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def one_line(text: str) -> str:
    r"""Return `text` as `displayable` does, with line feeds and tabs as `\n` and `\t`."""
    return displayable(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """Return `text` as Markdown that shows exactly this text, on one line: no markup, links, images or HTML."""
    return _PUNCTUATION.sub(r"\\\1", one_line(text))
