"""The OpenAPI document: a stranger's generator of requests finds no answer that breaks it."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis.checks import CHECKS
from starlette.routing import Route

from kontext_pipeline.sandbox.app import create_app
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.openapi import OPENAPI
from tests.sandbox.conftest import Client, data_uri, png
from tests.sandbox.running import TEST_KEY, Sandbox, running_sandbox

schema = schemathesis.openapi.from_dict(OPENAPI)

# A valid input_image or data_urls entry is one that leads to a picture, which no schema can say: those
# are answered 400 as documented, and the tests of inputs cover them.
SEMANTIC = {"generate", "submit", "upload", "set-faults"}


@pytest.fixture(scope="module")
def served() -> Iterator[Sandbox]:
    with running_sandbox(speed=5000) as sandbox:
        yield sandbox


@schema.parametrize()
@hypothesis.settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_no_generated_request_meets_an_undocumented_answer(case: schemathesis.Case[Any], served: Sandbox) -> None:
    operation = case.operation.definition.raw["operationId"]
    excluded: list[Any] = [CHECKS.get_one(name) for name in ("use_after_free", "ensure_resource_availability")]
    if operation in SEMANTIC:
        excluded.append(CHECKS.get_one("positive_data_acceptance"))
    case.call_and_validate(base_url=served.url, headers={"x-api-key": TEST_KEY}, excluded_checks=excluded, timeout=10)


def test_every_route_is_described_and_the_other_way_round() -> None:
    app = create_app(SandboxConfig())
    routed = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, operations in OPENAPI["paths"].items() for method in operations}
    assert routed == described
    app.state.gateway.close()


def test_what_a_client_really_meets_is_as_described(client: Client) -> None:
    (url,) = client.upload(png())
    answers = {
        ("/v1/{model}", "post"): [
            client.post(),
            client.post(input_image=url, output_format="jpg"),
            client.post(prompt=""),
        ],
        ("/v1/get-user-credits", "get"): [
            client.get("/v1/get-user-credits"),
            client.get("/v1/get-user-credits", key=""),
        ],
        ("/files/uploads/{name}", "get"): [client.get(url), client.get("/files/uploads/none.png")],
    }
    submission = client.post("v2", input_image=data_uri(png()))
    answers["/v2/{model}", "post"] = [submission]
    client.sandbox.set_faults({"kind": "failed"})
    failing = client.post("v2").json()
    client.sandbox.wait_idle()
    result = client.get(submission.json()["response_url"])
    answers["/v2/requests/{request_id}", "get"] = [result, client.get(failing["response_url"])]
    answers["/v2/requests/{request_id}/status", "get"] = [
        client.get(submission.json()["status_url"]),
        client.get(failing["status_url"]),
    ]
    answers["/files/outputs/{name}", "get"] = [client.get(result.json()["output"])]
    answers["/sandbox/books", "get"] = [client.get("/sandbox/books")]
    for (path, method), received in answers.items():
        for answer in received:
            schema[path][method.upper()].validate_response(answer)


def test_it_is_served(client: Client) -> None:
    assert requests.get(client.sandbox.url + "/openapi.json", timeout=10).json() == OPENAPI
