"""The body of an alert: JSON made from a template, in which placeholders stand for what is told.

Values are escaped as JSON asks, so no text can end the string that it stands in.
"""

import json
from collections.abc import Mapping
from string import Template
from typing import Final

TEXTS: Final = ("text", "slack_text", "event", "dataset", "backend", "run", "cause", "time")
"""Placeholders for texts, to be written between quotes."""
NUMBERS: Final = (
    *("succeeded", "failed", "unknown", "left"),
    *("percent", "budget_usd", "spent_usd", "possibly_charged_usd"),
)
"""Placeholders for numbers; 0 where an alert has no such figure."""
SLACK: Final = '{"text": "$slack_text"}'
"""The template of addresses that take what Slack takes."""
_AWKWARD: Final = '"\\\n\u2028 $text {}\U0001f98a'


def render(template: str, texts: Mapping[str, str], numbers: Mapping[str, float]) -> str:
    """Return the JSON text that a template stands for. What is not given is empty, or 0."""
    values = {name: json.dumps(texts.get(name, ""))[1:-1] for name in TEXTS}
    values["slack_text"] = json.dumps(_for_slack(texts.get("text", "")))[1:-1]
    values |= {name: json.dumps(numbers.get(name, 0)) for name in NUMBERS}
    return Template(template).substitute(values)


def check_template(template: str) -> str:
    """Return a template that always gives JSON.

    Raises:
        ValueError: It has an unknown placeholder, or what it gives is no JSON. The message doesn't repeat it.
    """
    known = ", ".join(f"${name}" for name in (*TEXTS, *NUMBERS))
    found = Template(template)
    if not found.is_valid():
        raise ValueError(f"a $ stands before a name, or $$ for itself; the placeholders are {known}")
    if unknown := set(found.get_identifiers()).difference(TEXTS, NUMBERS):
        raise ValueError(f"it has {len(unknown)} unknown placeholders; the placeholders are {known}")
    for text, number in ((_AWKWARD, 0.5), ("", 0)):
        try:
            json.loads(render(template, dict.fromkeys(TEXTS, text), dict.fromkeys(NUMBERS, number)))
        except ValueError:
            raise ValueError(
                "JSON is expected, with the placeholders of texts between quotes, such as " + SLACK
            ) from None
    return template


def _for_slack(text: str) -> str:
    """Return a text in which nothing is markup: Slack takes `<!channel>` for a call to everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
