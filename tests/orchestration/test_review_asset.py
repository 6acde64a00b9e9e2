"""The review in Dagster: coverage as the reviewers have recorded it, and the command that opens the page on a batch."""

from datetime import UTC, datetime
from typing import Any

from dagster import ExecuteInProcessResult
from upath import UPath

from kontext_pipeline.dataset.review.decisions import Decision, Verdict, record_decisions
from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.event_metadata import review_command
from tests.orchestration.conftest import Project, materialized

FIRST = "photos-00000"


def materialize(project: Project) -> tuple[dict[str, Any], str]:
    """Materialize `review`, and return its metadata and data version."""
    definitions = defs()
    key = definitions.resolve_assets_def("review").key
    result: ExecuteInProcessResult = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=project.instance, asset_selection=[key]
    )
    [event] = result.get_asset_materialization_events()
    tags = event.step_materialization_data.materialization.tags or {}
    return materialized(result, "review")[None], tags["dagster/data_version"]


def test_coverage_and_reasons_are_counted_by_batch(project: Project) -> None:
    project.plan()
    shown = materialized(project.augment(FIRST), "images")[FIRST]
    assert shown["review"] == f"kontext review --data-dir {project.data_dir} --batch {FIRST}"
    empty, before = materialize(project)
    assert (empty["pictures"], empty["kept"], empty["coverage"]) == (4, 0, 0.0)

    verdicts: list[tuple[Verdict, str]] = [("keep", ""), ("reject", "too dark"), ("reject", "too dark")]
    fingerprints = project.table(FIRST)["fingerprint"].to_pylist()
    decisions = [
        Decision(fingerprint, verdict, reason, "ann", datetime.now(UTC))
        for fingerprint, (verdict, reason) in zip(fingerprints, verdicts, strict=False)
    ]
    record_decisions(UPath(project.data_dir), decisions)
    counted, after = materialize(project)
    assert (counted["pictures"], counted["kept"], counted["rejected"], counted["undecided"]) == (4, 1, 2, 1)
    assert counted["coverage"] == 0.75
    assert [record.data for record in counted["rejected_by_reason"].records] == [{"reason": "too dark", "pictures": 2}]
    assert [record.data for record in counted["by_batch"].records] == [
        {"batch": FIRST, "pictures": 4, "kept": 1, "rejected": 2}
    ]
    assert before != after
    assert materialize(project)[1] == after
    assert project.billed() == 4


def test_the_command_shows_no_password_and_can_be_pasted() -> None:
    class Folder:
        def __init__(self, text: str) -> None:
            self.text = text

        def __str__(self) -> str:
            return self.text

    assert review_command(Folder("ftp://me:secret@host/a b")) == "kontext review --data-dir 'ftp://host/a b'"  # type: ignore[arg-type]
    assert review_command(Folder("/data/me@home")) == "kontext review --data-dir /data/me@home"  # type: ignore[arg-type]
