"""Splits by groups of input pictures: no input picture, and no near-duplicate of one, is on both sides of a split.

The side of a group follows from a hash of the group and a seed, so it stays as rows are added. A group is named by the
picture of it that was used first. A split that the manifest names wins.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.dataset.exports.export_options import ExportError

TRAIN: Final = "train"
VALIDATION: Final = "validation"
LEAKS_SHOWN: Final = 5
_SYNONYMS: Final = {
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "dev": VALIDATION,
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class Splits:
    """The split of each sample, and how many groups the manifest has put into several splits, with the first of them."""

    names: pa.Array
    leaks: int
    shown: list[str]


def group_names(pictures: pa.Array, links: Sequence[pa.Array], first_used: pa.Array) -> pa.Array:
    """Return the group of each row: the name of the picture of the group that was used first.

    Args:
        pictures: The name of each row's input picture, its sha256.
        links: Further names of each row, or null. Rows that share a name, also one in `pictures`, are in one group.
        first_used: When each row was sent first, or null; a number.
    """
    encoded = pictures.dictionary_encode()
    names, codes = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)
    parents = np.arange(len(names))

    def root(code: int) -> int:
        while parents[code] != code:
            parents[code] = parents[parents[code]]
            code = int(parents[code])
        return code

    for link in links:
        seen: dict[str, int] = {}
        known = pc.index_in(link, names).to_pylist()
        for code, name, picture in zip(codes.tolist(), link.to_pylist(), known, strict=True):
            if name is not None:
                other = seen.setdefault(name, code) if picture is None else picture
                parents[root(code)] = root(other)
    roots = np.fromiter((root(code) for code in range(len(names))), np.int64, len(names))
    # The group's name must not change when pictures are added, so the first picture gives the name.
    used = np.full(len(names), np.inf)
    np.minimum.at(used, codes, pc.fill_null(first_used.cast(pa.float64()), np.inf).to_numpy(zero_copy_only=False))
    order = np.lexsort((pc.rank(names).to_numpy(zero_copy_only=False), used, roots))
    leaders = np.empty(len(names), np.int64)
    leaders[roots[order[::-1]]] = order[::-1]
    return names.take(pa.array(leaders[roots[codes]]))


def split_names(groups: pa.Array, declared: pa.Array | None, *, validation: float, seed: int) -> Splits:
    """Return the split of each sample.

    Args:
        groups: The group of each sample.
        declared: The split that the manifest names for each sample; null or empty: none. A group without a named split
            in any of its samples gets its split by the hash; the other samples of a group get the first named one.
        validation: Share of the groups that `validation` gets.
        seed: Part of the hash.

    Raises:
        ExportError: A split has a name that is not allowed.
    """
    encoded = groups.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    sides = [side_of(name, validation=validation, seed=seed) for name in encoded.dictionary.to_pylist()]
    if declared is None:
        return Splits(pa.array(sides, pa.string()).take(encoded.indices), 0, [])
    named = [split_name(value) for value in declared.to_pylist()]
    by_group: dict[int, dict[str, None]] = {}
    for code, name in zip(codes.tolist(), named, strict=True):
        if name is not None:
            by_group.setdefault(code, {})[name] = None
    names = [
        name or next(iter(by_group.get(code, ())), sides[code])
        for code, name in zip(codes.tolist(), named, strict=True)
    ]
    leaking = {code: found for code, found in by_group.items() if len(found) > 1}
    shown = [f"group {encoded.dictionary[code]}: {', '.join(leaking[code])}" for code in list(leaking)[:LEAKS_SHOWN]]
    return Splits(pa.array(names, pa.string()), len(leaking), shown)


def side_of(group: str, *, validation: float, seed: int) -> str:
    """Return `train` or `validation`. A larger share moves groups to `validation` and none away from there."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8]) / 2**64 < validation else TRAIN


def split_name(value: Any) -> str | None:
    """Return the name of a split that a manifest gives; the usual synonyms become `train`, `validation` and `test`.

    Raises:
        ExportError: The name is not allowed.
    """
    name = "" if value is None else str(value).strip()
    if not name:
        return None
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"The column split has {name!r}; up to 64 letters, digits and '_' are allowed. Correct the manifest and plan "
            "again."
        )
    return _SYNONYMS.get(name.lower(), name.lower() if name.lower() in (TRAIN, VALIDATION, "test") else name)
