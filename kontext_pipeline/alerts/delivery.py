"""Sending alerts: each once, within seconds, and without ever showing the address."""

import json
import logging
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from kontext_pipeline.alert_template import SLACK, render
from kontext_pipeline.alerts.alert import Alert
from kontext_pipeline.generation.ledger.alert_book import AlertBook, Remembered
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.segmind.addresses import is_loopback
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.segmind.transport import DisconnectedError, Transport
from kontext_pipeline.settings import Settings

log: Final = logging.getLogger(__name__)

CONNECT_S: Final = 3.0
ANSWER_S: Final = 4.0
"""Longest time of one try, seconds, from the connection to the answer."""
TRIES: Final = 3
PAUSE_S: Final = 0.5
"""Pause before the second try, seconds; it doubles."""
_HEADERS: Final = {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "kontext-pipeline"}
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_posting: ContextVar[bool] = ContextVar("posting", default=False)
"""Whether this thread is about to send an alert: urllib3 would log its address."""


class _NotTakenError(Exception):
    """The address did not take an alert. `passing`: another try may help."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


class AlertDelivery:
    """Remembers alerts in a ledger and sends them, from one thread.

    Raises:
        LedgerError: The ledger can't be read or written; `tell` and `tell_waiting` raise it.
    """

    def __init__(self, url: SecretStr, template: SecretStr | None, database: Database) -> None:
        """`url`: where alerts are sent; `template`: of the JSON that is sent, None for Slack's; `database`: the ledger's."""
        self._url = url
        self._template = SLACK if template is None else template.get_secret_value()
        self._book = AlertBook(database)
        self._transport = Transport(connect_timeout_s=CONNECT_S, pool_size=1)
        self._until = float("inf")
        _prepare(url.get_secret_value())

    @classmethod
    def of(cls, settings: Settings, database: Database) -> "AlertDelivery | None":
        """Return the delivery to the address in the settings; None where there is none."""
        return None if settings.alert_url is None else cls(settings.alert_url, settings.alert_template, database)

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Send those of the alerts that no process has sent or is about to send."""
        self._send(self._book.add([Remembered(alert.key, json.dumps(asdict(alert))) for alert in alerts]))

    def tell_waiting(self) -> None:
        """Send alerts of the last day that could not be sent when they were made."""
        self._send(self._book.claim_waiting())

    def end_by(self, until: float) -> None:
        """Begin no try after a monotonic time. What is not sent then is left to a later run. From any thread."""
        self._until = until

    def close(self) -> None:
        """Cut off a try in progress, and begin no other. From any thread."""
        self._until = 0.0
        self._transport.close()

    def _send(self, alerts: Sequence[Remembered]) -> None:
        left = [alert.key for alert in alerts]
        try:
            for alert in alerts:
                if self._is_taken(alert):
                    self._book.told(alert.key)
                    left.remove(alert.key)
        finally:
            self._book.give_back(left)

    def _is_taken(self, alert: Remembered) -> bool:
        kept = json.loads(alert.body)
        body = render(self._template, kept["texts"], kept["numbers"]).encode()
        reason = "the run has ended"
        for number in range(TRIES):
            if number:
                time.sleep(max(0.0, min(PAUSE_S * 2 ** (number - 1), self._until - time.monotonic())))
            if time.monotonic() >= self._until:
                break
            try:
                self._post(body)
            except _NotTakenError as error:
                reason = str(error)
                if not error.passing:
                    break
            else:
                log.debug("an alert was sent: %s", kept["event"])
                return True
        log.warning("an alert could not be sent to KONTEXT_ALERT_URL (%s): a later run tries again", reason)
        return False

    def _post(self, body: bytes) -> None:
        token = _posting.set(True)
        try:
            with self._transport.send(
                "POST", self._url.get_secret_value(), _HEADERS, body=body, timeout_s=ANSWER_S
            ) as reply:
                status = reply.response.status_code
        except DisconnectedError as error:
            if error.sent and error.cause is Cause.ANSWER_TIMEOUT:
                # Most likely it arrived, and telling it twice would break the promise.
                log.warning("KONTEXT_ALERT_URL did not answer within %g s: the alert counts as sent", ANSWER_S)
                return
            # The error's own words may name the host.
            passing = error.cause not in (Cause.ABORTED, Cause.CLIENT_CLOSED)
            raise _NotTakenError(str(error.cause).replace("_", " "), passing=passing) from None
        finally:
            _posting.reset(token)
        if 300 <= status < 400:
            raise _NotTakenError(f"it answered {status}, and redirects are not followed", passing=False)
        if not 200 <= status < 300:
            raise _NotTakenError(f"it answered {status}", passing=status in _PASSING)


@cache
def _prepare(url: str) -> None:
    """Keep the address out of urllib3's log, and warn where everybody on the way can read it. Once."""
    logging.getLogger("urllib3.connectionpool").addFilter(lambda _record: not _posting.get())
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        log.warning(
            "KONTEXT_ALERT_URL is not encrypted, so everybody on the way can read the address and the alerts; use https:// "
            "unless you trust that network"
        )
