"""How long a 429 asks to wait, whatever the clocks say."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Outcome
from tests.segmind.conftest import BODY
from tests.segmind.gateway import Gateway, Reply

V1 = "/v1/flux-kontext-max"
SERVER_NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
DATE = {"Date": format_datetime(SERVER_NOW, usegmt=True)}
RESET = "X-Rate-Limit-Reset-At-UTC"
SOON = SERVER_NOW + timedelta(seconds=12)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({RESET: SOON.isoformat()}, 12),
        ({RESET: SOON.strftime("%Y-%m-%dT%H:%M:%SZ")}, 12),
        ({RESET: SOON.strftime("%Y-%m-%d %H:%M:%S.500")}, 12.5),
        ({RESET: SOON.strftime("%Y-%m-%d %H:%M:%S UTC")}, 12),
        ({RESET: format_datetime(SOON, usegmt=True)}, 12),
        ({RESET: str(int(SOON.timestamp()))}, 12),
        ({RESET: str(int(SOON.timestamp() * 1000))}, 12),
        ({RESET: "12"}, 12),
        ({RESET: (SERVER_NOW - timedelta(hours=5)).isoformat()}, 0),
        ({RESET: (SERVER_NOW + timedelta(days=5)).isoformat()}, 3600),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": format_datetime(SOON, usegmt=True)}, 12),
        ({"Retry-After": "20", RESET: SOON.isoformat()}, 20),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "1e400"}, None),
        ({"Retry-After": "soon", RESET: "whenever"}, None),
        ({RESET: ""}, None),
        ({}, None),
    ],
)
def test_the_wait_is_counted_on_the_servers_clock(
    gateway: Gateway, client: SegmindClient, spool: Path, headers: dict[str, str], seconds: float | None
) -> None:
    gateway.routes[V1] = Reply(429, b"{}", {**DATE, **headers})
    answer = client.generate(BODY, spool)
    assert answer.outcome is Outcome.RATE_LIMITED
    assert answer.retry_after_s == (None if seconds is None else pytest.approx(seconds, abs=0.01))


def test_without_a_usable_date_our_own_clock_has_to_do(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    gateway.routes[V1] = Reply(429, b"{}", {"Date": "yesterday", RESET: soon.isoformat()})
    assert client.generate(BODY, spool).retry_after_s == pytest.approx(30, abs=2)
