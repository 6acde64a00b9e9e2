"""The generation loop: stages joined by queues, from work items to settled attempts.

    source → InputStage → WorkQueue → Resolver → Reserver → Slots → Sender ─────────────→ Settler
                              ↑                                        └→ JobPoller (v2) ─┘  │
                              └──────────────────── retries ─────────────────────────────────┘

Each stage is a class with threads of its own and is tested alone; `docs/architecture.md` has the table of
states. This module builds the stages, runs them, and ends them: when all work is done, or, after a stop,
when what is in flight has been collected.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from kontext_pipeline.generation.descriptors import A_SLOT, slots_that_fit
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.input_stage import InputStage
from kontext_pipeline.generation.job_poller import JobPoller
from kontext_pipeline.generation.ledger import Ledger, Status
from kontext_pipeline.generation.ledger.money import micros
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.orphan_reaper import OrphanReaper
from kontext_pipeline.generation.overdue_jobs import OverdueJobs
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.generation.reserver import Reserver
from kontext_pipeline.generation.resolver import Resolver
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.sender import Sender
from kontext_pipeline.generation.settler import Settler
from kontext_pipeline.generation.shared_pause import SharedPause
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.generation.work_queue import WorkQueue
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.threads import NoThreadError, start_thread

ITEMS_AHEAD: Final = 64
"""Items that the loop reads from its source ahead of need, at least."""
RESERVATIONS_AHEAD: Final = 64
"""Reservations that wait for a slot, at most: enough for answers that arrive together."""
RESOLVERS: Final = 8
"""Threads that look for images and upload input pictures."""
SUBMITTERS: Final = 8
"""Threads that submit v2 jobs: each call takes a fraction of a second."""
POLLERS: Final = 24
"""Threads that poll v2 jobs and fetch their images."""
SETTLERS: Final = 2
"""Threads that store images on a disk and settle their attempts, several images in one transaction."""
REMOTE_SETTLERS: Final = 16
"""The same where the store is remote: a thread waits for one upload at a time."""
ANSWERS_WAITING: Final = 256
"""Answers that wait to be settled before their slots are kept, at least."""
SPARE_BYTES: Final = 64 * 2**20
"""Address space that must stay free for the run's work where more threads are started than it needs."""
TICK_S: Final = 1.0
"""Longest uninterrupted wait of the thread that runs the loop: some platforms handle signals only between waits."""
LAST_ANSWERS_S: Final = 5.0
"""Seconds in which calls that are cut off may settle what they know."""

log = logging.getLogger(__name__)


