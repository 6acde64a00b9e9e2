"""Checks of measured batches: how many pictures have an issue, how many are reviewed, and which rows that concerns."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from upath import UPath

from kontext_pipeline.dataset.quality.quality_tables import measured_batches, read_table
from kontext_pipeline.dataset.storage import DatasetError, read_batch

FEW_UNCHANGED: Final = "few_pictures_are_unchanged"
FEW_BLACK: Final = "few_pictures_are_black"
RATIOS: Final = "aspect_ratios_are_as_asked"
FEW_DUPLICATES: Final = "few_near_duplicates"
REVIEWED: Final = "pictures_are_reviewed"
ISSUES_OF: Final[dict[str, frozenset[str]]] = {
    FEW_UNCHANGED: frozenset({"unchanged"}),
    FEW_BLACK: frozenset({"black", "blank"}),
    RATIOS: frozenset({"odd_aspect_ratio"}),
    FEW_DUPLICATES: frozenset({"near_duplicate"}),
}
"""The issues that a check counts."""
CHECKS: Final = (*ISSUES_OF, REVIEWED)
SHOWN: Final = 12
"""Most rows that a finding names."""
_COLUMNS: Final = ("fingerprint", "issues", "changed_share", "sharpness", "near_duplicate_of")
_METADATA: Final = ("fingerprint", "id", "variant", "prompt", "image_path", "input_path")


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """The largest share of measured pictures with an issue, and the least share of reviewed ones, 0 to 1."""

    unchanged_share: float = 0.1
    black_share: float = 0.02
    odd_ratio_share: float = 0.05
    near_duplicate_share: float = 0.1
    review_coverage: float = 0.0

    def of(self, check: str) -> float:
        """Return the limit of a check."""
        return {
            FEW_UNCHANGED: self.unchanged_share,
            FEW_BLACK: self.black_share,
            RATIOS: self.odd_ratio_share,
            FEW_DUPLICATES: self.near_duplicate_share,
            REVIEWED: self.review_coverage,
        }[check]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row that a check names: what it asked for, the picture, and the picture to look at beside it."""

    batch: str
    id: str
    variant: int
    prompt: str
    fingerprint: str
    image: UPath
    beside: UPath | None
    issues: Sequence[str] = ()


