"""What follows from all pictures of a data directory together: near-duplicates, and groups of input pictures."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.quality.near_duplicates import groups, near_pairs
from kontext_pipeline.dataset.quality.perceptual_hash import hashes_of
from kontext_pipeline.dataset.quality.quality_tables import (
    Row,
    exclusive,
    measured_batches,
    read_footer,
    read_rows,
    read_table,
    write_rows,
)
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.dataset.storage import DatasetError, read_batch

log: Final = logging.getLogger(__name__)

NEIGHBOURS_VERSION: Final = 1
"""Version of near-duplicates and input groups, a part of each table's footer."""
MOST_CELL_DIFFERENCE: Final = 16
"""Near-duplicates differ by no more than this, of 255, in each cell of the colour layout: other colours, or an object
that was added, make another picture."""
INPUT_RADIUS: Final = 6
"""Input pictures with a distance of at most this are in one group."""
_READ_AT_ONCE: Final = 8
_COLUMNS: Final = (
    "fingerprint",
    "perceptual_hash",
    "color_layout",
    "near_duplicate_distance",
    "near_duplicate_of",
    "measured_input_sha256",
    "input_perceptual_hash",
    "input_group",
)


def layouts_agree(one: bytes, other: bytes) -> bool:
    """Return whether two colour layouts can be those of near-duplicates."""
    a, b = np.frombuffer(one, np.uint8).astype(np.int16), np.frombuffer(other, np.uint8).astype(np.int16)
    return bool(np.abs(a - b).max() <= MOST_CELL_DIFFERENCE)


def neighbours_are_current(data_dir: UPath, key: str, thresholds: Thresholds) -> bool:
    """Return whether near-duplicates, input groups and issues of a batch were set after the batch was written last.

    A batch without a quality table needs none.
    """
    footer = read_footer(data_dir, key)
    return not footer or footer == footer | {"neighbours": NEIGHBOURS_VERSION, "thresholds": thresholds.digest}


def update_neighbours(data_dir: UPath, thresholds: Thresholds) -> int:
    """Set near-duplicates, input groups and issues in all quality tables. Return how many tables were written.

    Raises:
        OSError: A table can't be written.
    """
    keys = measured_batches(data_dir)
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        tables = list(pool.map(lambda key: read_table(data_dir, key, _COLUMNS), keys))
    found = {key: table for key, table in zip(keys, tables, strict=True) if table is not None}
    if not found:
        return 0
    everything = pa.concat_tables(found.values())
    nearest, group_of = _nearest(everything), _input_groups(everything)
    return sum(_update(data_dir, key, table, nearest, group_of, thresholds=thresholds) for key, table in found.items())


def _update(
    data_dir: UPath,
    key: str,
    table: pa.Table,
    nearest: Mapping[str, tuple[float, str]],
    group_of: Mapping[str, str],
    *,
    thresholds: Thresholds,
) -> bool:
    """Bring one table up to date; return whether it was written."""
    footer = read_footer(data_dir, key)
    current = {"neighbours": NEIGHBOURS_VERSION, "thresholds": thresholds.digest}
    if footer | current == footer and not any(_note(row, nearest, group_of) for row in table.to_pylist()):
        return False
    # The metadata that issues hang on, before the lock.
    metadata = _metadata(data_dir, key, thresholds)
    with exclusive(data_dir):
        rows = read_rows(data_dir, key)
        footer = read_footer(data_dir, key)
        for row in rows.values():
            _note(row, nearest, group_of)
            row["issues"] = thresholds.issues(row, metadata.get(row["fingerprint"], {}))
        write_rows(data_dir, key, rows.values(), footer | current)
    return True


def _note(row: Row, nearest: Mapping[str, tuple[float, str]], group_of: Mapping[str, str]) -> bool:
    """Set what follows from the other pictures; return whether that changes the row."""
    near, other = nearest.get(row["fingerprint"], (None, None))
    sha256 = row["measured_input_sha256"]
    now = {"near_duplicate_distance": near, "near_duplicate_of": other, "input_group": group_of.get(sha256, sha256)}
    changed = any(row.get(name) != value for name, value in now.items())
    row.update(now)
    return changed


