"""The component `KontextDataset`: its schema, its paths, what it refuses. `test_own_project` runs one in a project."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import Definitions, load_from_defs_folder
from dagster.components import ScaffoldRequest, build_defs_for_component

from kontext_pipeline import KontextDataset
from kontext_pipeline.orchestration.component import KontextDatasetScaffolder, name_from
from kontext_pipeline.settings import Settings

PROJECT = '[tool.dg]\ndirectory_type = "project"\n\n[tool.dg.project]\nroot_module = "{module}"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The folder of definitions of a new project, whose module has a name of its own."""
    module = f"studio_{abs(hash(request.node.nodeid))}"
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(module=module))
    defs = tmp_path / "src" / module / "defs"
    defs.mkdir(parents=True)
    for package in (defs, defs.parent):
        (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    return defs


def scaffold(target: Path, **more: Any) -> None:
    if not more.get("append"):
        target.mkdir()
    request: ScaffoldRequest[Any] = ScaffoldRequest(
        type_name="kontext_pipeline.KontextDataset",
        target_path=target,
        scaffold_format=more.get("format", "yaml"),
        project_root=None,
        params=None,
        append=more.get("append", False),
    )
    KontextDatasetScaffolder().scaffold(request)


def resource(definitions: Definitions, key: str) -> Any:
    return (definitions.resources or {})[key]


def settings(definitions: Definitions, key: str) -> dict[str, Any]:
    """Return what is given to a dataset's resource `kontext`, and to the resource `segmind` in it."""
    given = dict(resource(definitions, key).data)
    return given | dict(given.pop("segmind").data)


def test_every_attribute_has_a_description_and_every_setting_is_one() -> None:
    properties = KontextDataset.model().model_json_schema()["properties"]
    assert [name for name, field in properties.items() if not field.get("description")] == []
    secrets = {"api_key", "alert_url", "alert_template"}
    assert set(properties) == set(Settings.model_fields) - secrets - {"dataset"} | {"name"}


@pytest.mark.parametrize("format_", ["yaml", "python"])
def test_what_is_scaffolded_loads_and_has_its_paths_in_the_project(folder: Path, format_: str) -> None:
    scaffold(folder / "birds", format=format_)
    scaffold(folder / "Cats & Dogs", format=format_)
    loaded = load_from_defs_folder(path_within_project=folder)
    for name, place in (("birds", folder / "birds"), ("cats_dogs", folder / "Cats & Dogs")):
        given = settings(loaded, f"kontext_{name}")
        [manifest] = given["manifests"]
        assert Path(manifest) == place / f"{name}.csv"
        assert Path(manifest).read_text().startswith("id,prompt,label\n")
        assert Path(given["data_dir"]) == folder.parents[2] / "data" / name
        assert (given["backend"], given["budget_usd"]) == ("sandbox", 5.0)


def test_a_second_dataset_is_appended(folder: Path) -> None:
    scaffold(folder / "birds")
    scaffold(folder / "birds" / "defs.yaml", append=True)
    text = (folder / "birds" / "defs.yaml").read_text()
    assert text.count("\n---\n") == 1
    before, after = text.split("---\n")
    assert before == after


def test_paths_begin_at_the_folder_and_urls_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDS_LEDGER", "postgresql://user:hush-hush@db/ledger")
    place = folder / "birds"
    place.mkdir()
    (place / "defs.yaml").write_text(
        "type: kontext_pipeline.KontextDataset\n"
        "attributes:\n"
        "  manifests: [lists/*.csv, s3://bucket/more.parquet, /srv/all.csv]\n"
        "  data_dir: s3://bucket/birds\n"
        "  input_roots: [../pictures]\n"
        "  ledger_url: '{{ env.BIRDS_LEDGER }}'\n"
        "  columns: ['prompt=Prompt']\n"
        "  keep_inputs: true\n"
        "  aspect_ratio: '3:2'\n"
        "  batches_a_run: 4\n"
    )
    loaded = load_from_defs_folder(path_within_project=folder)
    given = settings(loaded, "kontext")
    assert given["manifests"] == [str(place / "lists/*.csv"), "s3://bucket/more.parquet", "/srv/all.csv"]
    assert given["data_dir"] == "s3://bucket/birds"
    assert given["input_roots"] == [str(place / "../pictures")]
    assert (given["columns"], given["keep_inputs"], given["aspect_ratio"]) == (["prompt=Prompt"], True, "3:2")
    assert "hush-hush" not in str(given)
    assert "hush-hush" in resource(loaded, "kontext").resource_cls.without_field["ledger_url"]
    policy = loaded.resolve_assets_def("images").backfill_policy
    assert policy is not None
    assert policy.max_partitions_per_run == 4


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ("  name: Birds\n  manifests: [b.csv]\n  data_dir: d\n", "attributes.name .*defs.yaml:3"),
        ("  manifests: [b.csv]\n", "data_dir"),
        ("  manifests: [b.csv]\n  data_dir: d\n  batchsize: 3\n", "attributes.batchsize .*defs.yaml:5"),
        ("  manifests: [b.csv]\n  data_dir: d\n  batch_size: 0\n", "dataset without a name: batch_size is 0"),
        ("  manifests: [b.csv]\n  data_dir: d\n  backend: gpu\n", "backend"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder: Path, attributes: str, says: str) -> None:
    (folder / "birds").mkdir()
    (folder / "birds" / "defs.yaml").write_text(f"type: kontext_pipeline.KontextDataset\nattributes:\n{attributes}")
    with pytest.raises(Exception) as refused:  # noqa: PT011 (what Dagster wraps a problem in is its own affair)
        load_from_defs_folder(path_within_project=folder)
    chain, error = "", refused.value
    while error is not None:
        chain, error = f"{chain}\n{error}", error.__cause__ or error.__context__  # type: ignore[assignment]
    import re

    assert re.search(says, chain), chain


def test_two_datasets_of_one_name_are_named(folder: Path) -> None:
    for name in ("birds", "more"):
        scaffold(folder / name)
    path = folder / "more" / "defs.yaml"
    path.write_text(path.read_text().replace("name: more", "name: birds"))
    with pytest.raises(Exception) as refused:  # noqa: PT011 (as above)
        load_from_defs_folder(path_within_project=folder)
    said = str(refused.value.__cause__)
    assert "two datasets of this project are named birds: those in " in said
    assert str(folder / "birds") in said
    assert str(folder / "more") in said


def test_it_is_built_without_a_project(tmp_path: Path) -> None:
    component = KontextDataset(
        name="birds", manifests=[str(tmp_path / "b.csv")], data_dir=str(tmp_path / "data"), seed=7
    )
    built = build_defs_for_component(component)
    assert settings(built, "kontext_birds")["seed"] == 7


@pytest.mark.parametrize(
    ("folder_name", "name"),
    [
        ("birds", "birds"),
        ("My-Birds.2", "my_birds_2"),
        ("2026", "dataset_2026"),
        ("_", "dataset"),
        ("vögel", "v_gel"),
        ("b" * 60, "b" * 40),
        ("9" * 60, "dataset_" + "9" * 32),
    ],
)
def test_a_folder_gives_a_name(folder_name: str, name: str) -> None:
    assert name_from(folder_name) == name


def test_the_package_itself_loads_no_dagster() -> None:
    code = (
        "import sys, kontext_pipeline; print('dagster' in sys.modules, 'KontextDataset' in dir(kontext_pipeline)); "
        "kontext_pipeline.KontextDataset; print('dagster' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]
