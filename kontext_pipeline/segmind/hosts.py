"""Which hosts are inside: on this machine or its network, where no server outside should send us."""

import ipaddress
import socket


def is_inside(host: str) -> bool:
    """Return whether `host` names, by itself, an address that is not on the public internet.

    Judged by the name alone, without asking a name server: the request has no credentials and its answer
    counts only as a picture, so this keeps honest mistakes and crude attempts out.
    """
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            # The C library also reads "127.1" and "2130706433".
            address = ipaddress.ip_address(socket.inet_aton(host))
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not address.is_global
