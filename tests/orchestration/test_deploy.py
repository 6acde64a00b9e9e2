"""The shipped instance configuration is one that this Dagster takes, and says what it is meant to."""

import shutil
from pathlib import Path

from dagster import DagsterInstance

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_shipped_instance_configuration_is_taken(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 86400
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 30
        assert instance.run_monitoring_poll_interval_seconds == 15
        assert instance.run_retries_max_retries == 3
        assert not instance.run_retries_retry_on_asset_or_op_failure
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 2
