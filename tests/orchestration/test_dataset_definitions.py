"""Several datasets live in one project, each with its own names, settings and partitions."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    BackfillPolicy,
    DagsterInvalidDefinitionError,
    Definitions,
    IdentityPartitionMapping,
    RepositoryDefinition,
    RunConfig,
    in_process_executor,
    multiprocess_executor,
)
from dagster._core.definitions.reconstruct import repository_def_from_target_def
from dagster._grpc.utils import get_loadable_targets

from kontext_pipeline import DatasetNames, kontext_definitions
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.orchestration.reporting import Reporter
from kontext_pipeline.orchestration.resources import SegmindResource
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import REPOSITORY, Project, materialized

KEY = "SG_0123456789abcdef"
LEDGER = "postgresql://user:hush-hush@db/ledger"


def manifest(folder: Path, name: str, prompts: list[str]) -> Path:
    path = folder / f"{name}.csv"
    path.write_text("\n".join(["prompt", *prompts, ""]))
    return path


def run(
    project: Project, definitions: Definitions, job: str, *, config: Any = None, partition: str | None = None
) -> Any:
    return definitions.resolve_job_def(job).execute_in_process(
        instance=project.instance, run_config=config or RunConfig(), partition_key=partition
    )


def test_names_of_several_datasets_never_collide() -> None:
    merged = Definitions.merge(
        kontext_definitions(),
        kontext_definitions("birds"),
        kontext_definitions("birds_2"),
        kontext_definitions("batch"),
    )
    repository = merged.get_repository_def()
    assert {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys() if len(key.path) == 1} >= {
        *("plan", "inputs", "images", "metadata")
    }
    for name, prefix, suffix in (("birds", "birds/", "_birds"), ("birds_2", "birds_2/", "_birds_2"), (None, "", "")):
        names = DatasetNames(name)
        assert merged.resolve_assets_def(names.asset_key("images")).partitions_def == names.batches
        assert names.batches.name == f"batch{suffix}"
        assert names.asset_key("images").to_user_string() == f"{prefix}images"
        keys = merged.resolve_job_def(f"augment{suffix}").asset_layer.executable_asset_keys
        assert keys == {names.asset_key("images"), names.asset_key("metadata")}
        assert repository.get_sensor_def(f"manifests_changed{suffix}").job_name == f"plan_manifests{suffix}"
        assert repository.get_schedule_def(f"unfinished_batches{suffix}").job_name == f"augment{suffix}"


@pytest.mark.parametrize("executor", [in_process_executor, multiprocess_executor])
def test_a_project_keeps_its_executor(executor: Any) -> None:
    merged = Definitions.merge(kontext_definitions("birds"), Definitions(executor=executor))
    assert merged.get_repository_def().get_job("augment_birds").executor_def is executor


def test_batches_a_run_are_a_parameter_and_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def policy(**given: Any) -> BackfillPolicy | None:
        return kontext_definitions(**given).resolve_assets_def("images").backfill_policy

    assert policy() == BackfillPolicy.single_run()
    monkeypatch.setenv("KONTEXT_BATCHES_A_RUN", "7")
    assert policy() == BackfillPolicy.multi_run(7)
    assert policy(batches_a_run=3) == BackfillPolicy.multi_run(3)
    with pytest.raises(SettingsError, match="batches_a_run is 0"):
        policy(batches_a_run=0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "Big Birds"}, "'Big Birds' can't be the name of a dataset"),
        ({"name": "birds/2"}, "such as birds_2026"),
        ({"name": "birds\n"}, "can't be the name"),
        ({"name": "b" * 41}, "at most 40"),
        ({"batchsize": 3}, "dataset without a name: there is no setting 'batchsize'. Did you mean batch_size?"),
        ({"name": "birds", "batch_size": 0}, "dataset birds: batch_size is 0: .*greater than or equal to 1"),
        ({"backend": "gpu"}, "backend is 'gpu': .*'segmind' or 'sandbox'"),
        ({"columns": ["prompt"]}, "is not NAME=THEIRS"),
    ],
)
def test_wrong_names_and_values_are_said_where_they_are_given(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        kontext_definitions(**given)


def test_a_wrong_key_is_not_shown() -> None:
    with pytest.raises(SettingsError) as refused:
        kontext_definitions("birds", api_key="SG_with a space")
    assert "api_key: " in str(refused.value)
    assert "with a space" not in str(refused.value)


def test_what_is_given_goes_before_the_environment_and_behind_run_config(project: Project) -> None:
    manifest(project.folder, "birds", ["a robin", "a wren", "a swift"])
    given: dict[str, Any] = {
        "manifests": [project.folder / "birds.csv"],
        "data_dir": project.folder / "birds",
        "batch_size": 2,
    }
    definitions = Definitions.merge(kontext_definitions("birds", **given), kontext_definitions())
    run(project, definitions, "plan_manifests_birds")
    assert project.instance.get_dynamic_partitions("batch_birds") == ["birds-00000", "birds-00001"]
    assert project.instance.get_dynamic_partitions("batch") == []

    run(project, definitions, "plan_manifests")
    assert project.instance.get_dynamic_partitions("batch") == ["photos-00000", "photos-00001", "photos-00002"]

    config = {"resources": {"kontext_birds": {"config": {"data_dir": str(project.folder / "all"), "batch_size": 3}}}}
    planned = materialized(run(project, definitions, "plan_manifests_birds", config=config), "birds/plan")
    assert planned[None]["batches"] == 1
    assert (project.folder / "all" / "plan" / "birds.parquet").is_file()

    given |= {"backend": "segmind", "rpm": 7}
    definitions = kontext_definitions("birds", **given)
    config = {"resources": {"segmind_birds": {"config": {"backend": "sandbox"}}}}
    planned = materialized(run(project, definitions, "plan_manifests_birds", config=config), "birds/plan")
    assert planned[None]["backend"] == "sandbox"


def test_secrets_reach_a_run_and_no_page() -> None:
    definitions = kontext_definitions("birds", ledger_url=LEDGER, api_key=KEY, alert_url="http://127.0.0.1/hush-hush")
    resource = (definitions.resources or {})["kontext_birds"]
    settings = resource.resource_cls(segmind=SegmindResource()).settings()
    assert settings.ledger_url == LEDGER.replace("postgresql:", "postgresql+psycopg2:")
    assert settings.key == KEY
    fields = resource.get_resource_definition().config_schema.config_type.fields
    assert not {"ledger_url", "api_key", "alert_url"} & set(fields)
    for name, one in (definitions.resources or {}).items():
        shown = f"{getattr(one, 'data', '')} {one.get_resource_definition().config_schema.as_field().default_provided}"
        assert "hush-hush" not in shown, name
        assert KEY not in shown, name


def test_datasets_that_share_a_data_directory_have_batches_of_their_own_and_pay_once(project: Project) -> None:
    shared = project.folder / "shared"
    datasets = [
        kontext_definitions(
            name,
            manifests=[manifest(project.folder, name, ["a boat", prompt])],
            data_dir=shared,
            seed=1,
            backend="segmind",
        )
        for name, prompt in (("birds", "a wren"), ("cats", "a lynx"))
    ]
    # Equal rows of two manifests have equal seeds only where the rows say so.
    for name in ("birds", "cats"):
        path = project.folder / f"{name}.csv"
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([f"{header},seed", *(f"{row},5" for row in rows), ""]))
    merged = Definitions.merge(*datasets)
    for _ in range(2):
        for name in ("birds", "cats"):
            run(project, merged, f"plan_manifests_{name}")
    for name in ("birds", "cats"):
        assert project.instance.get_dynamic_partitions(f"batch_{name}") == [f"{name}-00000"]
        run(project, merged, f"augment_{name}", partition=f"{name}-00000")
    assert project.billed() == 3
    written = {path.parent.name for path in shared.glob("metadata/*/*.parquet")}
    assert written == {"batch=birds-00000", "batch=cats-00000"}


def test_a_missing_manifest_is_said_by_the_run(project: Project) -> None:
    definitions = kontext_definitions("birds", manifests=["nowhere.csv"], data_dir=project.folder / "birds")
    result = definitions.resolve_job_def("plan_manifests_birds").execute_in_process(
        instance=project.instance, raise_on_error=False
    )
    [failed] = [event for event in result.all_events if event.is_step_failure]
    said = failed.step_failure_data.user_failure_data
    assert said is not None
    assert "nowhere.csv" in str(said.description)


def test_the_documents_examples_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "own-project.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    given: dict[str, Any] = {
        "manifests": [manifest(project.folder, "birds", ["a robin", "a wren"])],
        "data_dir": project.folder / "birds",
    }
    own = [names["brightness"], names["labels"]]
    merged = Definitions.merge(kontext_definitions("birds", **given), Definitions(assets=own))
    run(project, merged, "plan_manifests_birds")
    run(project, merged, "augment_birds", partition="birds-00000")
    mapping = merged.resolve_asset_graph().get_partition_mapping(own[0].key, AssetKey(["birds", "images"]))
    assert isinstance(mapping, IdentityPartitionMapping)
    job = merged.resolve_implicit_global_asset_job_def().get_subset(asset_selection={one.key for one in own})
    assert job.execute_in_process(instance=project.instance, partition_key="birds-00000").success
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 2
    assert all(0 <= int(brightness) <= 255 for _, brightness in shown)


OWN = """
from dagster import Definitions, asset
from kontext_pipeline.definitions import defs
{extra}

