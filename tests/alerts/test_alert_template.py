"""The JSON of an alert: whatever is told, the template alone decides what the receiver reads."""

import json

import pytest

from kontext_pipeline.alert_template import SLACK, check_template, render
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.settings import load_settings

HOSTILE = 'a "quote", a \\ and\na line <!channel> & $text ${event}'


def test_slack_gets_the_text_alone_and_no_markup() -> None:
    told = json.loads(render(SLACK, {"text": HOSTILE}, {}))
    assert told == {"text": 'a "quote", a \\ and\na line &lt;!channel&gt; &amp; $text ${event}'}


def test_texts_and_numbers_stay_where_the_template_puts_them() -> None:
    template = check_template('{"event": "$event", "say": "${text}!", "money": [$spent_usd, $left], "price": "$$1"}')
    told = json.loads(render(template, {"text": HOSTILE, "event": "budget"}, {"spent_usd": 0.3}))
    assert told == {"event": "budget", "say": f"{HOSTILE}!", "money": [0.3, 0], "price": "$1"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ('{"text": $text}', "placeholders of texts between quotes"),
        ("hello", "JSON is expected"),
        ('{"text": "$txt"}', "1 unknown placeholders.*\\$slack_text"),
        ('{"text": "5 $ left"}', "a \\$ stands before a name"),
    ],
)
def test_a_template_that_may_give_no_json_is_refused_and_not_shown(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a key: that of a pager, for instance."""
    monkeypatch.setenv("KONTEXT_ALERT_TEMPLATE", template)
    with pytest.raises(SettingsError, match=f"(?s)KONTEXT_ALERT_TEMPLATE: .*{message}") as caught:
        load_settings()
    assert template not in str(caught.value).replace(SLACK, "")


@pytest.mark.parametrize(
    "address",
    [
        "hooks.example.com/abc",
        "ftp://example.com/abc",
        "https://",
        "https://me:pass@example.com/abc",
        "https://a b/secret",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_ALERT_URL", address)
    with pytest.raises(SettingsError, match="KONTEXT_ALERT_URL: the https:// address of a webhook") as caught:
        load_settings()
    assert address not in str(caught.value).replace("the https:// address", "")


def test_the_address_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_ALERT_URL", "https://hooks.example.com/services/T1/B2/3e4f")
    settings = load_settings()
    assert "hooks" not in repr(settings) + str(settings)
    assert "services/T1/B2/3e4f" in settings.secrets
