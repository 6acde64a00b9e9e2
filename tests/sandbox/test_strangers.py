"""What the sandbox takes from web pages and from clients without a key."""

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import requests

from kontext_pipeline.sandbox.admission import MAX_STRANGERS
from tests.sandbox.conftest import MODEL, Client
from tests.sandbox.running import running_sandbox


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_a_lone_surrogate_is_refused_and_breaks_no_page(client: Client, api: str) -> None:
    for prompt in ("\ud800", "a fox \ud83d"):
        assert client.post(api, prompt=prompt).status_code == 400
    for path in ("/", "/sandbox/books"):
        assert client.get(path).status_code == 200
    assert len(client.sandbox.books()["entries"]) == 2


HOSTS = {
    "localhost": True,
    "LOCALHOST:8765": True,
    "127.0.0.1": True,
    "127.0.0.2:1": True,
    "[::1]:80": True,
    "sandbox.localhost": True,
    "evil.example": False,
    "localhost.evil.example": False,
    "127.0.0.1.evil.example:80": False,
    "192.168.0.7": False,
    "[fe80::1]": False,
    "": False,
    "sandbox.test": True,
}


def test_only_its_own_names_are_answered() -> None:
    with running_sandbox(hosts=("Sandbox.test",)) as sandbox:
        answered = {
            host: requests.get(f"{sandbox.url}/sandbox/books", headers={"Host": host}, timeout=10).status_code
            for host in HOSTS
        }
    assert answered == {host: 200 if known else 421 for host, known in HOSTS.items()}


def test_a_sandbox_on_every_address_is_asked_for_by_any_number_and_no_name() -> None:
    from starlette.testclient import TestClient

    from kontext_pipeline.sandbox.app import create_app
    from kontext_pipeline.sandbox.config import SandboxConfig

    client = TestClient(create_app(SandboxConfig(), host="0.0.0.0"))
    answered = [
        client.get("/sandbox/books", headers={"Host": host}).status_code
        for host in ("192.168.0.7:8765", "[fe80::1]", "localhost", "evil.example")
    ]
    assert answered == [200, 200, 200, 421]


def head(key: str = "") -> bytes:
    named = f"x-api-key: {key}\r\n" if key else ""
    return (
        f"POST /v1/{MODEL} HTTP/1.1\r\nHost: localhost\r\n{named}Content-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n{"
    ).encode()


def test_bodies_without_a_key_are_bounded_in_number_and_time() -> None:
    with running_sandbox(stranger_s=0.5) as sandbox, ExitStack() as exits:
        port = urlsplit(sandbox.url).port

        def slow(key: str = "") -> socket.socket:
            wire = exits.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            wire.sendall(head(key))
            return wire

        slow(sandbox.api_key)
        strangers = [slow() for _ in range(MAX_STRANGERS + 1)]
        answers = sorted(wire.recv(1000).split(b"\r\n")[0] for wire in strangers)
        assert answers == [b"HTTP/1.1 408 Request Timeout"] * MAX_STRANGERS + [b"HTTP/1.1 503 Service Unavailable"]
        # Afterwards there is room again, and who has a key was never held up.
        assert Client(sandbox).post().status_code == 200
        assert requests.post(f"{sandbox.url}/v1/{MODEL}", json={}, timeout=10).status_code == 401
