"""The component `KontextDataset`, which adds a dataset to a project of `dg` by a file `defs.yaml`, and its scaffolder."""

import re
from pathlib import Path
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

from dagster import Component, ComponentLoadContext, Definitions, Model, Resolvable, Resolver, Scaffolder, scaffold_with
from dagster.components import ScaffoldRequest
from dagster.components.component.component import ComponentTypeSpec
from pydantic import Field, create_model

from kontext_pipeline.definition_settings import DATASET_NAME
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions
from kontext_pipeline.orchestration.resources import SECRET
from kontext_pipeline.settings import Settings, environment_variable, plain_type

OF_ITS_OWN: Final = SECRET | {"dataset", "manifests", "data_dir", "batches_a_run"}
"""Settings that are not attributes as they are: the component describes them itself, or a file should not hold them."""
PATHS: Final = ("manifests", "data_dir", "input_roots")
"""Attributes with paths, which begin at the component's folder if they are relative."""
MANIFEST: Final = """\
id,prompt,label
lighthouse,a lighthouse at dusk in oil on canvas,lighthouse
boat,a red boat on a calm sea in watercolour,boat
harbour,a harbour in fog seen from above,harbour
"""
YAML: Final = """\
type: {type}

attributes:
  # Begins the keys of the assets ({name}/plan, {name}/images, ...) and ends the names of jobs, sensors and resources.
  name: {name}

  # CSV, TSV, JSON Lines or Parquet files, recipes (.toml) or globs of these. Relative paths begin at this folder.
  manifests: [{name}.csv]

  # Pictures, tables and the ledger: a path or a URL such as s3://bucket/{name}. A remote one needs a ledger_url.
  data_dir: "{{{{ context.project_root }}}}/data/{name}"

  # The free stand-in for the API on this machine; start it with: kontext sandbox
  # Remove the line for the paid API, whose key is in the environment variable SEGMIND_API_KEY.
  backend: sandbox

  # The most that all runs may spend, USD.
  budget_usd: 5

  # More: batch_size, concurrency, rpm, aspect_ratio, batches_a_run, ... Each setting that is left out comes from its
  # environment variable. "dg list components" and the project's Docs page in the UI describe all attributes.
"""
PYTHON: Final = """\
import dagster as dg
from kontext_pipeline import KontextDataset


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> KontextDataset:
    return KontextDataset(
        name="{name}",
        # Relative paths begin at this folder.
        manifests=["{name}.csv"],
        data_dir=str(context.project_root / "data" / "{name}"),
        # The free stand-in for the API on this machine; start it with: kontext sandbox
        backend="sandbox",
        # The most that all runs may spend, USD.
        budget_usd=5,
    )
"""


def _with_attributes() -> Any:
    """Return a base class with an optional attribute for each setting that all datasets may have."""
    fields: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name not in OF_ITS_OWN:
            description = f"{field.description} Without it: {environment_variable(name)}."
            fields[name] = (Annotated[plain_type(name) | None, Resolver.default(description=description)], None)
    return create_model("Attributes", __base__=Model, __module__=__name__, **fields)


_PLACES: Final = WeakKeyDictionary[Any, dict[str | None, Any]]()
"""Where each name of a dataset is, by project. A reload makes a new object for the project."""


def name_from(folder: str) -> str:
    """Return a name for the dataset in a folder: the folder's, in which `_` replaces what names can't have."""
    name = re.sub("[^a-z0-9_]+", "_", folder.lower())[:40]
    return name if re.fullmatch(DATASET_NAME, name) else f"dataset_{name}"[:40].rstrip("_")


def _placed(value: Any, folder: Path) -> Any:
    """Return a path, or each path of a list, with a relative one in `folder`. URLs stay."""
    if isinstance(value, list):
        return [_placed(one, folder) for one in value]
    is_elsewhere = value is None or "://" in value or value.startswith("~")
    return value if is_elsewhere else str(folder / value)


