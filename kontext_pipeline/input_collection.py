"""The input pictures of a plan: collected for a run, or all of them ahead of every run, for nothing.

Joins the input store with the plan and with the generation loop, for one set of settings.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.image_store import DISK_RESERVE
from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.ledger.uploads import RememberedUploads
from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_collector import THREADS, InputCollector
from kontext_pipeline.inputs.input_index import InputIndex
from kontext_pipeline.inputs.input_keeper import FoundInput, InputKeeper
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStore, KeptInput
from kontext_pipeline.inputs.pictures import InputLimits
from kontext_pipeline.inputs.web_fetcher import WebFetcher
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.settings import Settings

WANTED_AT_ONCE: Final = 1000
"""Pictures that are wanted and not looked at yet, at most."""
SHOWN: Final = 20
"""Problems that a collection keeps for each cause."""

log = logging.getLogger(__name__)


def open_collector(settings: Settings, data_dir: UPath) -> InputCollector:
    """Return a collector of input pictures for a data directory. Close it."""
    store = InputStore(data_dir, reserve_bytes=2 * DISK_RESERVE * settings.concurrency)
    limits = InputLimits(
        max_bytes=int(settings.input_max_mb * 2**20),
        min_side=settings.input_min_side,
        max_ratio=settings.input_max_ratio,
        animated=settings.input_animated,
    )
    web = WebFetcher(private_allowed=settings.private_inputs, threads=THREADS)
    keeper = InputKeeper(store, InputIndex(data_dir), web, limits=limits, max_age_s=settings.input_max_age_s)
    return InputCollector(keeper)


def close_collector(collector: InputCollector) -> None:
    """Close the collector of a run. A full disk costs rows of the index, which cost a fetch: no run fails for it."""
    try:
        collector.close()
    except KontextError as error:
        log.warning("%s Input pictures that are not in the index are fetched once more.", error)


def input_images(settings: Settings, client: SegmindClient, ledger: Ledger, collector: InputCollector) -> InputImages:
    """Return the input images of a run."""
    # A sandbox forgets its files when it ends.
    remembered = RememberedUploads(ledger.database, settings.resolved_upload_url) if settings.paid else None
    return InputImages(client, collector, remembered=remembered, pass_on=not settings.keeps_inputs)


@dataclass(frozen=True, slots=True)
class MissingInput:
    """An input picture that can't be had: its address, why, and the first row that names it, as `manifest row N`."""

    address: str
    reason: str
    row: str


class Collection:
    """What was collected, and what could not be. It grows while threads add to it."""

    def __init__(self, wanted: int) -> None:
        """`wanted`: how many distinct input pictures the plan has."""
        self.wanted = wanted
        self.kept = 0
        self.bytes = 0
        """Size of the pictures that are kept."""
        self.dead = 0
        """Addresses that have no picture any more; the kept ones are used."""
        self.changed = 0
        """Addresses whose content is another one than when it was kept."""
        self.missing_by_cause: Counter[str] = Counter()
        """How many pictures can't be had, by cause."""
        self.missing: dict[str, list[MissingInput]] = {}
        """The first of them, by cause."""
        self.examples: list[KeptInput] = []
        """The first pictures that are kept."""
        self._lock = threading.Lock()
        self._error: Exception | None = None

    @property
    def missing_count(self) -> int:
        """How many input pictures can't be had."""
        return self.missing_by_cause.total()

    def add(self, address: InputAddress, row: str, get: Callable[[InputAddress], FoundInput]) -> None:
        """Add what came of an address, of which `row` is the first row. `get` returns it or raises."""
        with self._lock:
            try:
                kept = get(address).kept
            except InputProblem as problem:
                cause = problem.cause.value
                self.missing_by_cause[cause] += 1
                listed = self.missing.setdefault(cause, [])
                if len(listed) < SHOWN:
                    listed.append(MissingInput(address.shown(), str(problem), row))
            except Exception as error:  # noqa: BLE001  raised again by `check`
                self._error = self._error or error
            else:
                self.kept += 1
                self.bytes += kept.bytes
                if len(self.examples) < SHOWN:
                    self.examples.append(kept)

    def check(self) -> None:
        """Raise the first error that was no problem of one picture alone."""
        if self._error is not None:
            raise self._error


def addresses_of(plan: Plan) -> Iterator[tuple[InputAddress, str]]:
    """Yield every distinct input picture of a plan, with the first row that names it (`manifest row N`)."""
    seen = set()
    for key in plan.batch_keys:
        batch = plan.batch_table(key)
        images = pc.coalesce(batch["input_source"], batch["input_image"])
        columns = (images, batch["input_sha256"], batch["manifest"], batch["row"])
        for uri, sha256, manifest, row in zip(*(column.to_pylist() for column in columns), strict=True):
            address = None if uri is None else InputAddress(uri, sha256)
            if address is not None and address.identity not in seen:
                seen.add(address.identity)
                yield address, f"{manifest} row {row}"


def collect(
    plan: Plan, collector: InputCollector, *, watch: Callable[[Callable[[], Collection]], None] = lambda _read: None
) -> Collection:
    """Fetch, check and keep every distinct input picture of a plan. `watch` is given a function for the figures so far.

    Raises:
        InputStoreFull: the store can't be written.
    """
    found = Collection(sum(1 for _ in addresses_of(plan)))
    watch(lambda: found)
    room = threading.Semaphore(WANTED_AT_ONCE)

    def add(address: InputAddress, row: str) -> None:
        found.add(address, row, collector.get)
        room.release()

    for address, row in addresses_of(plan):
        found.check()
        room.acquire()
        collector.want(address, partial(add, address, row))
        if address.scheme == "data":
            # It is as long as its picture, so none waits beside others.
            collector.wait(address)
    for _ in range(WANTED_AT_ONCE):
        room.acquire()
    found.check()
    found.dead, found.changed = len(collector.keeper.dead), len(collector.keeper.changed)
    return found
