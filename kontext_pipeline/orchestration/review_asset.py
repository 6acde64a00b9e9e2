"""The asset of the review: how many pictures have a decision, and which, as reviewers have recorded them.

Materializing it reads `review.csv` and the tables. Reviewers decide on the page of `kontext review`.
"""

import hashlib
from typing import TYPE_CHECKING, Any, Final

from dagster import AssetExecutionContext, AssetsDefinition, DataVersion, MaterializeResult, asset

from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import review_command, table_value
from kontext_pipeline.orchestration.resources import kontext_of

if TYPE_CHECKING:
    from upath import UPath

ROWS_SHOWN: Final = 100
"""Most batches or reasons that an event shows."""


def make_review(names: DatasetNames) -> AssetsDefinition:
    """Return the asset `review` of a dataset."""

    @asset(
        key_prefix=names.prefix,
        group_name=names.group,
        deps=[names.asset_key("metadata")],
        kinds={"csv"},
        tags={"kontext/costs": "nothing"},
        required_resource_keys={names.kontext},
        description="The decisions of reviewers, `review.csv`: coverage, kept and rejected pictures by reason and batch. "
        "Reviewers decide on the page of `kontext review`. Materializing it counts their decisions and costs nothing.",
    )
    def review(context: AssetExecutionContext) -> MaterializeResult[Any]:
        with kontext_of(context, names).pipeline(context) as pipeline:
            return _count_decisions(pipeline.data_dir)

    return review


def _count_decisions(data_dir: "UPath") -> MaterializeResult[Any]:
    from kontext_pipeline.dataset.review.decisions import read_decisions
    from kontext_pipeline.dataset.review.overview import coverage, coverage_by_batch
    from kontext_pipeline.dataset.review.review_rows import ReviewRows

    rows = ReviewRows(data_dir)
    counted = coverage(rows)
    reasons = counted.pop("rejected_by_reason")
    decided = counted["kept"] + counted["rejected"]
    shown: dict[str, Any] = {
        **counted,
        "coverage": round(decided / counted["pictures"], 4) if counted["pictures"] else 0.0,
        "review": review_command(data_dir),
        "by_batch": table_value(coverage_by_batch(rows)[:ROWS_SHOWN]),
    }
    if reasons:
        listed = list(reasons.items())[:ROWS_SHOWN]
        shown["rejected_by_reason"] = table_value({"reason": reason or "none", "pictures": n} for reason, n in listed)
    decisions = read_decisions(data_dir)
    lines = [f"{name} {decisions[name].decision} {decisions[name].reason}" for name in sorted(decisions)]
    version = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return MaterializeResult(metadata=shown, data_version=DataVersion(version))
