"""The alerts that a ledger remembers: one process sends each, and one that could not be sent is sent later."""

import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import wall_clock

CLAIM_S: Final = 60.0
"""Seconds after which another process sends an alert whose sender has not said what came of it."""
WAITING_S: Final = 24 * 3600.0
"""Seconds for which an alert that could not be sent is tried again."""
MOST_TRIES: Final = 5
"""Times that an alert is tried, each by a run or a tick of a sensor."""
MOST_AT_ONCE: Final = 20
"""Alerts of earlier runs that a process takes over at a time."""


class Remembered(NamedTuple):
    """An alert to send: its key, and the JSON text that was kept with it."""

    key: str
    body: str


class AlertBook:
    """The alerts of one ledger, for one process. Any number of threads may use it.

    Raises:
        LedgerError: The database can't be read or written; every method raises it.
    """

    def __init__(self, database: Database) -> None:
        """`database`: the ledger's."""
        self._database = database
        self._me = uuid.uuid4().hex

    def add(self, alerts: Sequence[Remembered]) -> list[Remembered]:
        """Remember alerts. Return those that were not known, which this process has to send."""
        keys = list(dict.fromkeys(alert.key for alert in alerts))
        if not keys:
            return []
        with self._database.read() as connection:
            known = {row["key"] for row in Transaction(connection).rows_of(statements.KNOWN_ALERTS, keys)}
        new = {alert.key: alert for alert in alerts if alert.key not in known}
        return self._database.write(lambda transaction: self._add(transaction, list(new.values()))) if new else []

    def claim_waiting(self) -> list[Remembered]:
        """Claim alerts that were remembered in the last day and not sent. Return them, to be sent by this process."""
        with self._database.read() as connection:
            transaction = Transaction(connection)
            if not transaction.rows(statements.WAITING_ALERTS, _waiting(transaction)):
                return []
        return self._database.write(self._claim)

    def told(self, key: str) -> None:
        """Note that an alert was sent."""
        self._database.write(
            lambda transaction: transaction.execute(statements.SET_TOLD, {"key": key, "now": wall_clock(transaction)})
        )

    def give_back(self, keys: Sequence[str]) -> None:
        """Leave alerts that could not be sent to a later run."""

        def work(transaction: Transaction) -> None:
            for key in keys:
                transaction.execute(statements.GIVE_ALERT_BACK, {"key": key, "me": self._me})

        if keys:
            self._database.write(work)

    def _add(self, transaction: Transaction, alerts: list[Remembered]) -> list[Remembered]:
        now = wall_clock(transaction)
        for alert in alerts:
            row = {"key": alert.key, "body": alert.body, "me": self._me, "now": now}
            transaction.execute(statements.ADD_ALERT, row)
        rows = transaction.rows_of(statements.KNOWN_ALERTS, [alert.key for alert in alerts])
        mine = {row["key"] for row in rows if row["claimed_by"] == self._me and row["told_at"] is None}
        return [alert for alert in alerts if alert.key in mine]

    def _claim(self, transaction: Transaction) -> list[Remembered]:
        now = wall_clock(transaction)
        rows = transaction.rows(statements.WAITING_ALERTS, _waiting(transaction))
        for row in rows:
            transaction.execute(statements.CLAIM_ALERT, {"key": row["key"], "me": self._me, "now": now})
        return [Remembered(row["key"], row["body"]) for row in rows]


def _waiting(transaction: Transaction) -> dict[str, int]:
    now = wall_clock(transaction)
    # Another machine's clock may be ahead: a claim of the future has ended, too.
    return {
        "since": now - round(WAITING_S * 1e6),
        "before": now - round(CLAIM_S * 1e6),
        "after": now + round(CLAIM_S * 1e6),
        "most_tries": MOST_TRIES,
        "limit": MOST_AT_ONCE,
    }
