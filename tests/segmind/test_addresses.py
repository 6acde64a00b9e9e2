"""Which hosts are public, and where the key and the downloads may go."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.segmind.addresses import ApiAddresses, is_public_host
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.contradictions import Contradictions
from kontext_pipeline.segmind.outcomes import Cause, Outcome
from tests.segmind.conftest import BODY, KEY
from tests.segmind.gateway import Gateway, Reply


@pytest.mark.parametrize(
    "host",
    [
        "api.segmind.com",
        "files.example.com.",
        "internal.example.com",
        "8.8.8.8",
        "2606:4700::1111",
        "[2606:4700::1111]",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_public_hosts(host: str) -> None:
    assert is_public_host(host)


PRIVATE = [
    "localhost",
    "LOCALHOST.",
    "printer.local",
    "metadata.internal",
    "a.localhost",
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fe80::1%eth0]",
    "[fc00::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::127.0.0.1]",
    "[::8.8.8.8]",
    "[2002:7f00:1::]",
    "[2002:a00:1::]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a00:1]",
    "[64:ff9b:1::808:808]",
    "[2001:0:a00:1::]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[fec0::1]",
    "[2606:4700::5efe:127.0.0.1]",
    "[2606:4700::200:5efe:7f00:1]",
    "[3fff::1]",
]


@pytest.mark.parametrize("host", [*PRIVATE, "", "１２７.0.0.1", "127。0。0。1"])
def test_private_hosts(host: str) -> None:
    assert not is_public_host(host)
    assert not is_public_host(host.strip("[]"))


@pytest.mark.parametrize("host", PRIVATE)
def test_a_public_server_may_not_point_to_a_private_address(host: str) -> None:
    addresses = ApiAddresses("https://api.segmind.com", KEY, Contradictions())
    with pytest.raises(ValueError, match="inside this network"):
        addresses.output_url(f"http://{host}:8080/a.png")


def test_a_private_server_may_point_to_a_private_address() -> None:
    addresses = ApiAddresses("http://127.0.0.1:8765", KEY, Contradictions())
    assert addresses.output_url("http://10.1.2.3/a.png") == "http://10.1.2.3/a.png"


def test_a_url_is_made_fit_to_be_requested() -> None:
    addresses = ApiAddresses("https://api.segmind.com", KEY, Contradictions())
    assert addresses.output_url("https://files.example.com/a b.png#x") == "https://files.example.com/a%20b.png"


@pytest.mark.parametrize(("file_host", "fetched"), [("api.example.com", True), ("files.example.com", False)])
def test_a_name_that_resolves_to_a_private_address_is_not_requested_unless_the_settings_name_it(
    gateway: Gateway,
    connect: Callable[..., SegmindClient],
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_host: str,
    fetched: bool,
) -> None:
    look_up = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        """Stand for a name server that places these names in this network."""
        return look_up("127.0.0.1" if host.endswith(".example.com") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    url = f"http://{file_host}:{gateway.port}/a.png"
    gateway.routes["/v1/flux-kontext-max"] = Reply(body=json.dumps({"image": url}).encode())
    client = connect(base_url=f"http://api.example.com:{gateway.port}", connect_timeout_s=5)
    answer = client.generate(BODY, spool)
    assert bool(gateway.seen("/a.png")) is fetched
    if not fetched:
        assert (answer.outcome, answer.cause) == (Outcome.UNUSABLE, Cause.BAD_OUTPUT_URL)
        assert "files.example.com is 127.0.0.1, an address inside this network" in str(answer.error)
        # The server accepts a connection after the client has closed it.
        until = time.monotonic() + 10
        while gateway.connections < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert gateway.connections == 2, "one to the API, one on which nothing was sent, and no further try"
