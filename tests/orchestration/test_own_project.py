"""A stranger's project: the package from its wheel, three datasets, an asset of the project's, `dg` and the daemon."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance

from tests.orchestration.conftest import REPOSITORY, wait_until
from tests.orchestration.stranger import Stranger, build_wheel
from tests.sandbox.running import Sandbox, running_sandbox

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

BIRDS, CATS, FISH = 5, 3, 2
"""Rows of the manifests."""
CATS_YAML = """\
type: kontext_pipeline.KontextDataset
attributes:
  name: cats
  manifests: ["{{ context.project_root }}/lists/cats.csv"]
  data_dir: "{{ context.project_root }}/data/cats"
  ledger_url: "{{ env.CATS_LEDGER }}"
  backend: sandbox
  batch_size: 2
"""
FISH_PYTHON = """\
from pathlib import Path

from dagster import Definitions, definitions
from kontext_pipeline import kontext_definitions

ROOT = Path(__file__).parents[3]


@definitions
def fish() -> Definitions:
    return kontext_definitions(
        "fish", manifests=[ROOT / "lists" / "fish.csv"], data_dir=ROOT / "data" / "fish", backend="sandbox", batches_a_run=1
    )
"""
BRIGHTNESS_PYTHON = """\
from typing import Any

import pyarrow.parquet as pq
from dagster import AssetDep, AssetExecutionContext, AssetIn, AssetKey, IdentityPartitionMapping, MaterializeResult, asset
from kontext_pipeline import DatasetNames
from PIL import Image
from upath import UPath

birds = DatasetNames("birds")


@asset(
    partitions_def=birds.batches,
    deps=[
        AssetDep(birds.asset_key("images"), partition_mapping=IdentityPartitionMapping()),
        AssetDep(birds.asset_key("metadata"), partition_mapping=IdentityPartitionMapping()),
    ],
    required_resource_keys={birds.kontext},
)
def brightness(context: AssetExecutionContext) -> MaterializeResult:
    data_dir = UPath(getattr(context.resources, birds.kontext).settings().data_dir)
    [path] = data_dir.glob(f"metadata/batch={context.partition_key}/*.parquet")
    with path.open("rb") as file:
        rows = pq.read_table(file).to_pylist()
    sizes = set()
    for row in rows:
        with (data_dir / row["image_path"]).open("rb") as file, Image.open(file) as picture:
            picture.load()
            sizes.add(picture.size)
    return MaterializeResult(metadata={"pictures": len(rows), "sizes": len(sizes)})


@asset(
    ins={
        "tables": AssetIn(
            birds.asset_key("metadata"),
            input_manager_key=birds.metadata_io_manager,
            metadata={"allow_missing_partitions": True},
        )
    }
)
def labels(tables: dict[str, Any]) -> MaterializeResult:
    return MaterializeResult(metadata={"rows": sum(table.num_rows for table in tables.values())})
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def stranger(wheel: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """The project after `dg scaffold defs`, with two more datasets and an asset of its own."""
    stranger = Stranger(tmp_path_factory.mktemp("stranger"))
    ledger = stranger.folder / "cats-ledger.db"
    stranger.set_up(wheel, SEGMIND_BASE_URL=sandbox.url, CATS_LEDGER=f"sqlite:///{ledger}")
    stranger.run("dg", "scaffold", "defs", "kontext_pipeline.KontextDataset", "birds")
    write(stranger.defs / "birds" / "birds.csv", "robin", BIRDS)
    scaffolded = stranger.defs / "birds" / "defs.yaml"
    scaffolded.write_text(f"{scaffolded.read_text()}\n  batch_size: 2\n")
    (stranger.project / "lists").mkdir()
    write(stranger.project / "lists" / "cats.csv", "lynx", CATS)
    write(stranger.project / "lists" / "fish.csv", "trout", FISH)
    (stranger.defs / "cats").mkdir()
    (stranger.defs / "cats" / "defs.yaml").write_text(CATS_YAML)
    (stranger.defs / "fish.py").write_text(FISH_PYTHON)
    (stranger.defs / "brightness.py").write_text(BRIGHTNESS_PYTHON)
    return stranger


def write(path: Path, prompt: str, rows: int) -> None:
    path.write_text("\n".join(["prompt", *(f"a {prompt} with number {index}" for index in range(rows)), ""]))


def metadata(instance: DagsterInstance, key: AssetKey) -> dict[str, object]:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def billed(sandbox: Sandbox) -> int:
    return int(sandbox.books()["totals"]["billed"])


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    package = REPOSITORY / "kontext_pipeline"
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if not name.startswith("kontext_pipeline-")} == files
    assert {Path(name).suffix for name in files} >= {".py", ".toml", ".html", ".typed"}


