"""What the room's tests share: a sandbox, a manifest, the environment of a user, a Dagster instance."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult, JobDefinition, RunConfig

from kontext_pipeline.dataset.storage import read_batch
from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.reporting import report_batches
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.settings import load_settings
from tests.sandbox.running import Sandbox, running_sandbox

REPOSITORY = Path(__file__).parents[2]
KEY = "SG_feedfacecafebeef"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


@cache
def job_def(name: str) -> JobDefinition:
    """Resolve a job once for all tests: it takes a good part of a second."""
    return defs().resolve_job_def(name)


@dataclass
class Project:
    """A user's folder, environment and Dagster instance, with a sandbox instead of the paid API."""

    sandbox: Sandbox
    folder: Path
    instance: DagsterInstance

    @property
    def data_dir(self) -> Path:
        return self.folder / "output"

    @property
    def manifest(self) -> Path:
        return self.folder / "photos.csv"

    def write_manifest(self, prompts: Sequence[str]) -> None:
        lines = [f"{prompt},label-{index}" for index, prompt in enumerate(prompts)]
        self.manifest.write_text("\n".join(["prompt,label", *lines, ""]))

    def plan(self) -> ExecuteInProcessResult:
        return self.run("plan_manifests")

    def augment(
        self, first: str, last: str | None = None, *, config: Any = None, check: bool = True
    ) -> ExecuteInProcessResult:
        """Run the job `augment` over one batch, or over all from `first` to `last`."""
        tags = {} if last is None else {RANGE_START: first, RANGE_END: last}
        return self.run("augment", partition_key=first if last is None else None, tags=tags, config=config, check=check)

    def generate(self, keys: Sequence[str]) -> None:
        """Plan and generate these batches as `kontext run` does, without a run of Dagster, which takes longer."""
        with Pipeline(load_settings()) as pipeline:
            planned = pipeline.plan()
            with pipeline.client() as client:
                pipeline.run(planned, keys, client=client)
            report_batches(pipeline, keys, instance=self.instance)

    def metadata_alone(self, key: str) -> ExecuteInProcessResult:
        """Make the table of one batch again, as from the page of the asset `metadata`."""
        return self.run_assets("metadata", partition_key=key)

    def run_assets(self, *assets: str, partition_key: str | None = None) -> ExecuteInProcessResult:
        """Materialize these assets."""
        job = defs().resolve_implicit_global_asset_job_def()
        subset = job.get_subset(asset_selection={AssetKey(asset) for asset in assets})
        return subset.execute_in_process(instance=self.instance, partition_key=partition_key, raise_on_error=False)

    def run(
        self,
        job: str,
        *,
        partition_key: str | None = None,
        tags: Mapping[str, str] | None = None,
        config: Any = None,
        check: bool = True,
    ) -> ExecuteInProcessResult:
        result = job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=partition_key,
            tags=tags,
            run_config=config if config is not None else RunConfig(),
            raise_on_error=False,
        )
        if check:
            assert result.success, [
                event.step_failure_data.error_display_string for event in result.all_events if event.is_step_failure
            ]
        return result

    def table(self, key: str) -> pa.Table:
        return read_batch(self.data_dir, key)

    def posts(self) -> int:
        return int(self.sandbox.books()["totals"]["posts"])

    def billed(self) -> int:
        return int(self.sandbox.books()["totals"]["billed"])

    def cost(self) -> float:
        return float(self.sandbox.books()["totals"]["cost"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Project]:
    """A user with a manifest of ten rows in batches of four, set to the paid backend at the sandbox's address.

    `@pytest.mark.parametrize("project", [{...}], indirect=True)` passes the sandbox's fields.
    """
    with running_sandbox(**getattr(request, "param", {})) as sandbox, DagsterInstance.ephemeral() as instance:
        project = Project(sandbox, tmp_path, instance)
        project.write_manifest([f"a lighthouse with number {index}" for index in range(10)])
        environment = {
            "SEGMIND_API_KEY": KEY,
            "SEGMIND_BASE_URL": sandbox.url,
            "KONTEXT_MANIFESTS": str(project.manifest),
            "KONTEXT_DATA_DIR": str(project.data_dir),
            "KONTEXT_BATCH_SIZE": "4",
            "KONTEXT_BACKOFF_BASE_S": "0.01",
            "KONTEXT_BACKOFF_CAP_S": "0.05",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield project


@pytest.fixture
def project_on_disk(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The same with Dagster's instance on the disk, in `dagster-home`, where other processes find it."""
    home = tmp_path / "dagster-home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with DagsterInstance.get() as project.instance:
        yield project


def failure_of(result: ExecuteInProcessResult) -> Any:
    """Return what the failed step said: a `UserFailureData`."""
    failed = [event for event in result.all_events if event.is_step_failure]
    assert len(failed) == 1
    return failed[0].step_failure_data.user_failure_data


def materialized(result: ExecuteInProcessResult, asset: str) -> dict[str | None, dict[str, Any]]:
    """Return the values of the metadata of an asset's materializations in this run, by partition."""
    return {
        event.partition: {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None and event.asset_key.to_user_string() == asset
    }


def checks(result: ExecuteInProcessResult) -> dict[str, Any]:
    """Return what this run's checks say of all batches, by name."""
    return {one.check_name: one for one in result.get_asset_check_evaluations() if one.partition is None}


def materialize(first: str, last: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("dagster")),
        *("asset", "materialize", "-m", "kontext_pipeline.definitions", "--select", "images,metadata"),
        *("--partition-range", f"{first}...{last}"),
    ]


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
