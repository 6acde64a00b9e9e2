"""The provider's own SDK, unchanged but for its base URL."""

import time

import pytest
import requests
import segmind
from segmind.exceptions import SegmindError
from segmind.files import Files
from segmind.v2 import InferenceFailed, InferenceTimeout

from kontext_pipeline.sandbox.drawing.sizes import SIZES
from tests.sandbox.conftest import MODEL, picture, png
from tests.sandbox.running import Sandbox, running_sandbox


@pytest.fixture
def sdk(sandbox: Sandbox) -> segmind.SegmindClient:
    return segmind.SegmindClient(api_key=sandbox.api_key, base_url=f"{sandbox.url}/v1")


def test_run_sync_returns_the_picture(sdk: segmind.SegmindClient, sandbox: Sandbox) -> None:
    answer = sdk.run_sync(MODEL, prompt="a fox", seed=7, aspect_ratio="1:1")
    assert picture(answer.content).size == SIZES["1:1"]
    assert answer.headers["x-seed-value"] == "7"
    assert sandbox.books()["totals"]["billed"] == 1


def test_run_submits_polls_and_returns_the_result(sdk: segmind.SegmindClient) -> None:
    body = sdk.run(MODEL, prompt="a fox", seed=7)
    assert body["status"] == "COMPLETED"
    assert body["metrics"]["cost"] == 0.1
    assert picture(requests.get(body["output"], timeout=10).content).size == SIZES["16:9"]


def test_submit_async_waits_and_reports(sdk: segmind.SegmindClient) -> None:
    job = sdk.submit_async(MODEL, prompt="a fox")
    assert job.status()["status"] in {"QUEUED", "PROCESSING", "COMPLETED"}
    assert job.wait(timeout=10, interval=0.02)["output"].endswith(".png")
    assert job.result()["status"] == "COMPLETED"


def test_a_failed_job_raises_inference_failed(sdk: segmind.SegmindClient, sandbox: Sandbox) -> None:
    sandbox.set_faults({"kind": "failed"})
    with pytest.raises(InferenceFailed) as caught:
        sdk.submit_async(MODEL, prompt="a fox").wait(interval=0.02)
    assert caught.value.detail
    assert caught.value.status_body["status"] == "FAILED"


def test_a_job_that_takes_too_long_raises_inference_timeout() -> None:
    with running_sandbox(speed=1) as sandbox:
        sdk = segmind.SegmindClient(api_key=sandbox.api_key, base_url=f"{sandbox.url}/v1")
        began = time.monotonic()
        with pytest.raises(InferenceTimeout):
            sdk.submit_async(MODEL, prompt="a fox").wait(timeout=0.2, interval=0.05)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("status", [400, 404, 406, 410, 429, 500, 502, 503, 504])
def test_errors_raise_segmind_error_with_status_and_words(
    sdk: segmind.SegmindClient, sandbox: Sandbox, status: int
) -> None:
    sandbox.set_faults({"kind": "status", "status": status})
    with pytest.raises(SegmindError) as caught:
        sdk.run_sync(MODEL, prompt="a fox")
    assert caught.value.status == status
    assert caught.value.detail
    with pytest.raises(SegmindError):
        sdk.submit_async(MODEL, prompt="a fox")


def test_a_bad_key_and_another_model(sandbox: Sandbox, sdk: segmind.SegmindClient) -> None:
    stranger = segmind.SegmindClient(api_key="nonsense", base_url=f"{sandbox.url}/v1")
    with pytest.raises(SegmindError) as caught:
        stranger.run(MODEL, prompt="a fox")
    assert (caught.value.status, caught.value.detail) == (401, "Unauthorized")
    with pytest.raises(SegmindError) as caught:
        sdk.run("another-model", prompt="a fox")
    assert caught.value.status == 404


def test_its_uploads_work_where_its_storage_points_here(
    sdk: segmind.SegmindClient, sandbox: Sandbox, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The SDK has no setting for this host, only a class attribute.
    monkeypatch.setattr(Files, "STORAGE_BASE_URL", sandbox.url)
    file = f"{tmp_path}/photo.png"
    with open(file, "wb") as out:  # noqa: PTH123
        out.write(png((90, 30)))
    (url,) = sdk.files.upload(file)["file_urls"]
    answer = sdk.run_sync(MODEL, prompt="a fox", input_image=url, aspect_ratio="match_input_image")
    assert picture(answer.content).size[0] > 2 * picture(answer.content).size[1]
