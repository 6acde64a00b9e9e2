"""What the input store knows that a user should hear before paying: shapes that don't fit, pictures that are the same.

The store knows the pictures that `kontext inputs` or a run has kept; nothing is said of others.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.inputs.input_index import read_index
from kontext_pipeline.planning.plan import Plan

TOLERANCE: Final = 0.2
"""Share by which the ratio that is asked for may differ from that of the input picture."""
ROWS_NAMED: Final = 10


def input_warnings(plan: Plan, data_dir: UPath) -> list[str]:
    """Return a sentence for each thing that the kept input pictures of a plan tell; none where none is kept."""
    index = read_index(data_dir)
    index = index.filter(pc.and_(pc.is_valid(index["sha256"]), pc.greater(index["height"], 0)))
    if len(index) == 0:
        return []
    index = index.sort_by([("fetched_at", "descending")])
    uris = index["uri"].combine_chunks()
    shapes = np.asarray(index["width"]) / np.asarray(index["height"])
    misfits: list[str] = []
    count = 0
    used = np.zeros(len(index), bool)
    for key in plan.batch_keys:
        batch = plan.batch_table(key)
        found = pc.index_in(pc.coalesce(batch["input_source"], batch["input_image"]), value_set=uris)
        known = np.flatnonzero(np.asarray(pc.is_valid(found)))
        if not len(known):
            continue
        which = np.asarray(found.take(pa.array(known)))
        used[which] = True
        asked = np.array([_shape(text) for text in batch["aspect_ratio"].take(pa.array(known)).to_pylist()])
        # A ratio of 2:1 is as far from 1:1 as 1:2 is.
        off = np.exp(np.abs(np.log(asked / shapes[which]))) - 1 > TOLERANCE
        first = off & (np.asarray(batch["variant"].take(pa.array(known))) == 1)
        count += int(first.sum())
        for row in known[first][: ROWS_NAMED - len(misfits)]:
            misfits.append(f"{batch['manifest'][int(row)].as_py()} row {batch['row'][int(row)].as_py()}")
    return [*_misfits(misfits, count), *_same(index.filter(pa.array(used)))]


def _shape(ratio: str) -> float:
    """Return width through height of an aspect ratio; NaN, which is never off, for that of the input picture."""
    width, _, height = ratio.partition(":")
    return int(width) / int(height) if height else float("nan")


def _misfits(named: list[str], count: int) -> list[str]:
    if not count:
        return []
    more = f" and {count - len(named):,} more" if count > len(named) else ""
    return [
        f"aspect_ratio is more than {TOLERANCE:.0%} off the shape of the input picture in {', '.join(named)}{more}; "
        "match_input_image keeps the shape"
    ]


def _same(used: pa.Table) -> list[str]:
    pairs = used.select(["sha256", "uri"]).group_by(["sha256", "uri"], use_threads=False).aggregate([])
    groups = pairs.group_by("sha256", use_threads=False).aggregate([("uri", "count"), ("uri", "list")])
    groups = groups.filter(pc.greater(groups["uri_count"], 1))
    if len(groups) == 0:
        return []
    example = sorted(groups["uri_list"][0].as_py())
    pictures = "1 input picture has" if len(groups) == 1 else f"{len(groups):,} input pictures have"
    return [
        f"{pictures} more than one address, such as {example[0]} and {example[1]}: their rows edit the same picture"
    ]
