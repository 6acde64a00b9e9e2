"""The aspect ratio of rows that edit a picture and name none: the provider's default, or the one of a setting.

A row whose picture exists, or whose request was sent and may be paid for, keeps the ratio of that request. So no setting
asks for a picture again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.plan_file import PlanFile
from kontext_pipeline.segmind.model import DEFAULT_ASPECT_RATIO

Made = Callable[[list[str]], set[str]]
"""Returns which of some fingerprints have a picture, or were sent and may be paid for."""
ORIGIN: Final = "aspect_ratio"
"""Member of a plan's origin that has the setting, where it is set."""


@dataclass(frozen=True, slots=True)
class DefaultRatio:
    """`ratio` is the setting, None: the provider's default; `made` tells which pictures exist."""

    ratio: str | None = None
    made: Made = lambda _fingerprints: set()

    def of_rows(self, ids: pa.Array, without_ratio: pa.Array, earlier: PlanFile | None) -> tuple[pa.Array, pa.Array]:
        """Return the ratio of each row that has none of its own (else null), and which rows keep an earlier one.

        `ids` are the rows' ids, `without_ratio` tells which rows edit a picture and name no ratio.
        """
        target = self.ratio or DEFAULT_ASPECT_RATIO
        ratios = pc.if_else(without_ratio, target, pa.scalar(None, pa.string()))
        nothing_kept = pa.array(np.zeros(len(ids), bool))
        if earlier is None:
            return ratios, nothing_kept
        # Without the setting, now and earlier, every such row has the provider's default, unless one was kept.
        if not (self.ratio or ORIGIN in earlier.footer.origin or earlier.footer.kept_ratio.get("count")):
            return ratios, nothing_kept
        before = earlier.ratios()
        other = pc.and_(pc.not_equal(before["aspect_ratio"], target), pc.is_in(before["id"], ids.filter(without_ratio)))
        before = before.filter(other)
        made = pa.array(sorted(self.made(before["fingerprint"].to_pylist())), pa.string())
        before = before.filter(pc.is_in(before["fingerprint"], value_set=made)).combine_chunks()
        indices = pc.index_in(ids, value_set=before["id"])
        kept = pc.and_(without_ratio, pc.is_valid(indices))
        if len(before) == 0:
            return ratios, nothing_kept
        return pc.if_else(kept, before["aspect_ratio"].combine_chunks().take(indices), ratios), kept
