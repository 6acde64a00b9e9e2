"""The code location that `dagster dev`, `dagster definitions validate` and `dg` load."""

import sys

from dagster import Definitions, definitions, in_process_executor


@definitions
def defs() -> Definitions:
    """Return the definitions of the dataset that `KONTEXT_DATASET` names, or of the one without a name.

    Raises:
        DagsterInvalidDefinitionError: Dagster loads them by way of a module whose own definitions it would drop.
    """
    from kontext_pipeline.definition_settings import dataset_name
    from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions
    from kontext_pipeline.orchestration.dropped_definitions import refuse_dropped_definitions

    refuse_dropped_definitions(defs, caller=sys._getframe(2))
    # A process for each step would take longer than most steps that have nothing to do, and steps run in turn.
    return kontext_definitions(dataset_name(), executor=in_process_executor)
