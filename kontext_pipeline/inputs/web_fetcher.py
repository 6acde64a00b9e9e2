"""Fetching input pictures by http(s): bounded in bytes, time and redirects, and never from a private address.

The API key is not known here. Nothing is sent but the URL and what names a version of its content.
"""

import email.utils
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests

from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.spooling import Fetched, Spool
from kontext_pipeline.segmind.addresses import is_public_host
from kontext_pipeline.segmind.connections import ForbiddenAddressError
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.segmind.transport import DisconnectedError, Reply, Transport

MAX_REDIRECTS: Final = 5
FETCH_S: Final = 60.0
"""Seconds for one fetch, from the first connection to the last byte, redirects included."""
CONNECT_S: Final = 10.0
LONGEST_RETRY_AFTER_S: Final = 30.0
"""Longest pause that a server may ask for, seconds: the row is tried again by the next run."""
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_REFUSALS: Final = frozenset({401, 403, 406, 451})
_LEAVE_IT: Final = "KONTEXT_KEEP_INPUTS=false leaves fetching to the provider"
_PERMANENT: Final = frozenset({Cause.TLS, Cause.PROXY})
_HEADERS: Final = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "kontext-pipeline"}
_ADVICE: Final = "set KONTEXT_PRIVATE_INPUTS=true to fetch from this network"


class WebFetcher:
    """Fetches of any number of threads."""

    def __init__(self, *, private_allowed: bool, threads: int, fetch_s: float = FETCH_S) -> None:
        """`private_allowed`: whether addresses of this network may be requested. `threads`: how many fetch at once."""
        self._private_allowed = private_allowed
        self._private_hosts: set[str] = set()
        self._fetch_s = fetch_s
        self._transport = Transport(connect_timeout_s=CONNECT_S, pool_size=threads, check_peer=self._check_peer)

    def close(self) -> None:
        """End the fetches in progress."""
        self._transport.close()

    def fetch(self, url: str, spool: Spool, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        """Fetch a URL into a file, unless its content is still the version that `etag` and `last_modified` name.

        Raises:
            InputProblem: there is nothing to fetch, or it must not be fetched.
            InputStoreFull: the file can't be written.
        """
        deadline = time.monotonic() + self._fetch_s
        conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
        headers = {**_HEADERS, **{name: value for name, value in conditions.items() if value}}
        private = False
        for _ in range(MAX_REDIRECTS + 1):
            url = self._checked(url)
            try:
                with self._transport.send(
                    "GET", url, headers, body=None, timeout_s=max(0.001, deadline - time.monotonic())
                ) as reply:
                    host = urlsplit(url).hostname or ""
                    private = private or host in self._private_hosts or not is_public_host(host)
                    location = reply.response.headers.get("Location")
                    if reply.response.status_code in _REDIRECTS and location:
                        url = urljoin(url, location)
                        continue
                    return self._read(reply, spool, private=private, conditional=bool(etag or last_modified))
            except DisconnectedError as error:
                raise _problem(error) from None
        raise InputProblem(Cause.INPUT_REFUSED, f"its server redirects more than {MAX_REDIRECTS} times")

    def _read(self, reply: Reply, spool: Spool, *, private: bool, conditional: bool) -> Fetched:
        status, headers = reply.response.status_code, reply.response.headers
        if status == 304 and conditional:
            return Fetched(None, private=private)
        if status != 200:
            transient = status in _TRANSIENT
            refused = "" if private or status not in _REFUSALS else f" to this machine; {_LEAVE_IT}"
            raise InputProblem(
                Cause.INPUT_UNREACHABLE if transient else Cause.INPUT_MISSING,
                f"its server answered {status}{refused}",
                transient=transient,
                retry_after_s=_retry_after(headers),
            )
        length = headers.get("Content-Length", "")
        if length.isascii() and length.isdigit():
            spool.check_size(int(length[:18]))
        sha256 = spool.write(reply.chunks())
        return Fetched(sha256, _header(headers, "ETag"), _header(headers, "Last-Modified"), private)

    def _checked(self, url: str) -> str:
        """Return a URL as it can be requested, without a fragment."""
        prepared = requests.PreparedRequest()
        try:
            prepared.prepare_url(url, None)
            parts = urlsplit((prepared.url or "").partition("#")[0])
            usable = parts.scheme in {"http", "https"} and parts.hostname
        except (requests.RequestException, ValueError):
            usable = None
        if not usable:
            raise InputProblem(Cause.INPUT_REFUSED, "it leads to what is no http(s) URL")
        if parts.username is not None or parts.password is not None:
            raise InputProblem(Cause.INPUT_REFUSED, "it has a user name or password in it, which is never sent")
        if not self._private_allowed and not is_public_host(parts.hostname or ""):
            raise InputProblem(
                Cause.INPUT_REFUSED, f"it leads to {parts.hostname}, an address of this network; {_ADVICE}"
            )
        return parts.geturl()

    def _check_peer(self, host: str, address: str) -> None:
        # The address that is connected to, not one of an earlier look-up: a name server may give another one each time.
        if is_public_host(address):
            return
        if not self._private_allowed:
            raise ForbiddenAddressError(
                f"it leads to {host}, which is {address}, an address of this network; {_ADVICE}"
            )
        self._private_hosts.add(host)


def _problem(error: DisconnectedError) -> InputProblem:
    if error.cause is Cause.FORBIDDEN_ADDRESS:
        return InputProblem(Cause.INPUT_REFUSED, str(error))
    return InputProblem(
        Cause.INPUT_UNREACHABLE, f"it can't be fetched: {error}", transient=error.cause not in _PERMANENT
    )


def _header(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name, "")
    return value if value and len(value) <= 500 and value.isascii() and value.isprintable() else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    seconds: float | None = None
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    elif value:
        try:
            seconds = (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return None if seconds is None else min(max(0.0, seconds), LONGEST_RETRY_AFTER_S)
