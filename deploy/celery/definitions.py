"""The code location whose steps Celery workers run. Needs `pip install dagster-celery`, and this folder on each machine.

Each worker of Celery runs a step with `KONTEXT_CONCURRENCY` generations in flight. The ledger must be in PostgreSQL where
the workers are on several machines.
"""

from pathlib import Path

from dagster import Definitions, config_from_files, definitions
from dagster_celery import celery_executor

from kontext_pipeline.definition_settings import dataset_name
from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions

CONFIG = config_from_files([str(Path(__file__).with_name("celery.yaml"))])["execution"]["config"]


@definitions
def defs() -> Definitions:
    """Return the definitions of the dataset that `KONTEXT_DATASET` names, run by Celery."""
    return kontext_definitions(dataset_name(), executor=celery_executor.configured(CONFIG))
