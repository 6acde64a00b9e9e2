"""Text from strangers steers no terminal, no log and no page."""

import io
import json
import logging
import unicodedata

import pytest
from rich.table import Table

from kontext_pipeline import logs
from kontext_pipeline.console import _Console
from kontext_pipeline.escaping import displayable, markdown, one_line

HOSTILE = "a\x1b[2J\x9b31m\x07\r\u202eb\u2066\u2028\ud83d\x00"
STEERING = ("Cc", "Cs", "Zl", "Zp")


def steers(text: str) -> bool:
    """Whether a character of `text` is a control, a surrogate, or changes the direction of writing."""
    return any(
        (unicodedata.category(letter) in STEERING and letter not in "\n\t")
        or unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for letter in text
    )


def test_every_character_that_steers_is_escaped_and_no_other() -> None:
    everything = "".join(map(chr, range(0x11000)))
    assert not steers(displayable(everything))
    assert displayable("né, 日本, العربية, 👩‍🚀\n\tx") == "né, 日本, العربية, 👩‍🚀\n\tx"
    assert displayable("\x1b[2J") == "\\u001b[2J"
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_markdown_shows_the_text_and_nothing_else() -> None:
    hostile = "![x](http://a/?q) <b>&amp; `c`\n# h | _e_ www.a.b a@b.c"
    escaped = markdown(hostile)
    assert "\n" not in escaped
    plain = escaped.replace("\\\\", "\0")
    # Each punctuation mark stands behind a backslash, so none of them is markup, an entity or a link.
    assert all(plain[at - 1] == "\\" for at, mark in enumerate(plain) if mark in "!()[]<>&;`#|_*@:./")
    assert plain.replace("\\", "").replace("\0", "\\") == one_line(hostile)


def test_a_console_escapes_text_wherever_it_stands() -> None:
    console = _Console(file=io.StringIO(), force_terminal=True, width=400, color_system="truecolor", highlight=False)
    table = Table.grid()
    table.add_row(HOSTILE, style="bold")
    console.print(table)
    console.print(HOSTILE, style="red", markup=False)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("a\\u001b[2J\\u009b31m") == 2
    # Rich's own styles are all that is left of escape sequences.
    for style in ("\x1b[1m", "\x1b[31m", "\x1b[0m"):
        shown = shown.replace(style, "")
    assert not steers(shown)


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_a_log_line_is_one_line_of_plain_text(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("kontext_pipeline.x", logging.INFO, "", 1, "file %s\nforged", (HOSTILE,), None)
    record.batch = HOSTILE
    line = formatter.format(record)
    assert "\n" not in line
    assert not steers(line)
    if isinstance(formatter, logs.JsonFormatter):
        assert json.loads(line)["message"] == f"file {HOSTILE}\nforged"
