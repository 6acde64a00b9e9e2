"""Reading the text of answers: the fields of JSON, the picture that JSON carries, and error messages.

An answer is judged by its bytes, not by its headers. JSON and its texts are bounded, and they pass `plain_text`.
"""

import base64
import html
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from kontext_pipeline.plain_text import MAX_CHARS, plain_text
from kontext_pipeline.segmind.images import is_start_of_picture
from kontext_pipeline.segmind.outcomes import Outcome

IMAGE_KEYS: Final = (
    *("image", "output", "images", "image_url", "url", "output_url", "image_base64", "b64_json", "base64"),
    *("data", "result", "results", "outputs", "artifacts"),
)
"""Keys under which JSON may carry an image or what holds it, at each level in this order."""
MAX_DEPTH: Final = 6
"""Levels of lists and objects that are searched."""
MAX_JSON_BYTES: Final = 1 << 20
"""Of JSON beside the pictures in it. Answers take some hundred bytes; parsing this much takes about 0.1 s at worst."""
MAX_JSON_DEPTH: Final = 32
"""Levels of JSON that are kept. What is nested deeper is read as null."""
MAX_ERROR_CHARS: Final = 500

_PENDING: Final = ("QUEUED", "PENDING", "IN_QUEUE", "STARTING", "PROCESSING", "RUNNING", "IN_PROGRESS")
_STATES: Final = {
    **dict.fromkeys(_PENDING, Outcome.PENDING),
    **dict.fromkeys(("COMPLETED", "SUCCEEDED", "SUCCESS"), Outcome.COMPLETED),
    **dict.fromkeys(("FAILED", "ERROR", "CANCELLED", "CANCELED"), Outcome.REJECTED),
}
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_MAX_NUMBER_CHARS: Final = 64
_REQUEST_ID: Final = re.compile(r"[!-~]{1,200}")
_ERROR_KEYS: Final = ("error", "error_description", "message", "detail", "details", "msg", "errors", "reason")
_ERROR_BYTES: Final = 16_384
_MARKUP: Final = re.compile(r"<(script|style)\b.*?(</\1[^<>]*>|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL)


def starts_like_json(head: bytes) -> bool:
    """Return whether bytes that start with `head` may be a JSON object, list or string."""
    return head.lstrip()[:1] in (b"{", b"[", b'"')


def parse_json(content: bytes) -> Any | None:
    """Return the JSON document in `content`, or None if `content` is not JSON or too large.

    Its texts have passed `plain_text`. A longer string of ASCII, which may be a picture, is `bytes` in the document.
    """
    if not starts_like_json(content) or _is_too_large(content):
        return None
    try:
        return _gated(json.loads(content), MAX_JSON_DEPTH)
    except (ValueError, RecursionError):
        # Also an integer of more digits than Python converts.
        return None


def _is_too_large(content: bytes) -> bool:
    """Return whether JSON has more than `MAX_JSON_BYTES` beside its pictures: its long strings without structure."""
    if len(content) <= MAX_JSON_BYTES:
        return False
    if content.count(b'"') > MAX_JSON_BYTES:
        return True
    pictures = (
        len(part)
        for part in content.split(b'"')
        if len(part) > MAX_CHARS and b"[" not in part and b"{" not in part and part.count(b",") <= 1
    )
    return len(content) - sum(pictures) > MAX_JSON_BYTES


def _gated(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value.encode("ascii") if len(value) > MAX_CHARS and value.isascii() else plain_text(value)
    if isinstance(value, dict):
        return {plain_text(key): _gated(item, depth - 1) for key, item in value.items()} if depth else None
    if isinstance(value, list):
        return [_gated(item, depth - 1) for item in value] if depth else None
    return value


def job_state(document: Any) -> Outcome | None:
    """Return the state of the job that the JSON `document` describes, None if it names no known state.

    `PENDING`, `COMPLETED`, or `REJECTED` for a job that failed.
    """
    state = document.get("status") if isinstance(document, dict) else None
    return _STATES.get(state.upper()) if isinstance(state, str) else None


def number(value: Any) -> float | None:
    """Return `value`, a number or its decimal text, if it is finite, otherwise None.

    Python itself would also take `1_000`, `infinity` and the digits of other scripts.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, str) and not (len(value) <= _MAX_NUMBER_CHARS and _NUMBER.fullmatch(value)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def amount(value: Any, limit: float) -> float | None:
    """Return `value` as `number` does if it is 0 to `limit`, otherwise None."""
    found = number(value)
    return found if found is not None and 0 <= found <= limit else None


def request_id(value: Any, key: str) -> str | None:
    """Return `value` if it can be a request's id and does not contain `key`, otherwise None."""
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value) or value in {".", ".."}:
        return None
    return None if key in value else value


def find_image(document: Any) -> bytes | str | None:
    """Return the first picture that the JSON `document` carries: its bytes, or its URL.

    The document itself, the values of `IMAGE_KEYS`, and lists and objects in them are searched. A string
    counts if it is an http(s) URL, a data URI, or base64 of bytes that start like a picture.
    """
    return next(_images(document, MAX_DEPTH), None)


def _images(value: Any, depth: int) -> Iterator[bytes | str]:
    if isinstance(value, str | bytes):
        found = _image(value if isinstance(value, str) else value.decode("ascii"))
        if found is not None:
            yield found
        return
    if isinstance(value, dict):
        value = [value[key] for key in IMAGE_KEYS if key in value]
    if depth > 0 and isinstance(value, list):
        for item in value:
            yield from _images(item, depth - 1)


def _image(text: str) -> bytes | str | None:
    text = text.strip()
    if text[:8].lower().startswith(("http://", "https://")):
        return text
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    text = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
    return content if len(content) > 16 and is_start_of_picture(content[:64]) else None


def error_text(content: bytes, key: str) -> str:
    """Return the server's message in `content` (JSON, HTML or text) without markup, as `one_line` does.

    Only the first 16 KiB are read.
    """
    # The key is removed before the cut, which could leave a half of it.
    content = content.replace(key.encode(), b"***")[:_ERROR_BYTES]
    document = parse_json(content)
    words = "" if document is None else _error_words(document, MAX_DEPTH)
    return one_line(words or html.unescape(_MARKUP.sub(" ", content.decode("utf-8", "replace"))), key)


def one_line(text: str, key: str) -> str:
    """Return `text` on one line of at most `MAX_ERROR_CHARS` characters, with `***` instead of `key`."""
    text = " ".join(plain_text(text.replace(key, "***")).split())
    return plain_text(text, MAX_ERROR_CHARS)


def _error_words(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth > 0 and isinstance(value, dict):
        found = [_error_words(value[key], depth - 1) for key in _ERROR_KEYS if key in value]
        return ": ".join(dict.fromkeys(words for words in found if words))
    if depth > 0 and isinstance(value, list):
        # A list of errors, each about one parameter.
        return "; ".join(words for words in (_error_words(item, depth - 1) for item in value[:5]) if words)
    return ""
