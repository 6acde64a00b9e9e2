"""Keeping one input picture: what is known of its address, else a fetch, a check, and a place in the store."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from kontext_pipeline.inputs.file_fetcher import read_data_uri, read_local, read_remote
from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_index import IndexEntry, InputIndex
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStore, KeptInput
from kontext_pipeline.inputs.pictures import InputLimits, NotAnImage, inspect_picture
from kontext_pipeline.inputs.spooling import Fetched, Spool
from kontext_pipeline.segmind.outcomes import Cause

SHOWN: Final = 3
"""Addresses that a warning names."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundInput:
    """A picture in the store, and how the API gets it.

    `upload`: the API can't fetch the address, so the kept picture is uploaded; else the address itself is sent.
    `dead`: the address has no picture any more, only the store has.
    """

    kept: KeptInput
    upload: bool
    dead: bool = False


class Fetcher(Protocol):
    """What fetches http(s) URLs: `WebFetcher`."""

    def fetch(self, url: str, spool: Spool, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        """Fetch a URL into a file, unless its content is still the version that is named."""

    def close(self) -> None:
        """End the fetches in progress."""


class InputKeeper:
    """Keeps input pictures of one data directory. Any number of threads may use it."""

    def __init__(
        self,
        store: InputStore,
        index: InputIndex,
        web: Fetcher,
        *,
        limits: InputLimits,
        max_age_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`max_age_s`: age after which the address of a kept picture is asked for changes. `now`: Unix time."""
        self.store = store
        self._index = index
        self._web = web
        self._limits = limits
        self._max_age_s = max_age_s
        self._now = now
        self._lock = threading.Lock()
        self.changed: list[str] = []
        """Addresses whose content is another one than when it was kept."""
        self.dead: list[str] = []
        """Addresses that have no picture any more."""

    def known(self, address: InputAddress) -> FoundInput | None:
        """Return the picture of an address where it needs no look: it is kept, and was looked at lately."""
        if address.sha256 is not None:
            kept = self._index.find_content(address.sha256)
            return FoundInput(kept, upload=True) if kept is not None and self.store.has(kept) else None
        entry = self._kept(address)
        if entry is None or entry.kept is None:
            return None
        age_s = self._now() - entry.fetched_at.timestamp()
        fresh = address.scheme == "data" or 0 <= age_s < self._max_age_s
        return _found(address, entry) if fresh else None

    def look(self, address: InputAddress) -> FoundInput:
        """Fetch, check and keep the picture of an address. Nothing is fetched where it has not changed.

        Raises:
            InputProblem: there is no usable picture. If it is `transient`, another look may find one.
            InputStoreFull: the store can't be written.
        """
        entry = self._kept(address) if address.sha256 is None else None
        with self.store.spool_file() as path:
            spool = Spool(self.store, path, self._limits.max_bytes)
            fetched = self._fetch(address, spool, entry)
            if fetched.sha256 is None and entry is not None:
                entry = replace(entry, fetched_at=self._time(), private=fetched.private, problem=None)
                self._add(entry)
                return _found(address, entry)
            kept = self._checked(address, spool, fetched)
        if entry is not None and entry.kept is not None and entry.kept.sha256 != kept.sha256:
            with self._lock:
                self.changed.append(address.shown())
        entry = IndexEntry(
            address.key, kept, self._time(), fetched.etag, fetched.last_modified, private=fetched.private
        )
        self._add(entry)
        return _found(address, entry)

    def fall_back(self, address: InputAddress, problem: InputProblem) -> FoundInput:
        """Return the picture that the store has of an address without one, to be uploaded.

        Raises:
            InputProblem: `problem`, where the store has none either.
            InputStoreFull: the index can't be written.
        """
        entry = self._kept(address) if address.sha256 is None else None
        self._add(IndexEntry(address.key, None, self._time(), problem=str(problem)))
        if entry is None or entry.kept is None:
            raise problem
        with self._lock:
            self.dead.append(address.shown())
        return FoundInput(entry.kept, upload=address.scheme != "data", dead=True)

    def close(self) -> None:
        """Write the index, and say what has changed.

        Raises:
            InputStoreFull: the index can't be written.
        """
        self._web.close()
        for addresses, words in (
            (self.changed, "changed since they were kept: new pictures are made from the new ones, and both are kept"),
            (self.dead, "can't be fetched any more: the kept ones are used"),
        ):
            if addresses:
                more = f" and {len(addresses) - SHOWN:,} more" if len(addresses) > SHOWN else ""
                shown = f"{', '.join(addresses[:SHOWN])}{more}"
                log.warning("Input pictures that %s (%s): %s", words, f"{len(addresses):,}", shown)
        with self.store.writing():
            self._index.merge()

    def _kept(self, address: InputAddress) -> IndexEntry | None:
        entry = self._index.find(address.key)
        return entry if entry is not None and entry.kept is not None and self.store.has(entry.kept) else None

    def _fetch(self, address: InputAddress, spool: Spool, entry: IndexEntry | None) -> Fetched:
        etag, last_modified = (entry.etag, entry.last_modified) if entry is not None else (None, None)
        if address.is_web:
            return self._web.fetch(address.uri, spool, etag=etag, last_modified=last_modified)
        if address.scheme == "data":
            return read_data_uri(address.uri, spool)
        if address.scheme == "file":
            return read_local(address.uri, spool)
        return read_remote(address.uri, spool, etag=etag)

    def _checked(self, address: InputAddress, spool: Spool, fetched: Fetched) -> KeptInput:
        assert fetched.sha256 is not None, "only the version that was asked about comes without a digest"
        if address.sha256 not in (None, fetched.sha256):
            raise InputProblem(
                Cause.INPUT_CHANGED,
                "it was changed since it was planned: plan again, and its rows ask for new pictures",
            )
        try:
            facts = inspect_picture(spool.path)
        except NotAnImage as error:
            raise InputProblem(Cause.INPUT_NOT_A_PICTURE, str(error)) from None
        if reason := self._limits.refusal(facts):
            raise InputProblem(Cause.INPUT_UNSUITABLE, reason)
        return self.store.keep_file(spool.path, fetched.sha256, facts)

    def _add(self, entry: IndexEntry) -> None:
        with self.store.writing():
            self._index.add(entry)

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)


def _found(address: InputAddress, entry: IndexEntry) -> FoundInput:
    assert entry.kept is not None
    sent_as_it_is = address.scheme == "data" or (address.is_public and not entry.private)
    return FoundInput(entry.kept, upload=address.sha256 is not None or not sent_as_it_is)
