"""What is in an answer's text: the picture that JSON carries, the server's own words for an error.

The source document calls the response an image and prints it as JSON, so both are understood: whatever
arrives is judged by what it is, not by what its headers call it.
"""

import base64
import binascii
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from kontext_pipeline.segmind.images import is_start_of_picture

IMAGE_KEYS: Final = (
    "image",
    "output",
    "images",
    "image_url",
    "url",
    "output_url",
    "image_base64",
    "b64_json",
    "base64",
    "data",
    "result",
    "results",
    "outputs",
    "artifacts",
)
"""Where JSON may carry an image, in the order in which they are looked at, at each level."""
MAX_DEPTH: Final = 6
"""Levels of lists and objects that are looked into."""
MAX_ERROR_CHARS: Final = 500

_ERROR_KEYS: Final = ("error", "error_description", "message", "detail", "details", "msg", "errors", "reason")
_ERROR_BYTES: Final = 16_384
_TAG: Final = re.compile(r"<[^<>]*>")
_HIDDEN: Final = re.compile(r"<(script|style)\b", re.IGNORECASE)
_NO_TEXT: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture inside the JSON."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A picture that lies elsewhere."""

    url: str


def starts_like_json(head: bytes) -> bool:
    """Return whether what starts with `head` may be a JSON object, list or string."""
    return head.lstrip()[:1] in (b"{", b"[", b'"')


def parse_json(content: bytes) -> Any | None:
    """Return the JSON document in `content`, None where it is none."""
    if not starts_like_json(content):
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def find_image(document: Any) -> Embedded | Link | None:
    """Return the first picture that the JSON `document` carries.

    Looked at: a bare string, the values of `IMAGE_KEYS`, and lists and objects in them. A string counts
    if it is an http(s) URL, a data URI, or base64 of something that starts like a picture.
    """
    return next(_images(document, MAX_DEPTH), None)


def _images(value: Any, depth: int) -> Iterator[Embedded | Link]:
    if isinstance(value, str):
        found = _image(value)
        if found is not None:
            yield found
    elif depth > 0 and isinstance(value, list):
        for item in value:
            yield from _images(item, depth - 1)
    elif depth > 0 and isinstance(value, dict):
        for key in IMAGE_KEYS:
            if key in value:
                yield from _images(value[key], depth - 1)


def _image(text: str) -> Embedded | Link | None:
    text = text.strip()
    scheme = text[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return Link(text)
    if scheme.startswith("data:"):
        kind, _, content = text.partition(",")
        if kind.rstrip().lower().endswith(";base64"):
            return _decoded(content)
        return _embedded(unquote_to_bytes(content))
    return _decoded(text)


def _decoded(text: str) -> Embedded | None:
    text = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return _embedded(content)


def _embedded(content: bytes) -> Embedded | None:
    return Embedded(content) if len(content) > 16 and is_start_of_picture(content[:64]) else None


def error_text(content: bytes, key: str) -> str:
    """Return the server's words in the body of an error: one line, at most `MAX_ERROR_CHARS`, no markup.

    `content`: JSON, HTML or text; what lies beyond its first 16 KiB is not looked at. `key` is struck out.
    """
    content = content[:_ERROR_BYTES]
    document = parse_json(content)
    words = "" if document is None else _error_words(document, MAX_DEPTH)
    if not words:
        words = _plain(content.decode("utf-8", "replace"))
    return one_line(words, key)


def one_line(text: str, key: str) -> str:
    """Return `text` on one line of at most `MAX_ERROR_CHARS`, with `key` struck out."""
    # Before it is cut, so that no half of the key is left at the edge.
    text = _NO_TEXT.sub(" ", text.replace(key, "***")).strip()
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 3] + "..."


def _error_words(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth > 0 and isinstance(value, dict):
        found = [_error_words(value[key], depth - 1) for key in _ERROR_KEYS if key in value]
        return ": ".join(dict.fromkeys(words for words in found if words))
    if depth > 0 and isinstance(value, list):
        # A list of faults, each with the parameter it is about.
        return "; ".join(words for words in (_error_words(item, depth - 1) for item in value[:5]) if words)
    return ""


def _plain(text: str) -> str:
    if "<" not in text:
        return text
    visible = []
    while (hidden := _HIDDEN.search(text)) is not None:
        visible.append(text[: hidden.start()])
        _, _, text = text[hidden.end() :].partition(f"</{hidden[1]}")
        text = "<" + text
    visible.append(text)
    return html.unescape(_TAG.sub(" ", " ".join(visible)))
