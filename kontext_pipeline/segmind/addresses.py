"""Which hosts and URLs may be requested, and which of them get the key.

Answers name URLs: of a job's status, of its record, of a picture. The key goes to the API's own origin only,
and a server on the public internet must not send this program to an address of its own network.
"""

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import requests

from kontext_pipeline.segmind.answers import Job
from kontext_pipeline.segmind.connections import ForbiddenAddressError
from kontext_pipeline.segmind.contradictions import Contradictions
from kontext_pipeline.segmind.payloads import request_id

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_WITHDRAWN: Final = tuple(
    map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "3fff::/20"))
)
_ISATAP: Final = (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")
"""The bytes before the IPv4 address in the interface's part of the address."""
_UNSAFE_IN_URL: Final = re.compile(r"[^!-~]|[\\@]")


def is_public_host(host: str) -> bool:
    """Return whether `host`, a name or an IP address as in a URL, may be on the public internet.

    No name server is asked: pass the addresses that a name resolves to as well. IPv6 addresses that stand for a
    private IPv4 address are private.
    """
    host = _plain_host(host)
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


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an IP address as in a URL, is this machine."""
    host = _plain_host(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _plain_host(host: str) -> str:
    # Digits and dots of other scripts mean the same in a host name.
    return unicodedata.normalize("NFKC", host).replace("\u3002", ".").strip("[]").lower().rstrip(".")


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        # Withdrawn, or of this network's own: 6to4 and Teredo, site-local, ISATAP, NAT64 with a local prefix, and
        # addresses that stand for an IPv4 one without being mapped. Python's versions differ on them.
        if address.is_site_local or address.packed[8:12] in _ISATAP or any(address in some for some in _WITHDRAWN):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def peer_check(*own_urls: str) -> Callable[[str, str], None]:
    """Return a check of each new connection's host and address, as `Transport` takes it.

    `own_urls`: the URLs that the settings name. Their hosts may be anywhere. A host that an answer names may not be in
    this network, whatever its name resolves to, unless the first of these hosts is too.
    """
    own = {_plain_host(urlsplit(url).hostname or "") for url in own_urls}
    private_allowed = not is_public_host(urlsplit(own_urls[0]).hostname or "")

    def check(host: str, address: str) -> None:
        if not (private_allowed or _plain_host(host) in own or is_public_host(address)):
            raise ForbiddenAddressError(f"{host} is {address}, an address inside this network")

    return check


class ApiAddresses:
    """The URLs of the API at one base URL, and the checks of those that its answers name."""

    def __init__(self, base_url: str, key: str, contradictions: Contradictions) -> None:
        """`base_url`: checked by the settings, without a slash at its end. `key`: refused in every URL."""
        self.base_url = base_url
        self._key = key
        self._contradictions = contradictions
        self._base = urlsplit(base_url)
        self._private_allowed = not is_public_host(self._base.hostname or "")
        # A job is polled several times, and its URLs stay the same.
        self.checked_job = lru_cache(maxsize=4096)(self._checked_job)

    def job(self, document: Any) -> Job | None:
        """Return the job that the JSON of a submit's answer names, with URLs on the API's origin."""
        if not isinstance(document, dict):
            return None
        named = request_id(document.get("request_id"), self._key)
        if named is None:
            return None
        status_url = self._url(document, "status_url") or self._url(document, "poll_url")
        return self.checked_job(Job(named, status_url, self._url(document, "response_url")))

    def _url(self, document: dict[str, Any], name: str) -> str:
        """Return the URL that `document` has under `name`, or nothing where it has none."""
        url = document.get(name) or ""
        if isinstance(url, str):
            return url
        # The job exists and may be billed, so it is asked for all the same, at the documented URL.
        self._contradictions.note(name, f"an answer has a {name} that is no text; the documented URL is used")
        return ""

    def _checked_job(self, job: Job) -> Job:
        """Return `job` with URLs that the key may be sent to; other URLs are replaced by documented ones."""
        record = f"{self.base_url}/v2/requests/{quote(job.request_id, safe='')}"
        return Job(
            job.request_id,
            self._on_origin(job.status_url) or f"{record}/status",
            self._on_origin(job.response_url) or record,
        )

    def _on_origin(self, url: str) -> str | None:
        """Return `url` rebuilt on the API's origin, None where it leads elsewhere.

        Two parsers may disagree on where a crafted URL leads, so the URL itself is not used.
        """
        if not url or _UNSAFE_IN_URL.search(url) or self._key in url:
            return None
        try:
            parts = urlsplit(urljoin(f"{self.base_url}/", url))
            if _origin(parts) != _origin(self._base):
                return None
        except ValueError:
            return None
        return parts._replace(scheme=self._base.scheme, netloc=self._base.netloc, fragment="").geturl()

    def output_url(self, url: str) -> str:
        """Return the URL of a picture as it can be requested, without a fragment.

        A private address is allowed only where the API itself has one.

        Raises:
            ValueError: the URL must not be requested; the text says why.
        """
        prepared = requests.PreparedRequest()
        try:
            prepared.prepare_url(url, None)
        except requests.RequestException as error:
            raise ValueError(str(error)) from None
        url = (prepared.url or "").partition("#")[0]
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{parts.scheme or 'no scheme'} is not http or https")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it has a user name in it")
        if not self._private_allowed and not is_public_host(parts.hostname):
            raise ValueError(f"{parts.hostname} is an address inside this network")
        if self._key in url:
            raise ValueError("it has the key in it")
        return url


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
