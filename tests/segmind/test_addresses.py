"""Which hosts are public, and where the key and the downloads may go."""

import pytest

from kontext_pipeline.segmind.addresses import ApiAddresses, is_public_host
from kontext_pipeline.segmind.contradictions import Contradictions
from tests.segmind.conftest import KEY


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