@dataclass(slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: The check's name.
        limit: The largest share of `found` pictures, or the least one of reviewed pictures.
        pictures: The pictures that were looked at. A picture of two batches counts in each.
        found: Those with an issue; of `REVIEWED`, those without a decision.
        examples: Batch, fingerprint and nearest picture of the first of them.
        rows: The rows of these, of a finding that has failed.
    """

    check: str
    limit: float
    pictures: int = 0
    found: int = 0
    examples: list[tuple[str, str, str | None]] = field(default_factory=list)
    rows: list[ShownRow] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of pictures with an issue; of `REVIEWED`, that of pictures with a decision. 0 to 1."""
        found = self.pictures - self.found if self.check == REVIEWED else self.found
        return found / self.pictures if self.pictures else float(self.check == REVIEWED)

    @property
    def passed(self) -> bool:
        """Whether the share is within the limit."""
        return self.share >= self.limit if self.check == REVIEWED else self.share <= self.limit

    @property
    def sentence(self) -> str:
        """What is wrong, for a person."""
        if self.check == REVIEWED:
            return f"{self.share:.1%} of {self.pictures:,} pictures are reviewed; at least {self.limit:.1%} should be"
        issues = " or ".join(sorted(ISSUES_OF[self.check]))
        return (
            f"{self.found:,} of {self.pictures:,} pictures ({self.share:.1%}) have the issue {issues}; at most "
            f"{self.limit:.1%} may"
        )


def check_quality(
    data_dir: UPath,
    keys: Iterable[str],
    limits: QualityLimits,
    *,
    decided: Collection[str] = (),
    checks: Sequence[str] = CHECKS,
) -> list[Finding]:
    """Check measured batches together.

    Args:
        data_dir: The data directory.
        keys: The batches. One that was not measured has no pictures.
        limits: What is allowed.
        decided: The fingerprints of pictures with a decision.
        checks: The checks to make.

    Returns:
        What each check found, in the order of `checks`.
    """
    findings = [Finding(check, limits.of(check)) for check in checks]
    for key in keys:
        table = read_table(data_dir, key, _COLUMNS)
        for row in [] if table is None else table.to_pylist():
            for finding in findings:
                _count(finding, key, row, decided)
    for finding in findings:
        if not finding.passed:
            finding.rows = list(_rows(data_dir, finding))
    return findings


def rows_with_issues(data_dir: UPath, key: str, *, most: int) -> list[ShownRow]:
    """Return up to `most` rows of a batch whose pictures have an issue, with their input pictures beside."""
    table = read_table(data_dir, key, ["fingerprint", "issues"])
    issues = {} if table is None else {row["fingerprint"]: row["issues"] for row in table.to_pylist() if row["issues"]}
    metadata = _metadata(data_dir, key) if issues else {}
    chosen = [(row, issues[name]) for name, row in metadata.items() if name in issues and row["image_path"]]
    return [_shown(data_dir, key, row, row["input_path"], named) for row, named in chosen[:most]]


def _shown(
    data_dir: UPath, key: str, row: Mapping[str, Any], beside: str | None, issues: Sequence[str] = ()
) -> ShownRow:
    return ShownRow(
        batch=key,
        id=row["id"],
        variant=row["variant"],
        prompt=row["prompt"],
        fingerprint=row["fingerprint"],
        image=data_dir / row["image_path"],
        beside=data_dir / beside if beside else None,
        issues=issues,
    )


def _count(finding: Finding, key: str, row: Mapping[str, Any], decided: Collection[str]) -> None:
    if finding.check == REVIEWED:
        found = row["fingerprint"] not in decided
    else:
        measured = row["changed_share" if finding.check == FEW_UNCHANGED else "sharpness"] is not None
        if not measured:
            return
        found = not ISSUES_OF[finding.check].isdisjoint(row["issues"] or ())
    finding.pictures += 1
    finding.found += found
    if found and len(finding.examples) < SHOWN:
        finding.examples.append((key, row["fingerprint"], row["near_duplicate_of"]))


def _rows(data_dir: UPath, finding: Finding) -> Iterator[ShownRow]:
    """Yield the rows of the pictures that a finding counts first, with the picture to look at beside each."""
    near = {other for _, _, other in finding.examples if other} if finding.check == FEW_DUPLICATES else set()
    others = _pictures(data_dir, near)
    for batch in dict.fromkeys(key for key, _, _ in finding.examples):
        metadata = _metadata(data_dir, batch)
        for _, fingerprint, other in (one for one in finding.examples if one[0] == batch):
            row = metadata.get(fingerprint)
            if row is None or row["image_path"] is None:
                continue
            beside = others.get(other) if finding.check == FEW_DUPLICATES and other else row["input_path"]
            yield _shown(data_dir, batch, row, beside)


def _pictures(data_dir: UPath, fingerprints: Collection[str]) -> dict[str, str]:
    """Return the paths of pictures of any measured batch, relative to the data directory."""
    left, paths = set(fingerprints), dict[str, str]()
    for key in measured_batches(data_dir) if left else ():
        table = read_table(data_dir, key, ["fingerprint"])
        if table is None or left.isdisjoint(table["fingerprint"].to_pylist()):
            continue
        found = {name: row["image_path"] for name, row in _metadata(data_dir, key).items() if name in left}
        paths.update((name, path) for name, path in found.items() if path)
        left -= paths.keys()
        if not left:
            break
    return paths


def _metadata(data_dir: UPath, key: str) -> dict[str, Mapping[str, Any]]:
    """Return the first metadata row of each picture of a batch; none where there is no table."""
    try:
        table = read_batch(data_dir, key, columns=_METADATA)
    except DatasetError:
        return {}
    rows: dict[str, Mapping[str, Any]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["fingerprint"], row)
    return rows
