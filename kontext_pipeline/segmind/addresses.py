"""Which hosts are on the public internet."""

import ipaddress
import socket
from typing import Final

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_public_host(host: str) -> bool:
    """Return whether `host`, a name or an IP address as in a URL, may be on the public internet.

    No name server is asked, so a public name may still resolve to a private address: pass the addresses that
    it resolves to as well. IPv6 addresses that stand for a private IPv4 address are private.
    """
    host = host.strip("[]").lower().rstrip(".")
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return False
    try:
        return _is_public(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        # The C library also accepts "127.1" and "2130706433".
        return _is_public(ipaddress.ip_address(socket.inet_aton(host)))
    except OSError:
        return bool(host)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None:
            # Withdrawn, and Python's versions differ on it.
            return False
    # `is_reserved` covers IPv4-compatible addresses and NAT64 for local use.
    return address.is_global and not address.is_multicast and not address.is_reserved
