"""Fetching over a real connection, from a server that is slow, dead, redirecting, or lies about types and sizes."""

import hashlib
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStore
from kontext_pipeline.inputs.spooling import Fetched, Spool
from kontext_pipeline.inputs.web_fetcher import LONGEST_RETRY_AFTER_S, WebFetcher
from kontext_pipeline.segmind.outcomes import Cause
from tests.segmind.gateway import Gateway, Reply, Request

PICTURE = b"the bytes of a picture"
SHA256 = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.stop()


@contextmanager
def fetching(folder: Path, *, max_bytes: int = 1000, **options: Any) -> Iterator[tuple[WebFetcher, Spool]]:
    store = InputStore(folder)
    fetcher = WebFetcher(**{"private_allowed": True, "threads": 2, **options})
    with closing(fetcher), store.spool_file() as path:
        yield fetcher, Spool(store, path, max_bytes)


def fetch(url: str, folder: Path, *, etag: str | None = None, **options: Any) -> Fetched:
    with fetching(folder, **options) as (fetcher, spool):
        found = fetcher.fetch(url, spool, etag=etag)
        assert found.sha256 is None or hashlib.sha256(spool.path.read_bytes()).hexdigest() == found.sha256
        return found


def problem(url: str, folder: Path, **options: Any) -> InputProblem:
    with pytest.raises(InputProblem) as raised:
        fetch(url, folder, **options)
    return raised.value


