"""What a run doesn't ask for: the requests that the ledger has settled, and whose pictures are in the image store."""

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

import pyarrow as pa
from upath import UPath

from kontext_pipeline.generation.image_listing import absent_pictures
from kontext_pipeline.generation.ledger import AskAgain, DatasetLink, Ledger
from kontext_pipeline.planning.estimate import Settled
from kontext_pipeline.planning.plan import Plan

log: Final = logging.getLogger(__name__)

WHOLE_LEDGER_FROM: Final = 10_000
"""Least number of requests for which the whole ledger may be read at once."""
WHOLE_LEDGER_SHARE: Final = 5
"""Most requests in the ledger, per request that is looked up, for which reading all of it is faster."""


class SettledRequests:
    """Looks requests up in the ledger and in the image store, and remembers the pictures that are gone."""

    def __init__(self, ledger: Ledger, data_dir: UPath, *, unknown_retries: int) -> None:
        """`unknown_retries` is the setting of that name."""
        self.gone: set[str] = set()
        """The fingerprints of pictures that were found to be gone from the image store."""
        self._ledger = ledger
        self._data_dir = data_dir
        self._unknown_retries = unknown_retries
        self._link = DatasetLink(ledger.database)

    def settled(
        self, requests: int, *, retry_failed: bool = False, ask_again: AskAgain, look_at_files: bool
    ) -> Settled:
        """Return a function that tells which requests succeeded, and which a run doesn't try again.

        With `look_at_files`, a request whose picture is gone from the image store has not succeeded. Of large plans only
        the names of the files are looked at, else their sizes too.

        `requests`: how many will be looked up in all. Reading the whole ledger once is faster than looking up a
        large part of it.

        Raises:
            ListingError: the image store can't be listed. The function raises it too.
        """
        ledger, retries = self._ledger, self._unknown_retries
        if requests >= WHOLE_LEDGER_FROM and ledger.size() <= WHOLE_LEDGER_SHARE * requests:
            done, given_up = ledger.settled(unknown_retries=retries, retry_failed=retry_failed, ask_again=ask_again)
            if look_at_files and (gone := absent_pictures(self._data_dir, done)):
                self.gone |= gone
                done -= gone
            return lambda _fingerprints: (done, given_up)

        def look_up(fingerprints: Sequence[str]) -> tuple[Set[str], Set[str]]:
            known = ledger.statuses(
                fingerprints, unknown_retries=retries, retry_failed=retry_failed, ask_again=ask_again
            )
            succeeded = {key for key, (status, _) in known.items() if status == "succeeded"}
            given_up = {key for key, (_, again) in known.items() if not again} - succeeded
            if look_at_files:
                gone = self._absent(self._link.pictures(sorted(succeeded)))
                self.gone |= gone
                succeeded -= gone
            return succeeded, given_up

        return look_up

    def _absent(self, pictures: Mapping[str, tuple[int, int]]) -> set[str]:
        return absent_pictures(self._data_dir, pictures, {key: size for key, (_, size) in pictures.items()})

    def gone_of(self, fingerprints: Iterable[pa.Array | pa.ChunkedArray]) -> set[str]:
        """Return those of some requests whose pictures were found to be gone."""
        if not self.gone:
            return set()
        return {one for some in fingerprints for one in some.to_pylist() if one in self.gone}

    def reopen(self, plan: Plan, keys: Iterable[str]) -> None:
        """Make the requests of these batches pending again whose pictures were found to be gone."""
        gone = self.gone_of(plan.batch_table(key)["fingerprint"] for key in keys) if self.gone else set()
        # The ledger first: a picture that another run makes now is not gone, and its request has another revision.
        pictures = self._link.pictures(sorted(gone))
        if absent := self._absent(pictures):
            reopened = self._link.reopen({key: pictures[key][0] for key in absent})
            log.info("%d pictures are gone from the data directory and are requested again.", reopened)
        self.gone -= gone
