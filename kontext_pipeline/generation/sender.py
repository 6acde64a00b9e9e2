"""Send: a free slot takes the next reservation, makes the POST and hands the answer on."""

from typing import Literal

from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.attempt_log import log_transition
from kontext_pipeline.generation.image_store import ImageStore, StoreFull
from kontext_pipeline.generation.job_poller import JobPoller
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.reserver import Reserver
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.settler import Settler
from kontext_pipeline.generation.shared_pause import SharedPause
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import Reservation, SentRequest
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Outcome
from kontext_pipeline.segmind.spool import HeldFile


class Sender:
    """The stage that makes the POSTs. On v1 it has a thread for each slot, on v2 a few for all of them."""

    def __init__(
        self,
        *,
        run: RunState,
        slots: Slots,
        pause: SharedPause,
        reserver: Reserver,
        settler: Settler,
        jobs: JobPoller,
        ledger: Ledger,
        store: ImageStore,
        client: SegmindClient,
        api_version: Literal["v1", "v2"],
    ) -> None:
        """Join the stage to the stages before and after it."""
        self._run = run
        self._slots = slots
        self._pause = pause
        self._reserver = reserver
        self._settler = settler
        self._jobs = jobs
        self._ledger = ledger
        self._store = store
        self._client = client
        self._api_version = api_version

    def work(self) -> None:
        """Send reservations until the slots are closed. The body of each of the stage's threads."""
        while (reservation := self._slots.take()) is not None:
            try:
                keeps_slot = self.send(reservation)
            except Exception as error:  # noqa: BLE001  the run stops, the other threads end in order
                self._run.stop_for(error)
                self._run.let_go()
                keeps_slot = False
            if not keeps_slot:
                self._slots.release()

    def send(self, reservation: Reservation) -> bool:
        """Send a reservation in the slot that it has taken. Return whether a pending job keeps the slot.

        Raises:
            LedgerError: the ledger or its log of sent attempts can't be written.
        """
        if self._api_version == "v2":
            # The image of a job can be fetched again.
            return self._may_send(reservation) and self._send(reservation, None)
        try:
            # First, as it may wait: what `_may_send` finds must hold when the request is sent.
            held = self._store.hold(reservation.fingerprint)
        except StoreFull as error:
            self._run.stop_for(error)
            self._reserver.give_back(reservation)
            return False
        with held:
            return self._may_send(reservation) and self._send(reservation, held)

    def _send(self, reservation: Reservation, held: HeldFile | None) -> bool:
        sent = SentRequest.now(reservation)
        self._ledger.lease.sending(sent.attempt)
        self._run.count_attempt()
        log_transition("sent", sent)
        answer = self._post(reservation, sent, held)
        if answer.job is not None and answer.outcome is Outcome.ACCEPTED:
            self._jobs.watch(sent, answer.job)
            return True
        if answer.picture is None:
            # At once, while the slot is still taken: the answer may stop or pause the run.
            self._settler.settle(sent, answer)
        else:
            self._settler.put(sent, answer)
        return False

    def _may_send(self, reservation: Reservation) -> bool:
        """Return whether a reservation is still valid; if it is not, give it back."""
        try:
            self._store.check_room(self._slots.in_flight)
            self._ledger.database.check_room()
        except KontextError as error:
            self._run.stop_for(error)
        if self._run.stopped is not None or not self._reserver.is_valid(reservation):
            self._reserver.give_back(reservation)
            return False
        if self._pause.is_on():
            if not self._slots.put(reservation, first=True):
                self._reserver.give_back(reservation)
            return False
        return True

    def _post(self, reservation: Reservation, sent: SentRequest, held: HeldFile | None) -> Answer:
        body = reservation.item.request.body(reservation.request.input_uri)
        if self._api_version == "v1":
            return self._client.generate(body, self._store.spool, sent.fingerprint, held)
        return self._client.submit(body)
