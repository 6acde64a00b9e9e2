"""Which hosts and URLs may be requested, and which of them get the key.

Answers name URLs: of a job's status, of its record, of a picture. The key goes to the API's own origin only,
and a server on the public internet must not send this program to an address of its own network.
"""

import ipaddress
import re
import socket
from functools import lru_cache
from typing import Any, Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import requests

from kontext_pipeline.segmind.answers import Job
from kontext_pipeline.segmind.payloads import request_id

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_UNSAFE_IN_URL: Final = re.compile(r"[^!-~]|[\\@]")


def is_public_host(host: str) -> bool:
    """Return whether `host`, a name or an IP address as in a URL, may be on the public internet.

    No name server is asked: pass the addresses that a name resolves to as well. IPv6 addresses that stand for a
    private IPv4 address are private.
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


class ApiAddresses:
    """The URLs of the API at one base URL, and the checks of those that its answers name."""

    def __init__(self, base_url: str, key: str) -> None:
        """`base_url`: checked by the settings, without a slash at its end. `key`: refused in every URL."""
        self.base_url = base_url
        self._key = key
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
        status_url = document.get("status_url") or document.get("poll_url") or ""
        return self.checked_job(Job(named, str(status_url), str(document.get("response_url") or "")))

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