def _metadata(data_dir: UPath, key: str, thresholds: Thresholds) -> dict[str, dict[str, Any]]:
    """Return the columns that thresholds hang on, by fingerprint; of rows that share a picture, the first one's."""
    if not thresholds.columns:
        return {}
    try:
        table = read_batch(data_dir, key)
    except DatasetError as error:
        log.warning("the thresholds of %s are those of all rows: %s", key, error)
        return {}
    names = [name for name in thresholds.columns if name in table.column_names]
    rows: dict[str, dict[str, Any]] = {}
    for row in table.select(["fingerprint", *(name for name in names if name != "fingerprint")]).to_pylist():
        rows.setdefault(row["fingerprint"], row)
    return rows


def _nearest(table: pa.Table) -> dict[str, tuple[float, str]]:
    """Return for each picture that has a near-duplicate the distance to the nearest one and that one's fingerprint."""
    table = table.select(["fingerprint", "perceptual_hash", "color_layout"]).filter(
        pc.is_valid(table["perceptual_hash"])
    )
    if table.num_rows == 0:
        return {}
    # A picture of two batches is one picture.
    table = table.sort_by("fingerprint")
    names = table["fingerprint"].combine_chunks()
    first = np.append(True, np.asarray(pc.not_equal(names[1:], names[:-1])))
    table = table.filter(pa.array(first))
    names = table["fingerprint"].to_pylist()
    layouts = np.frombuffer(b"".join(table["color_layout"].to_pylist()), np.uint8).reshape(len(names), -1)
    pairs = near_pairs(hashes_of(table["perceptual_hash"].to_pylist()))
    best: dict[str, tuple[float, str]] = {}
    for start in range(0, len(pairs.one), 100_000):
        part = slice(start, start + 100_000)
        one, other, distance = pairs.one[part], pairs.other[part], pairs.distance[part]
        cells = np.abs(layouts[one].astype(np.int16) - layouts[other])
        agree = np.flatnonzero(cells.max(axis=1) <= MOST_CELL_DIFFERENCE)
        for i, j, near in zip(one[agree].tolist(), other[agree].tolist(), distance[agree].tolist(), strict=True):
            for name, neighbour in ((names[i], names[j]), (names[j], names[i])):
                candidate = (float(near), neighbour)
                if name not in best or candidate < best[name]:
                    best[name] = candidate
    return best


def _input_groups(table: pa.Table) -> dict[str, str]:
    """Return the group of each input picture that was measured.

    A group's name is the sha256 of one of its pictures, and stays when pictures are added, so that the group stays on its
    side of a split. A new picture joins the group of its near-duplicates. Where it is near to two groups, these become one,
    with the name of the larger.
    """
    columns = ["measured_input_sha256", "input_perceptual_hash", "input_group"]
    table = table.select(columns).filter(pc.is_valid(table["input_perceptual_hash"]))
    hash_of: dict[str, str] = {}
    before: dict[str, str] = {}
    for row in table.group_by(columns, use_threads=False).aggregate([]).to_pylist():
        hash_of.setdefault(row["measured_input_sha256"], row["input_perceptual_hash"])
        if row["input_group"] is not None:
            before.setdefault(row["measured_input_sha256"], row["input_group"])
    pictures = sorted(hash_of)
    if not pictures:
        return {}
    members: defaultdict[int, list[str]] = defaultdict(list)
    labels = groups(hashes_of([hash_of[sha256] for sha256 in pictures]), radius=INPUT_RADIUS)
    for sha256, label in zip(pictures, labels.tolist(), strict=True):
        members[label].append(sha256)
    group_of = {}
    for same in members.values():
        known = Counter(before[sha256] for sha256 in same if sha256 in before)
        name = min(known, key=lambda group: (-known[group], group)) if known else same[0]
        group_of.update(dict.fromkeys(same, name))
    return group_of
