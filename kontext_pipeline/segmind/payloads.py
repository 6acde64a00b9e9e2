"""Reading the text of answers: the fields of JSON, the picture that JSON carries, and error messages.

An answer is judged by its bytes, not by its headers.
"""

import base64
import html
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from kontext_pipeline.segmind.images import is_start_of_picture
from kontext_pipeline.segmind.outcomes import Outcome

IMAGE_KEYS: Final = (
    *("image", "output", "images", "image_url", "url", "output_url", "image_base64", "b64_json", "base64"),
    *("data", "result", "results", "outputs", "artifacts"),
)
"""Keys under which JSON may carry an image or what holds it, at each level in this order."""
MAX_DEPTH: Final = 6
"""Levels of lists and objects that are searched."""
MAX_ERROR_CHARS: Final = 500

_PENDING: Final = ("QUEUED", "PENDING", "IN_QUEUE", "STARTING", "PROCESSING", "RUNNING", "IN_PROGRESS")
_STATES: Final = {
    **dict.fromkeys(_PENDING, Outcome.PENDING),
    **dict.fromkeys(("COMPLETED", "SUCCEEDED", "SUCCESS"), Outcome.COMPLETED),
    **dict.fromkeys(("FAILED", "ERROR", "CANCELLED", "CANCELED"), Outcome.REJECTED),
}
_METRICS: Final = {"cost": "cost_usd", "total_time": "total_time_s"}
_REQUEST_ID: Final = re.compile(r"[!-~]{1,200}")
_ERROR_KEYS: Final = ("error", "error_description", "message", "detail", "details", "msg", "errors", "reason")
_ERROR_BYTES: Final = 16_384
_MARKUP: Final = re.compile(r"<(script|style)\b.*?(</\1[^<>]*>|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_NO_TEXT: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


def starts_like_json(head: bytes) -> bool:
    """Return whether bytes that start with `head` may be a JSON object, list or string."""
    return head.lstrip()[:1] in (b"{", b"[", b'"')


def parse_json(content: bytes) -> Any | None:
    """Return the JSON document in `content`, or None if `content` is not JSON."""
    if not starts_like_json(content):
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def job_state(document: Any) -> Outcome | None:
    """Return the state of the job that the JSON `document` describes, None if it names no known state.

    `PENDING`, `COMPLETED`, or `REJECTED` for a job that failed.
    """
    state = document.get("status") if isinstance(document, dict) else None
    return _STATES.get(state.upper()) if isinstance(state, str) else None


def metrics(document: Any) -> dict[str, Any]:
    """Return the fields of `Answer` that the `metrics` of the JSON `document` name: USD and seconds."""
    named = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(named, dict):
        return {}
    amounts = {field: amount(named.get(name)) for name, field in _METRICS.items()}
    return {field: value for field, value in amounts.items() if value is not None}


def amount(value: Any) -> float | None:
    """Return `value`, a number or its text, if it is finite and not negative, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


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
    if isinstance(value, str):
        found = _image(value)
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
    text = _NO_TEXT.sub(" ", text.replace(key, "***")).strip()
    return text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 3] + "..."


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
