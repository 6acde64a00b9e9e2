"""The alerts of one run: a thread looks at its figures and at the budgets now and then, and sends what is new."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from kontext_pipeline.alerts.alert import (
    AboutRun,
    Alert,
    budget_alerts,
    failure_alert,
    finish_alert,
    refusal_alert,
    stop_alert,
)
from kontext_pipeline.alerts.delivery import AlertDelivery
from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.ledger.money import Cap, held_by_caps, micros
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.settings import Settings
from kontext_pipeline.threads import NoThreadError, start_thread

log: Final = logging.getLogger(__name__)

LOOK_S: Final = 2.0
"""Time between two looks at a run, seconds."""
WAITING_S: Final = 60.0
"""Time between two looks for alerts that could not be sent, seconds."""
END_S: Final = 5.0
"""Longest time that a run waits at its end for its alerts, seconds."""


class RunAlerts:
    """Tells of a run while it goes on, and at its end. Does nothing where `KONTEXT_ALERT_URL` is not set.

    No method raises, or waits for longer than `END_S`: an alert never holds a run up, nor ends it.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        *,
        run_id: str,
        caps: Sequence[Cap] = (),
        progress: Callable[[], Progress] = Progress,
    ) -> None:
        """Begin to look. `caps`: the budgets of this run and of all runs; `progress` returns the run's figures."""
        self._settings = settings
        self._ledger = ledger
        self._about = AboutRun.of(settings, run_id)
        self._caps = caps
        self._progress = progress
        self._price = micros(LIST_PRICE_USD)
        self._last: list[Alert] = []
        self._over = threading.Event()
        self._known: set[str] = set()
        self._thread: threading.Thread | None = None
        self._delivery = AlertDelivery.of(settings, ledger.database)
        if self._delivery is not None:
            try:
                self._thread = start_thread(self._work, "alerts")
            except NoThreadError as error:
                log.warning("no alert is sent: %s", error)

    def end(self, stopped: Stop | None, *, left: int, tell_finish: bool = True) -> None:
        """Tell the end of the run, early where it was `stopped` with `left` pictures to make.

        `tell_finish`: False where the run is a part of something whose end is told.
        """
        if stopped is not None:
            self._close([stop_alert(self._about, stopped, self._progress(), left)])
        else:
            self._close([finish_alert(self._about, self._progress())] if tell_finish else [])

    def refuse(self, cause: str, message: str, *, pictures: int) -> None:
        """Tell that the run can't start, and leaves so many pictures."""
        self._close([refusal_alert(self._about, cause, message, pictures)])

    def _close(self, last: list[Alert]) -> None:
        if self._delivery is None or self._thread is None:
            return
        self._last = last
        self._delivery.end_by(time.monotonic() + END_S - 1.0)
        self._over.set()
        try:
            self._thread.join(END_S)
        finally:
            self._delivery.close()

    def _work(self) -> None:
        assert self._delivery is not None
        pause, waiting_at = 0.0, 0.0
        while True:
            over = self._over.wait(pause)
            pause = LOOK_S
            try:
                # The last ones first: the others are less urgent, and time is short.
                self._tell([*self._last, *self._found()] if over else self._found())
                if (now := time.monotonic()) >= waiting_at:
                    waiting_at = now + WAITING_S
                    self._delivery.tell_waiting()
            except KontextError as error:
                log.debug("an alert can't be kept: %s", error)
            except Exception:
                log.exception("a defect ends the alerts of this run")
                return
            if over:
                return

    def _tell(self, alerts: Sequence[Alert]) -> None:
        assert self._delivery is not None
        new = [alert for alert in alerts if alert.key not in self._known]
        if new:
            self._delivery.tell(new)
            self._known.update(alert.key for alert in new)

    def _found(self) -> list[Alert]:
        """Return what is worth telling at this moment, whether it was told or not."""
        day, held = held_by_caps(self._ledger.database, self._ledger.backend, self._about.run_id, self._caps)
        found = list(budget_alerts(self._about, day, held, self._price))
        failures = failure_alert(self._about, self._progress(), self._settings.alert_failure_share)
        return found if failures is None else [*found, failures]
