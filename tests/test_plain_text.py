"""Text from outside is valid Unicode, without control characters, and bounded."""

import pytest

from kontext_pipeline.plain_text import MAX_CHARS, plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a fox", "a fox"),
        ("Füchse 🦊 狐", "Füchse 🦊 狐"),
        ("cut \ud83d", "cut \ufffd"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("a\x00b\x1b[31mc\x9b31md\r\ne\x7f", "a b [31mc 31md  e "),
        ("user\u202egnp.exe", "user gnp.exe"),
        ("\u2066a\u2069\u200f\u2028\ufeff", " a    "),
        ("x" * MAX_CHARS, "x" * MAX_CHARS),
    ],
)
def test_what_passes(text: str, plain: str) -> None:
    assert plain_text(text) == plain
    plain_text(text).encode()


def test_what_is_too_long_is_cut() -> None:
    assert plain_text("x" * (MAX_CHARS + 1)) == "x" * (MAX_CHARS - 3) + "..."
    assert plain_text("abcdefgh", 6) == "abc..."
