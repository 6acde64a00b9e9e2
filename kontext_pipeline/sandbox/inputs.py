"""Input images: how the URI of a request becomes a picture that may be drawn from.

Everything that comes from outside is bounded here: bytes, pixels, seconds, redirects, and the addresses
that a URL may lead to. A URI that can't be had raises BadInput, which the gateway answers with 400.
"""

import base64
import binascii
import hashlib
import io
import ipaddress
import re
import socket
import time
import urllib.parse
import warnings
from dataclasses import dataclass
from typing import Final

import urllib3
from PIL import Image, UnidentifiedImageError

from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.drawing.portrait import SIZE as PORTRAIT_SIZE
from kontext_pipeline.sandbox.store import FileStore

DEMO_URL: Final = (
    "https://segmind-resources.s3.amazonaws.com/input/a1adf47e-bfba-45c4-a11f-ae2b732102ad-kontext-max-ip.webp"
)
"""The source document's sample input image. It is never fetched: a drawn portrait stands in for it."""
FORMATS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
MEDIA_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
}
STAND_IN_SIZE: Final = (1248, 832)
"""Pixels of the photograph that stands in for a URL that isn't fetched: 3:2, as cameras take them."""
FETCH_SECONDS: Final = 10.0
"""For all of a fetch, redirects included."""
MAX_REDIRECTS: Final = 3
MAX_KNOWN: Final = 10_000
"""Images whose size is remembered, so that they aren't read again."""
_ORIENTATION: Final = 0x0112
_TURNED: Final = range(5, 9)
"""EXIF orientations that swap width and height."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_DATA_URI: Final = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)


class BadInput(Exception):
    """An input image can't be had or isn't one; the text tells the client why."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture to draw from: `key` is its sha256, or `stand-in:` and the sha256 of the URL it stands for."""

    key: str
    width: int
    height: int


DEMO_INPUT: Final = InputImage("demo", *PORTRAIT_SIZE)