class KontextDatasetScaffolder(Scaffolder[Any]):
    """Writes a `defs.yaml` with comments and a small manifest that the sandbox can generate."""

    def scaffold(self, request: ScaffoldRequest[Any]) -> None:
        """Write the files of a new dataset, which has the name of its folder."""
        # An appended dataset is another document of a `defs.yaml` that exists.
        folder = request.target_path.parent if request.append else request.target_path
        name = name_from(folder.name)
        manifest = folder / f"{name}.csv"
        if not manifest.exists():
            manifest.write_text(MANIFEST, encoding="utf-8")
        text = YAML.format(type=request.type_name, name=name)
        if request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{text}")
        elif request.scaffold_format == "python":
            (folder / "component.py").write_text(PYTHON.format(name=name), encoding="utf-8")
        else:
            (folder / "defs.yaml").write_text(text, encoding="utf-8")


@scaffold_with(KontextDatasetScaffolder)
class KontextDataset(Component, Resolvable, _with_attributes()):  # type: ignore[misc]
    """A dataset of pictures that FLUX.1 Kontext [max] makes of a manifest: its plan, inputs, images and metadata tables.

    Relative paths begin at the folder of this file. A setting that is left out comes from its environment variable.
    """

    name: Annotated[
        str | None,
        Field(pattern=DATASET_NAME),
        # A resolver's description, because Dagster drops those of fields with defaults.
        Resolver.default(
            description="Name of the dataset: a-z, 0-9 and _. Its assets are `NAME/plan` and so on, its job is "
            "`augment_NAME`. Without it: the project's one dataset without a name, whose assets are `plan` and so on.",
        ),
    ] = None
    manifests: Annotated[
        list[str],
        Resolver.default(
            description="CSV, TSV, JSON Lines or Parquet files, recipes (.toml) or globs of these: paths or fsspec URLs.",
            examples=[["birds.csv"]],
        ),
    ]
    data_dir: Annotated[
        str,
        Resolver.default(
            description="Directory of the dataset: a path or an fsspec URL. Datasets that share one share its ledger, and "
            "equal pictures are paid for once; their manifests must have different names.",
            examples=["{{ context.project_root }}/data/birds"],
        ),
    ]
    ledger_url: Annotated[
        str | None,
        Resolver.default(
            description="SQLAlchemy URL of the ledger (sqlite or postgresql), best as `{{ env.NAME_OF_A_VARIABLE }}`: it "
            "may hold a password. Each data directory has a ledger of its own. Without it: KONTEXT_LEDGER_URL, or else "
            "ledger.db in the data directory.",
        ),
    ] = None
    batches_a_run: Annotated[
        int | None,
        Field(ge=1),
        Resolver.default(
            description="The most batches that one run of a backfill generates. Without it: one run generates all.",
        ),
    ] = None

    @classmethod
    def get_spec(cls) -> ComponentTypeSpec:
        """Return what `dg` and the UI list of this component."""
        return ComponentTypeSpec(
            description="A dataset of pictures that FLUX.1 Kontext [max] makes of a manifest of prompts and input pictures.",
            produces=["asset", "asset_check", "job", "schedule", "sensor", "resource"],
        )

    def build_defs(self, context: ComponentLoadContext) -> Definitions:
        """Return the definitions of the dataset.

        Raises:
            SettingsError: the name or a value is not allowed.
        """
        places = _PLACES.setdefault(context.component_tree.state_tracker, {})
        place = places.setdefault(self.name, context.component_path)
        if place != context.component_path:
            which = f"are named {self.name}" if self.name else "have no name"
            raise SettingsError(
                f"two datasets of this project {which}: those in {place.file_path} and {context.path}. Give one of them "
                "another `name`."
            )
        given = {name: getattr(self, name) for name in type(self).model_fields}
        # The path of a component in Python is that of its file.
        folder = context.path if context.path.is_dir() else context.path.parent
        for name in PATHS:
            given[name] = _placed(given[name], folder)
        return kontext_definitions(**given)
