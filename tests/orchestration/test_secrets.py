"""The key is nowhere in what Dagster keeps or shows: not in events, logs, run config, resources or files."""

import logging

import pytest

from kontext_pipeline.definitions import defs
from tests.orchestration.conftest import KEY, Project


def test_the_key_is_nowhere_in_what_a_run_leaves(
    project_on_disk: Project, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    project = project_on_disk
    project.plan()
    project.augment("photos-00000")
    # A server that repeats what it was sent, in an answer that fails a row and in one that stops the run.
    project.sandbox.set_faults({"kind": "status", "status": 400, "message": f"bad header x-api-key: {KEY}"})
    project.augment("photos-00001")
    project.sandbox.set_faults({"kind": "status", "status": 401, "message": f"no such key: {KEY}"})
    project.augment("photos-00002", check=False)
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert any(b"STEP_FAILURE" in path.read_bytes() for path in files if path.suffix == ".db")

    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    captured = capfd.readouterr()
    assert KEY not in captured.out + captured.err + caplog.text


def test_the_key_is_no_setting_of_a_resource(project: Project) -> None:
    resources = defs().resources
    assert resources is not None
    for name, resource in resources.items():
        fields = resource.get_resource_definition().config_schema.config_type.fields
        assert not {"api_key", "key", "ledger_url"} & set(fields), name
        assert KEY not in repr(resource)