class GenerationLoop:
    """One run. Call `run` once; read `progress` and `stopped` from any thread at any time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ImageStore,
        client: SegmindClient,
        inputs: InputImages,
        options: Options,
        on_outcome: Callable[[WorkItem, Status], None] = lambda _item, _status: None,
    ) -> None:
        """`ledger` is registered. `on_outcome` is called from the loop's threads for each item that has its
        outcome (succeeded, failed or unknown); it must return quickly.

        Raises:
            TooFewDescriptors: the system lets this process open too few files.
        """
        a_slot = A_SLOT if options.api_version == "v1" else 0
        options = replace(options, concurrency=slots_that_fit(options.concurrency, a_slot=a_slot))
        self._options = options
        self._client = client
        self._settlers = SETTLERS if store.local else REMOTE_SETTLERS
        # Reservations wait for a slot only where a crash doesn't make them look like sent requests, and not
        # under a rate limit, which counts a request when it is reserved.
        ahead = min(options.concurrency, RESERVATIONS_AHEAD)
        ahead = ahead if ledger.lease.tells_sent and options.rpm is None else 0
        self._run = run = RunState(on_outcome)
        self._queue = queue = WorkQueue(max(ITEMS_AHEAD, options.concurrency))
        self._stage = InputStage(run=run, queue=queue, inputs=inputs)
        self._slots = slots = Slots(options.concurrency, ahead=ahead)
        pause = SharedPause(ledger, slots)
        overdue = OverdueJobs()
        reserver = self._reserver = Reserver(
            run=run,
            queue=queue,
            slots=slots,
            pause=pause,
            ledger=ledger,
            store=store,
            options=options,
            price=max(micros(LIST_PRICE_USD), ledger.highest_charge()),
            overdue=overdue,
        )
        self._settler = settler = Settler(
            run=run,
            queue=queue,
            slots=slots,
            pause=pause,
            reserver=reserver,
            ledger=ledger,
            store=store,
            retries=options.retries,
            capacity=max(ANSWERS_WAITING, 2 * options.concurrency),
        )
        self._jobs = jobs = JobPoller(
            run=run,
            queue=queue,
            slots=slots,
            settler=settler,
            ledger=ledger,
            store=store,
            client=client,
            options=options,
            overdue=overdue,
        )
        self._resolver = Resolver(
            run=run,
            queue=queue,
            reserver=reserver,
            settler=settler,
            overdue=overdue,
            ledger=ledger,
            store=store,
            inputs=inputs,
        )
        self._sender = Sender(
            run=run,
            slots=slots,
            pause=pause,
            reserver=reserver,
            settler=settler,
            jobs=jobs,
            ledger=ledger,
            store=store,
            client=client,
            api_version=options.api_version,
        )
        self._reaper = OrphanReaper(run=run, jobs=jobs, ledger=ledger, store=store)
        self._threads: list[threading.Thread] = []
        # Here, so that a run may be stopped before it begins.
        run.when_stopped(self._stop_sending)

    @property
    def stopped(self) -> Stop | None:
        """Why the run was stopped early; None where it was not."""
        return self._run.stopped

    @property
    def progress(self) -> Progress:
        """The figures of the run at this moment."""
        paused_until, reason = self._slots.pause_state
        return replace(
            self._run.progress(),
            in_flight=self._slots.in_flight,
            paused_until=paused_until,
            pause_reason=reason,
            waiting=self._queue.waiting(),
            fetching=self._stage.fetching(),
        )

    def stop(self, cause: Cause, message: str) -> None:
        """Send nothing more. The first reason given counts."""
        self._run.stop(cause, message)

    def run(self, items: Iterable[WorkItem]) -> None:
        """Bring every item to its outcome, or stop early and say why in `stopped`.

        An interruption (Ctrl-C, or an exception that a signal handler raises in this thread) stops
        the sending, collects what is in flight for `drain_s`, settles it, and is raised again; a second
        one ends the collecting at once. The next run reads from the ledger what is not settled then.

        Raises:
            KontextError: the source of the items failed.
        """
        try:
            self._start(items)
            while not self._run.wait(TICK_S):
                pass
            if self._run.stopped is not None:
                self._collect()
        except BaseException as interruption:  # noqa: BLE001  raised again after what is in flight was collected
            self.stop(Cause.INTERRUPTED, "stopped on request. Start it again to continue.")
            try:
                self._collect()
            finally:
                raise interruption
        finally:
            self._end()
        if self._run.error is not None:
            raise self._run.error

    # --- threads --------------------------------------------------------------------------------

    def _start(self, items: Iterable[WorkItem]) -> None:
        concurrency, v1 = self._options.concurrency, self._options.api_version == "v1"
        # From the last stage to the first. An interruption in between finds no work that no thread would finish.
        stages = {
            "settler": (self._settlers, self._settler.work),
            # Also on v1: a run may collect the v2 jobs of a run that died.
            "poller": (min(POLLERS, concurrency), self._jobs.work),
            "sender": (concurrency if v1 else min(SUBMITTERS, concurrency), self._sender.work),
            "reserver": (1, self._reserver.work),
            "resolver": (min(RESOLVERS, concurrency), self._resolver.work),
            "input": (1, self._stage.work),
        }
        for name, (_, work) in stages.items():
            self._threads.append(start_thread(work, f"{name}-0"))
        try:
            self._reaper.step()
        except Exception as error:  # noqa: BLE001  it stops the run in order
            self._run.stop_for(error)
        self._threads.append(start_thread(self._reaper.work, "reaper"))
        # Not among the threads that the run waits for: the source may block for ever.
        start_thread(partial(self._feed, items), "source")
        try:
            # In turn, so that every stage gets its share where the system has room for fewer.
            for number in range(1, max(count for count, _ in stages.values())):
                for name, (count, work) in stages.items():
                    if number < count:
                        self._threads.append(start_thread(work, f"{name}-{number}", spare_bytes=SPARE_BYTES))
        except NoThreadError:
            fewer = number if v1 else concurrency
            self._slots.lower(fewer)
            log.warning(
                "the system has room for %d requests in flight, not for %d: raise its limits of processes or memory "
                "(ulimit -u, ulimit -v, or the container's) for more",
                *(fewer, concurrency),
            )

    def _feed(self, items: Iterable[WorkItem]) -> None:
        try:
            for item in items:
                self._run.take_in_hand()
                if not self._stage.put(item):
                    self._run.let_go()
                    break
        except BaseException as error:  # noqa: BLE001  `run` raises it again
            self._run.source_failed(error)
        finally:
            self._run.source_exhausted()

    def _stop_sending(self) -> None:
        self._run.let_go(self._stage.close())
        self._run.let_go(self._queue.close())
        self._slots.close()
        self._reserver.close()

    def _collect(self) -> None:
        """Wait for what is in flight, then cut off what has not arrived."""
        if self._options.drain_s > 0 and not self._run.wait_until_idle(0):
            log.info("collecting %d requests in flight", self._slots.in_flight)
        try:
            self._wait_until_idle(self._options.drain_s)
        finally:
            if not self._run.wait_until_idle(0):
                self._jobs.close()
                self._client.close()
                self._wait_until_idle(LAST_ANSWERS_S)

    def _wait_until_idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._run.wait_until_idle(min(left, TICK_S)):
                return

    def _end(self) -> None:
        """End the threads. Those that wait for a call that was cut off are left to end by themselves."""
        self._stop_sending()
        self._jobs.close()
        self._reaper.close()
        self._settler.close(self._settlers)
        until = time.monotonic() + LAST_ANSWERS_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
