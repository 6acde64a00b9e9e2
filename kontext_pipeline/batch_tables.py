"""The metadata tables of a plan: made from the plan and the ledger, and written where the file says something else.

A file's footer names what the table was made from: the batch of the plan, and the ledger's latest revision of the batch's
requests. So every change in the ledger, a late one too, makes a table out of date.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.metadata import metadata_table, plan_digest
from kontext_pipeline.dataset.own_columns import own_schema
from kontext_pipeline.dataset.storage import DatasetError, is_current, read_batch, write_batch
from kontext_pipeline.generation.ledger import DatasetLink, Ledger
from kontext_pipeline.planning.plan import Plan

MOST_WRITES: Final = 5
"""How often one call writes a table that other runs keep changing. The last of these runs writes the table again."""


_PICTURE: Final = ["fingerprint", "image_sha256"]


def _pictures_of(table: pa.Table) -> set[tuple[str, str]]:
    """Return fingerprint and sha256 of every picture in a table."""
    columns = (table[name].to_pylist() for name in _PICTURE)
    return {(fingerprint, sha256) for fingerprint, sha256 in zip(*columns, strict=True) if sha256 is not None}


def own_columns_of(plan: Plan) -> pa.Schema:
    """Return the schema of the manifests' own columns, which every table of the plan has after ours."""
    first_of_each = {batch.manifest: batch.key for batch in reversed(plan.batches)}
    return own_schema([plan.batch_table(key).schema for key in first_of_each.values()])


class BatchTables:
    """The tables of one plan in one data directory. Any number of threads may use them."""

    def __init__(self, plan: Plan, *, ledger: Ledger, data_dir: UPath) -> None:
        """`ledger` is of the plan's backend."""
        self.plan = plan
        self._ledger = ledger
        self._link = DatasetLink(ledger.database)
        self._data_dir = data_dir

    def bring_up_to_date(
        self, key: str, *, decode: Callable[[str, list[str]], None] = lambda _key, _others: None
    ) -> None:
        """Write the table of a batch unless it is current, until it is.

        `decode` is called first, with the batch and the requests whose pictures the written table does not list. A run
        lists a picture when it has decoded it, so a run that was killed may have left these unchecked.

        Another run may write an older table at the same time. Each run looks again after it has written, so the last one
        that writes leaves a current table.
        """
        decode(key, self._unlisted(key))
        batch = self.plan.batch_table(key)
        for _ in range(MOST_WRITES):
            # Before the table is made: a change in between makes the table look too old, never too new.
            made_from = self._made_from(batch)
            if is_current(self._data_dir, key, made_from):
                return
            write_batch(self._make(key, batch), self._data_dir, key, made_from=made_from)

    def plan_digest(self, key: str) -> str:
        """Return a digest of all of a batch's table that follows from the plan."""
        return self._plan_digest(self.plan.batch_table(key))

    def _plan_digest(self, batch: pa.Table) -> str:
        return plan_digest(batch, backend=self.plan.backend, own=self._own_columns)

    def _unlisted(self, key: str) -> list[str]:
        """Return the requests of a batch whose pictures the written table does not list. None where it is current."""
        batch = self.plan.batch_table(key)
        if is_current(self._data_dir, key, self._made_from(batch)):
            return []
        try:
            listed = _pictures_of(read_batch(self._data_dir, key, columns=_PICTURE))
        except DatasetError:
            listed = set()
        made = _pictures_of(self._ledger.generations(pc.unique(batch["fingerprint"]).to_pylist()))
        return [fingerprint for fingerprint, _ in made - listed]

    def _made_from(self, batch: pa.Table) -> str:
        revision = self._link.latest_revision(pc.unique(batch["fingerprint"]).to_pylist())
        return f"{self._plan_digest(batch)} {revision}"

    def _make(self, key: str, batch: pa.Table) -> pa.Table:
        generations = self._ledger.generations(pc.unique(batch["fingerprint"]).to_pylist())
        charged = generations.filter(pc.equal(generations["batch"], key))["fingerprint"].combine_chunks()
        return metadata_table(
            batch,
            generations.drop_columns(["batch"]),
            backend=self.plan.backend,
            charged=charged,
            own=self._own_columns,
        )

    @cached_property
    def _own_columns(self) -> pa.Schema:
        """The schema of the manifests' own columns, which every table of the plan has."""
        return own_columns_of(self.plan)
