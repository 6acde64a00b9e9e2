"""Resolve: find out whether a request's image exists already, and where the API can read its input picture."""

from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.input_images import InputImages, InputUnavailable
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.overdue_jobs import OverdueJobs
from kontext_pipeline.generation.reserver import Reserver
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.settler import Settler
from kontext_pipeline.generation.work import ResolvedRequest, SentRequest, WorkItem
from kontext_pipeline.generation.work_queue import ASK_AGAIN_S, CLAIMED_ELSEWHERE, WorkQueue


class Resolver:
    """The stage between the queue and the reserver. Several threads share one."""

    def __init__(
        self,
        *,
        run: RunState,
        queue: WorkQueue,
        reserver: Reserver,
        settler: Settler,
        overdue: OverdueJobs,
        ledger: Ledger,
        store: ImageStore,
        inputs: InputImages,
    ) -> None:
        """Join the stage to the stages before and after it."""
        self._run = run
        self._queue = queue
        self._reserver = reserver
        self._settler = settler
        self._overdue = overdue
        self._ledger = ledger
        self._store = store
        self._inputs = inputs

    def work(self) -> None:
        """Resolve items until the queue is closed. The body of each of the stage's threads."""
        while (item := self._queue.take()) is not None:
            try:
                request = self.resolve(item)
            except Exception as error:  # noqa: BLE001  the run stops, the other threads end in order
                self._run.stop_for(error)
                self._run.let_go()
                continue
            if request is not None and not self._reserver.offer(request):
                self._run.let_go()

    def resolve(self, item: WorkItem) -> ResolvedRequest | None:
        """Return what is to be reserved; None where the item needs no request now.

        Raises:
            StoreFull: the image is in the rescue folder and the store still can't take it.
            InputStoreFull: the input picture can't be kept.
            LedgerError: the ledger can't be written.
        """
        if self._overdue.park(item):
            self._run.let_go()
            return None
        stored = self._store.find(item.fingerprint, item.batch)
        if stored is not None:
            if self._ledger.adopt_picture(item.fingerprint, item.batch, stored):
                self._run.finish(item, "succeeded", found=True)
            elif not self._queue.retry(item, ASK_AGAIN_S, CLAIMED_ELSEWHERE):
                # Another run has stored the picture and has yet to settle its attempt.
                self._run.let_go()
            return None
        try:
            found = self._inputs.resolve(item.request)
        except InputUnavailable as error:
            # Nothing was sent and nothing will be: no slot, no price and no permit are taken for it.
            reservation = self._reserver.claim_unsent(item)
            if reservation is not None:
                self._settler.settle(SentRequest.now(reservation), error.answer)
            return None
        return ResolvedRequest(item, found.uri, found.kept)
