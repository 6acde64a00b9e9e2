"""The metadata tables of a plan: made from the plan and the ledger, and written where the file says something else.

A file's footer names what the table was made from: the batch of the plan, and the ledger's latest revision of the batch's
requests. So every change in the ledger, a late one too, makes a table out of date.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.metadata import metadata_table, plan_digest
from kontext_pipeline.dataset.own_columns import own_schema
from kontext_pipeline.dataset.storage import is_current, write_batch
from kontext_pipeline.generation.ledger import DatasetLink, Ledger
from kontext_pipeline.planning.plan import Plan

MOST_WRITES: Final = 5
"""How often one call writes a table that other runs keep changing. The last of these runs writes the table again."""


@dataclass(frozen=True, slots=True)
class BatchTable:
    """A batch's metadata table, and the name of what it was made from."""

    key: str
    table: pa.Table
    made_from: str

    def write(self, data_dir: UPath) -> None:
        """Write the table to a data directory, unless the file there was made from the same."""
        if not is_current(data_dir, self.key, self.made_from):
            write_batch(self.table, data_dir, self.key, made_from=self.made_from)


class BatchTables:
    """The tables of one plan in one data directory. Any number of threads may use them."""

    def __init__(self, plan: Plan, *, ledger: Ledger, data_dir: UPath) -> None:
        """`ledger` is of the plan's backend."""
        self.plan = plan
        self._ledger = ledger
        self._link = DatasetLink(ledger.database)
        self._data_dir = data_dir

    def make(self, key: str) -> BatchTable:
        """Make the table of a batch."""
        batch = self.plan.batch_table(key)
        # The revision first: a change in between makes the table look too old, never too new.
        return self._make(key, batch, self._made_from(batch))

    def bring_up_to_date(self, key: str) -> None:
        """Write the table of a batch unless it is current, until it is.

        Another run may write an older table at the same time. Each run looks again after it has written, so the last one
        that writes leaves a current table.
        """
        batch = self.plan.batch_table(key)
        for _ in range(MOST_WRITES):
            made_from = self._made_from(batch)
            if is_current(self._data_dir, key, made_from):
                return
            self._make(key, batch, made_from).write(self._data_dir)

    def _made_from(self, batch: pa.Table) -> str:
        revision = self._link.latest_revision(pc.unique(batch["fingerprint"]).to_pylist())
        return f"{plan_digest(batch, backend=self.plan.backend, own=self._own_columns)} {revision}"

    def _make(self, key: str, batch: pa.Table, made_from: str) -> BatchTable:
        generations = self._ledger.generations(pc.unique(batch["fingerprint"]).to_pylist())
        charged = generations.filter(pc.equal(generations["batch"], key))["fingerprint"].combine_chunks()
        table = metadata_table(
            batch,
            generations.drop_columns(["batch"]),
            backend=self.plan.backend,
            charged=charged,
            own=self._own_columns,
        )
        return BatchTable(key, table, made_from)

    @cached_property
    def _own_columns(self) -> pa.Schema:
        """The schema of the manifests' own columns, which every table of the plan has."""
        first_of_each = {batch.manifest: batch.key for batch in reversed(self.plan.batches)}
        return own_schema([self.plan.batch_table(key).schema for key in first_of_each.values()])
