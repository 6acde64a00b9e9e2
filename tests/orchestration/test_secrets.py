"""The key and the address of alerts are nowhere in what Dagster keeps or shows."""

import logging

import pytest

from kontext_pipeline.definitions import defs
from tests.orchestration.conftest import KEY, Project
from tests.segmind.gateway import Gateway, Reply

pytestmark = pytest.mark.long

ADDRESS = "/services/T0123/B4567/89abcdefghij"
PAGER_KEY = "pager-key-of-nobody"


def test_the_key_is_nowhere_in_what_a_run_leaves(
    project_on_disk: Project,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    project = project_on_disk
    receiver = Gateway()
    receiver.routes[ADDRESS] = Reply(404)
    monkeypatch.setenv("KONTEXT_ALERT_URL", receiver.url + ADDRESS)
    monkeypatch.setenv("KONTEXT_ALERT_TEMPLATE", f'{{"text": "$text", "routing_key": "{PAGER_KEY}"}}')
    project.plan()
    project.augment("photos-00000")
    # A server that repeats what it was sent, in an answer that fails a row and in one that stops the run.
    project.sandbox.set_faults({"kind": "status", "status": 400, "message": f"bad header x-api-key: {KEY}"})
    project.augment("photos-00001")
    project.sandbox.set_faults({"kind": "status", "status": 401, "message": f"no such key: {KEY}"})
    project.augment("photos-00002", check=False)
    receiver.stop()
    assert len(receiver.seen(ADDRESS)) >= 3
    assert "KONTEXT_ALERT_URL (it answered 404)" in caplog.text
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert any(b"STEP_FAILURE" in path.read_bytes() for path in files if path.suffix == ".db")

    captured = capfd.readouterr()
    shown = captured.out + captured.err + caplog.text
    for secret in (KEY, ADDRESS, PAGER_KEY):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in shown


def test_the_key_is_no_setting_of_a_resource(project: Project) -> None:
    resources = defs().resources
    assert resources is not None
    for name, resource in resources.items():
        fields = resource.get_resource_definition().config_schema.config_type.fields
        assert not {"api_key", "key", "ledger_url", "alert_url", "alert_template"} & set(fields), name
        assert KEY not in repr(resource)