@asset
def labels() -> None: ...
"""


def loaded(path: Path, *, as_module: bool = False) -> RepositoryDefinition:
    """Load a file as a code server does."""
    [target] = get_loadable_targets(
        python_file=None if as_module else path.name,
        module_name=path.stem if as_module else None,
        package_name=None,
        working_directory=str(path.parent),
        attribute=None,
        autoload_defs_module_name=None,
        resolve_lazy_defs=True,
    )
    repository = repository_def_from_target_def(target.target_definition)
    assert repository is not None
    return repository


@pytest.mark.parametrize("extra", ["", "mine = Definitions(resources={})"])
@pytest.mark.parametrize("as_module", [False, True])
def test_definitions_that_would_be_dropped_are_named(
    tmp_path: Path, extra: str, as_module: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / f"own_definitions_{len(extra)}{as_module}.py"
    path.write_text(OWN.format(extra=extra))
    try:
        with pytest.raises(DagsterInvalidDefinitionError, match=r"has definitions of its own: labels.*merge"):
            loaded(path, as_module=as_module)
    finally:
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    "module",
    [
        "from kontext_pipeline.definitions import defs",
        OWN.format(extra="from kontext_pipeline import kontext_definitions").replace(
            "from kontext_pipeline.definitions import defs\n", ""
        )
        + "defs = Definitions.merge(kontext_definitions(), Definitions(assets=[labels]))",
        OWN.format(extra="") + "defs = Definitions.merge(defs(), Definitions(assets=[labels]))",
    ],
)
def test_a_module_that_hands_the_definitions_on_loads(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"handed_on_{len(module)}.py"
    path.write_text(module)
    try:
        repository = loaded(path)
    finally:
        sys.modules.pop(path.stem, None)
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert keys >= {"plan", "images"}
    assert ("labels" in keys) == ("labels" in module)


def test_a_second_dataset_without_a_name_is_not_mixed_in(
    project_on_disk: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on_disk
    home = str(project.folder / "dagster-home")
    project.plan()
    warnings: list[str] = []
    other = load_settings(
        manifests=[str(manifest(project.folder, "birds", ["a wren"]))], data_dir=str(project.folder / "other")
    )
    with Pipeline(other) as pipeline:
        planned = pipeline.plan()
        batches, dataset_id = planned.batch_keys, pipeline.dataset_id
        with Reporter(home, batches, dataset_id=dataset_id, warn=warnings.append):
            pass
        assert len(warnings) == 1
        assert "not reported to Dagster" in warnings[0]
        assert "those of another dataset, such as photos-00000. Name this dataset with KONTEXT_DATASET" in warnings[0]
        assert len(project.instance.get_dynamic_partitions("batch")) == 3

        monkeypatch.setenv("KONTEXT_DATASET", "birds")
        with Reporter(home, batches, dataset_id=dataset_id, warn=warnings.append):
            pass
    assert len(warnings) == 1
    assert project.instance.get_dynamic_partitions("batch_birds") == ["birds-00000"]


def test_a_plan_says_that_it_shares_its_partitions(project: Project) -> None:
    project.plan()
    other = {
        "data_dir": str(project.folder / "other"),
        "manifests": [str(manifest(project.folder, "birds", ["a wren"]))],
    }
    result = project.run("plan_manifests", config={"resources": {"kontext": {"config": other}}})
    assert "3 partitions of batch are those of another dataset" in materialized(result, "plan")[None]["warnings"]
    assert project.instance.get_dynamic_partitions("batch")[-1] == "birds-00000"