def test_dg_lists_and_checks_it_and_loading_costs_nothing(stranger: Stranger, sandbox: Sandbox) -> None:
    where = stranger.run("python", "-c", "import kontext_pipeline; print(kontext_pipeline.__file__)")
    assert str(stranger.programs.parent) in where
    assert "kontext_pipeline.KontextDataset" in stranger.run("dg", "list", "components", "--json")
    stranger.run("dg", "check", "yaml")
    stranger.run("dg", "check", "defs")
    listed = json.loads(stranger.run("dg", "list", "defs", "--json"))
    keys = {one["key" if "key" in one else "asset_key"] for one in listed["assets"]}
    each = {f"{name}/{one}" for name in ("birds", "cats", "fish") for one in ("plan", "inputs", "images", "metadata")}
    assert keys >= each | {"brightness", "labels"}
    jobs = {one["name"] for one in listed["jobs"]}
    assert jobs >= {f"{job}_{name}" for name in ("birds", "cats", "fish") for job in ("augment", "plan_manifests")}
    sensors = {one["name"] for one in listed["sensors"]}
    assert sensors >= {"manifests_changed_birds", "manifests_changed_cats", "new_batches_fish"}
    assert sandbox.books()["totals"]["posts"] == 0
    # Looking at a project makes no data directory and no ledger.
    assert not (stranger.project / "data").exists()
    assert not (stranger.folder / "cats-ledger.db").exists()


def test_dg_launches_datasets_and_the_projects_own_assets(stranger: Stranger, sandbox: Sandbox) -> None:
    before = billed(sandbox)
    stranger.run("dg", "launch", "--assets", "birds/plan,fish/plan")
    with DagsterInstance.from_config(str(stranger.home)) as instance:
        assert instance.get_dynamic_partitions("batch_birds") == ["birds-00000", "birds-00001", "birds-00002"]
        assert instance.get_dynamic_partitions("batch_fish") == ["fish-00000"]
        assert billed(sandbox) == before

        stranger.run("dg", "launch", "--job", "augment_fish", "--partition", "fish-00000")
        assert billed(sandbox) == before + FISH
        stranger.run("dg", "launch", "--assets", "birds/images,birds/metadata,brightness", "--partition", "birds-00000")
        assert metadata(instance, AssetKey("brightness")) == {"pictures": 2, "sizes": 1}
        stranger.run("dg", "launch", "--assets", "labels")
        assert metadata(instance, AssetKey("labels"))["rows"] == 2

        every = ("--partition-range", "birds-00000...birds-00002")
        stranger.run("dg", "launch", "--assets", "birds/images,birds/metadata", *every)
        assert billed(sandbox) == before + FISH + BIRDS
        assert instance.get_materialized_partitions(AssetKey(["birds", "images"])) == {
            *("birds-00000", "birds-00001", "birds-00002")
        }
    folders = {path.name for path in (stranger.project / "data").iterdir()}
    assert folders >= {"birds", "fish"}
    assert len(list((stranger.project / "data" / "birds" / "images").rglob("*.png"))) == BIRDS


def test_the_daemon_plans_and_generates_a_dataset(stranger: Stranger, sandbox: Sandbox) -> None:
    before = billed(sandbox)
    images, tables = AssetKey(["cats", "images"]), AssetKey(["cats", "metadata"])
    with DagsterInstance.from_config(str(stranger.home)) as instance, stranger.daemon() as log:

        def evaluated(sensor: str) -> bool:
            [state] = [one for one in instance.all_instigator_state() if one.instigator_name == sensor]
            return bool(instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1))

        # The sensor generates batches that are new to it, so it looks before there are any.
        stranger.run("dagster", "sensor", "start", "new_batches_cats", "-m", "studio.definitions")
        try:
            wait_until(lambda: evaluated("new_batches_cats"), 180)
            stranger.run("dagster", "sensor", "start", "manifests_changed_cats", "-m", "studio.definitions")
            both = {"cats-00000", "cats-00001"}
            wait_until(lambda: both <= instance.get_materialized_partitions(tables), 300)
        except AssertionError:
            print(log.read_text(errors="replace")[-6000:])
            raise
        assert instance.get_dynamic_partitions("batch_cats") == sorted(both)
        assert instance.get_materialized_partitions(images) == both
        wait_until(lambda: all(run.is_finished for run in instance.get_runs()), 120)
    assert billed(sandbox) == before + CATS
    assert (stranger.folder / "cats-ledger.db").is_file()
    assert not (stranger.project / "data" / "cats" / "ledger.db").exists()


def test_a_missing_manifest_is_said_by_the_run_and_the_project_loads(stranger: Stranger) -> None:
    manifest = stranger.project / "lists" / "fish.csv"
    kept = manifest.read_bytes()
    manifest.unlink()
    try:
        said = stranger.run("dg", "launch", "--job", "plan_manifests_fish", check=False)
        assert "fish.csv" in said
        assert "RUN_FAILURE" in said
    finally:
        manifest.write_bytes(kept)


def test_the_same_name_twice_is_said(stranger: Stranger) -> None:
    twin = stranger.defs / "twin"
    twin.mkdir()
    try:
        (twin / "defs.yaml").write_text((stranger.defs / "birds" / "defs.yaml").read_text())
        said = stranger.run("dg", "check", "defs", check=False)
        assert "two datasets of this project are named birds" in said
    finally:
        (twin / "defs.yaml").unlink()
        twin.rmdir()
