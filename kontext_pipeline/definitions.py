"""The code location that `dagster dev`, `dagster definitions validate` and `dg` load."""

import warnings

from dagster import BetaWarning, Definitions, definitions, in_process_executor


@definitions
def defs() -> Definitions:
    """Return the definitions of the dataset that `KONTEXT_DATASET` names, or of the one without a name."""
    with warnings.catch_warnings():
        # Dagster warns at every load that backfill policies are beta. Its version is pinned, and the tests use them.
        warnings.simplefilter("ignore", BetaWarning)
        from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions
        from kontext_pipeline.settings import dataset_name

        # A process for each step would take longer than most steps that have nothing to do, and steps run in turn.
        return kontext_definitions(dataset_name(), executor=in_process_executor)
