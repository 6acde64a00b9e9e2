"""Text that comes in, the gate for text from outside: an answer's JSON, headers and bodies become text here alone.

What has passed can be written to the ledger and to a log. `escaping` is for text that goes out, such as that of
manifests, which is kept as it is.
"""

import re
from typing import Final

MAX_CHARS: Final = 16_384
"""Longest text that passes whole. Signed URLs, the longest texts that are needed, have about 2,000 characters."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile(
    # C0 and C1, marks that change the direction of what follows, line and paragraph ends, annotations, noncharacters.
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def plain_text(text: str, limit: int = MAX_CHARS) -> str:
    """Return `text` as valid Unicode of at most `limit` characters, without control and bidi-override characters.

    A lone surrogate becomes U+FFFD, a control character a space. What is cut ends with `...`.
    """
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(" ", _SURROGATE.sub("\ufffd", text))