def test_the_bytes_and_the_version_arrive_and_nothing_of_ours_is_sent(server: Gateway, tmp_path: Path) -> None:
    headers = {"ETag": '"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.routes["/plain"] = Reply(200, PICTURE, headers)
    found = fetch(f"{server.url}/plain", tmp_path)
    assert found == Fetched(SHA256, '"one"', headers["Last-Modified"], private=True)
    (request,) = server.seen("/plain")
    assert request.method == "GET"
    # No key, no cookie, no referrer.
    assert set(request.headers) == {"host", "accept", "accept-encoding", "user-agent"}
    assert request.headers["user-agent"] == "kontext-pipeline"


def test_an_unchanged_version_is_not_sent_again(server: Gateway, tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply(304) if request.headers.get("if-none-match") == '"one"' else Reply(200, PICTURE)

    server.routes["/conditional"] = answer
    assert fetch(f"{server.url}/conditional", tmp_path, etag='"one"').sha256 is None
    assert fetch(f"{server.url}/conditional", tmp_path, etag='"two"').sha256 == SHA256


def test_redirects_are_followed_to_a_bound(server: Gateway, tmp_path: Path) -> None:
    for number in range(6):
        server.routes[f"/hop{number}"] = Reply(302, b"", {"Location": f"/hop{number + 1}"})
    server.routes["/hop6"] = Reply(200, PICTURE)
    assert fetch(f"{server.url}/hop1", tmp_path).sha256 == SHA256
    found = problem(f"{server.url}/hop0", tmp_path)
    assert (found.cause, str(found)) == (Cause.INPUT_REFUSED, "its server redirects more than 5 times")


@pytest.mark.parametrize("location", ["ftp://pictures.example/a", "file:///etc/passwd", "http://user:pw@127.0.0.1/"])
def test_a_redirect_leads_to_http_alone(server: Gateway, tmp_path: Path, location: str) -> None:
    server.routes["/away"] = Reply(302, b"", {"Location": location})
    assert problem(f"{server.url}/away", tmp_path).cause is Cause.INPUT_REFUSED


@pytest.mark.parametrize(
    ("reply", "cause", "words"),
    [
        (Reply(404), Cause.INPUT_MISSING, "its server answered 404"),
        (Reply(403), Cause.INPUT_MISSING, "its server answered 403"),
        (Reply(503, b"", {"Retry-After": "7"}), Cause.INPUT_UNREACHABLE, "its server answered 503"),
        (Reply(200, PICTURE, cut=5), Cause.INPUT_UNREACHABLE, "it can't be fetched"),
        (Reply(reset=True), Cause.INPUT_UNREACHABLE, "it can't be fetched"),
        (Reply(200, bytes(1001)), Cause.INPUT_UNSUITABLE, r"at most 0.\d+ MB are allowed \(KONTEXT_INPUT_MAX_MB\)"),
        (Reply(200, bytes(5000), no_length=True), Cause.INPUT_UNSUITABLE, "it is larger"),
        (Reply(200, bytes(5000), chunked=True), Cause.INPUT_UNSUITABLE, "it is larger"),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nshort"),
            Cause.INPUT_UNREACHABLE,
            "can't be fetched",
        ),
        (Reply(raw=b"no http at all\r\n\r\n"), Cause.INPUT_UNREACHABLE, "not HTTP"),
    ],
)
def test_what_is_wrong_is_said(server: Gateway, tmp_path: Path, reply: Reply, cause: Cause, words: str) -> None:
    server.routes["/wrong"] = reply
    found = problem(f"{server.url}/wrong", tmp_path)
    assert found.cause is cause
    assert found.transient == (cause is Cause.INPUT_UNREACHABLE)
    with pytest.raises(InputProblem, match=words):
        raise found
    assert found.retry_after_s == (7.0 if reply.status == 503 else None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing of it is left on the disk"


def test_a_long_pause_is_not_waited_for(server: Gateway, tmp_path: Path) -> None:
    server.routes["/busy"] = Reply(429, b"", {"Retry-After": "86400"})
    assert problem(f"{server.url}/busy", tmp_path).retry_after_s == LONGEST_RETRY_AFTER_S


@pytest.mark.parametrize("reply", [Reply(hang=True), Reply(200, PICTURE, trickle=0.05), Reply(200, trickle_head=0.05)])
def test_a_slow_server_is_left_at_the_deadline(server: Gateway, tmp_path: Path, reply: Reply) -> None:
    server.routes["/slow"] = reply
    found = problem(f"{server.url}/slow", tmp_path, fetch_s=0.2)
    assert (found.cause, found.transient) == (Cause.INPUT_UNREACHABLE, True)
    assert "no complete answer within" in str(found)


def test_a_body_without_end_costs_no_more_than_the_bound(server: Gateway, tmp_path: Path) -> None:
    server.routes["/endless"] = Reply(200, bytes(8 * 2**20), no_length=True)
    with fetching(tmp_path, max_bytes=2**20) as (fetcher, spool):
        with pytest.raises(InputProblem, match="it is larger"):
            fetcher.fetch(f"{server.url}/endless", spool)
        assert spool.path.stat().st_size <= 2**20


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "10.1.2.3", "2130706433"])
def test_addresses_of_this_network_are_refused(tmp_path: Path, host: str) -> None:
    found = problem(f"http://{host}:9/secret", tmp_path, private_allowed=False)
    assert found.cause is Cause.INPUT_REFUSED
    assert "KONTEXT_PRIVATE_INPUTS=true" in str(found)
    assert not found.transient


def resolve_to_loopback(monkeypatch: pytest.MonkeyPatch, server: Gateway) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        return real("127.0.0.1" if str(host).endswith(".example") else host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_public_name_that_resolves_to_this_machine_is_refused_before_anything_is_sent(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to_loopback(monkeypatch, server)
    server.routes["/rebound"] = Reply(200, PICTURE)
    url = f"http://pictures.example:{server.port}/rebound"
    found = problem(url, tmp_path, private_allowed=False)
    assert (found.cause, found.transient) == (Cause.INPUT_REFUSED, False)
    assert "pictures.example, which is 127.0.0.1" in str(found)
    assert server.seen("/rebound") == []
    # With the setting it is fetched, and known to be private: the provider could not fetch it.
    assert fetch(url, tmp_path) == Fetched(SHA256, private=True)