def inspect_image(data: bytes, *, max_pixels: int) -> tuple[str, int, int]:
    """Return (extension, width, height as it's meant to be seen) of a whole, readable picture.

    Raises BadInput for anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadInput(f"the image has {width} x {height} pixels; {max_pixels:,} are allowed")
                image.load()
                if image.getexif().get(_ORIENTATION, 1) in _TURNED:
                    width, height = height, width
                return FORMATS[image.format or ""], width, height
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(f"this is no image; allowed are {', '.join(FORMATS)}") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        KeyError,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:
        raise BadInput(f"the image can't be read: {error}") from error


def decode_data_uri(uri: str, *, max_bytes: int) -> bytes:
    """Return the bytes of a base64 or percent-encoded data: URI. Raises BadInput."""
    match = _DATA_URI.match(uri)
    if match is None:
        raise BadInput("this is no data: URI")
    payload = uri[match.end() :]
    if len(payload) > max_bytes * 4 // 3 + 4:
        raise BadInput(f"the image is larger than {max_bytes:,} bytes")
    if ";base64" not in match.group(2).lower():
        return urllib.parse.unquote_to_bytes(payload)
    try:
        return base64.b64decode(urllib.parse.unquote(payload), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the data: URI is not valid base64") from None


class Inputs:
    """Resolves the `input_image` of requests. Its methods block: call them in a thread."""

    def __init__(self, config: SandboxConfig, store: FileStore) -> None:
        self._config = config
        self._store = store
        self._known: dict[str, InputImage] = {}

    def resolve(self, uri: str, own_hosts: frozenset[str]) -> InputImage:
        """Return the picture at `uri`; `own_hosts` are the `host:port` this sandbox is known by.

        Raises BadInput if there's none, if it may not be fetched, or if it is too large.
        """
        scheme = uri[:8].partition(":")[0].lower()
        if scheme == "data":
            return self.keep(decode_data_uri(uri, max_bytes=self._config.max_input_bytes))
        if scheme not in {"http", "https"}:
            raise BadInput("input_image must be an http(s) URL or a data: URI")
        try:
            url = urllib.parse.urlsplit(uri)
            host, netloc = url.hostname, url.netloc.lower()
            _ = url.port
        except ValueError as error:
            raise BadInput(f"input_image is not a valid URL: {error}") from None
        if not host or url.username is not None or url.password is not None:
            raise BadInput("input_image is not a valid URL: it needs a host, and may not carry a password")
        if uri == DEMO_URL:
            return DEMO_INPUT
        if netloc in own_hosts:
            return self._own(url.path)
        if self._config.fetch_inputs or netloc in self._config.trusted_input_hosts or self._trusts(host):
            return self.keep(self._fetch(uri))
        _refuse_private_literal(host)
        return InputImage("stand-in:" + hashlib.sha256(uri.encode("utf-8", "replace")).hexdigest(), *STAND_IN_SIZE)

    def keep(self, data: bytes) -> InputImage:
        """Store a picture and return it. Raises BadInput if it isn't one or is too large."""
        if len(data) > self._config.max_input_bytes:
            raise BadInput(f"the image is larger than {self._config.max_input_bytes:,} bytes")
        key = hashlib.sha256(data).hexdigest()
        known = self._known.get(key)
        if known is not None and self._store.find(key) is not None:
            return known
        extension, width, height = inspect_image(data, max_pixels=self._config.max_input_pixels)
        self._store.put(data, extension)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = InputImage(key, width, height)
        return self._known[key]

    def _own(self, path: str) -> InputImage:
        kind, _, name = path.removeprefix("/files/").partition("/")
        data = self._store.read(name) if kind == "uploads" else None
        if data is None:
            raise BadInput("input_image is no file of this server, or it has expired")
        return self.keep(data)

    def _trusts(self, host: str) -> bool:
        return host in self._config.trusted_input_hosts

    def _fetch(self, uri: str) -> bytes:
        deadline = time.monotonic() + FETCH_SECONDS
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(uri, deadline)
            if isinstance(answer, bytes):
                return answer
            uri = answer
        raise BadInput(f"input_image redirects more than {MAX_REDIRECTS} times")

    def _get(self, uri: str, deadline: float) -> bytes | str:
        """Return the body at `uri`, or where it redirects to. Connects to the very address that was checked."""
        url = urllib.parse.urlsplit(uri)
        host = url.hostname
        if url.scheme not in {"http", "https"} or not host:
            raise BadInput("input_image leads to a URL that is not http(s)")
        port = url.port or (443 if url.scheme == "https" else 80)
        trusted = url.netloc.lower() in self._config.trusted_input_hosts or self._trusts(host)
        address = _resolve(host, port, trusted=trusted)
        timeout = urllib3.Timeout(connect=5, read=5)
        pool = (
            urllib3.HTTPSConnectionPool(
                address, port, timeout=timeout, server_hostname=host, assert_hostname=host, maxsize=1
            )
            if url.scheme == "https"
            else urllib3.HTTPConnectionPool(address, port, timeout=timeout, maxsize=1)
        )
        target = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        headers = {
            "Host": url.netloc,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "kontext-sandbox",
        }
        try:
            answer = pool.request("GET", target, headers=headers, redirect=False, retries=False, preload_content=False)
            try:
                location = answer.headers.get("Location")
                if answer.status in {301, 302, 303, 307, 308} and location:
                    return urllib.parse.urljoin(uri, location)
                if answer.status != 200:
                    raise BadInput(f"input_image can't be fetched: its server answered {answer.status}")
                return self._read(answer, deadline)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BadInput(f"input_image can't be fetched: {type(error).__name__}") from error
        finally:
            pool.close()

    def _read(self, answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        limit = self._config.max_input_bytes
        body = bytearray()
        while chunk := answer.read1(65536, decode_content=False):
            body += chunk
            if len(body) > limit:
                raise BadInput(f"the image is larger than {limit:,} bytes")
            if time.monotonic() > deadline:
                raise BadInput(f"input_image can't be fetched within {FETCH_SECONDS:g} seconds")
        return bytes(body)


def _resolve(host: str, port: int, *, trusted: bool) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise BadInput("input_image can't be fetched: its host is unknown") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not trusted and not all(is_public(address) for address in addresses):
        raise BadInput("input_image leads to a private address, which isn't fetched")
    return addresses[0]


def _refuse_private_literal(host: str) -> None:
    try:
        private = not is_public(str(ipaddress.ip_address(host)))
    except ValueError:
        private = host == "localhost" or host.endswith(".localhost")
    if private:
        raise BadInput("input_image leads to a private address, which isn't fetched")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where IPv6 wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        wrapped = [ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner is not None and not inner.is_global for inner in wrapped):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
