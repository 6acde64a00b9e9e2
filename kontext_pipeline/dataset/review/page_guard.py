"""Who may use the review page: requests for this machine, with the token, and writes from the page itself alone.

The page is open to this machine's browser, and so to every website that the browser shows. A website must neither read
pictures nor write decisions, by whatever name it reaches this server.
"""

import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_READS: Final = frozenset({"GET", "HEAD"})
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def cookie_name(port: int) -> str:
    """Return the name of the cookie with the token: browsers send a cookie to all ports of a host."""
    return f"kontext_review_{port}"


class PageGuard:
    """Passes on a request to `app` if it may, and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app = app
        self._token = token
        self._cookie = cookie_name(port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await PlainTextResponse(f"{refusal}\n", 403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A website whose name leads to 127.0.0.1 sends its own name.
        if _host_name(host) not in _HOSTS:
            return "This page answers at 127.0.0.1 and localhost only."
        if not self._has_token(scope, headers):
            return "The token is missing or wrong. Open the address that `kontext review` has printed."
        if scope["method"] in _READS:
            return None
        if headers.get("origin") != f"{scope['scheme']}://{host}":
            return "Decisions are taken from the page itself only."
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "Decisions are taken from the page itself only."
        return None

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        given = [_cookie_in(headers, self._cookie)]
        if scope["method"] in _READS and scope["path"] == "/":
            given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return any(secrets.compare_digest(one.encode(), self._token.encode()) for one in given)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie_in(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
