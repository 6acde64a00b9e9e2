"""Input images: from the URI of a request to a picture that can be drawn from.

Everything from outside is bounded here: bytes, pixels, seconds, redirects, and the addresses to which a URL may lead.
"""

import contextlib
import hashlib
import io
import socket
import time
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from PIL import Image

from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.file_store import FileStore
from kontext_pipeline.segmind.addresses import is_public_host

DEMO_HOST: Final = "segmind-resources.s3.amazonaws.com"
"""The host of the source document's sample input image. Nothing is ever fetched from it."""
FORMATS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
MEDIA_TYPES: Final = {extension: f"image/{kind.lower()}" for kind, extension in FORMATS.items()}
STAND_IN_SIZE: Final = (1248, 832)
"""Pixels of the picture that stands in for one that is not fetched: 3:2, as from a camera."""
FETCH_SECONDS: Final = 10.0
"""For a whole fetch with its redirects."""
MAX_REDIRECTS: Final = 3
_ORIENTATION: Final = 0x0112
_TURNED: Final = range(5, 9)
"""EXIF orientations that swap width and height."""


class BadInput(Exception):
    """An input image is not available or is no picture. The text tells the client why."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture to draw from."""

    key: str
    """Its sha256, or `stand-in:` and the sha256 of the URL that is not fetched."""
    width: int
    height: int
    host: str = "an unknown host"
    """The host of a picture that is not fetched."""


class InputResolver:
    """Resolves the `input_image` of requests. Its methods block: call them in a thread."""

    def __init__(self, config: SandboxConfig, files: FileStore) -> None:
        self._config = config
        self._files = files
        # Their sizes are remembered, so that they need not be decoded again.
        self._known: dict[str, InputImage] = {}

    def resolve(self, uri: str, own_hosts: frozenset[str]) -> InputImage:
        """Return the picture at `uri`. `own_hosts` are the `host:port` by which this sandbox is reached.

        Raises:
            BadInput: there is no picture, it may not be fetched, or it is too large.
        """
        scheme = uri[:8].partition(":")[0].lower()
        if scheme == "data":
            return self.keep(_decode_data_uri(uri, self._config.max_input_bytes))
        if scheme not in {"http", "https"}:
            raise BadInput("input_image must be an http(s) URL or a data: URI")
        try:
            url = urllib.parse.urlsplit(uri)
            host, netloc, _ = url.hostname, url.netloc.lower(), url.port
        except ValueError as error:
            raise BadInput(f"input_image is not a valid URL: {error}") from None
        if not host or url.username is not None or url.password is not None:
            raise BadInput("input_image is not a valid URL: it needs a host and must not have a password")
        if netloc in own_hosts:
            return self._own(url.path)
        if host != DEMO_HOST and (self._config.fetch_inputs or self._trusts(netloc, host)):
            return self.keep(self._fetch(uri))
        if not is_public_host(host):
            raise BadInput("input_image leads to a private address, which is not fetched")
        digest = hashlib.sha256(uri.encode("utf-8", "replace")).hexdigest()
        return InputImage(f"stand-in:{digest}", *STAND_IN_SIZE, host)

    def keep(self, data: bytes) -> InputImage:
        """Store a picture and return it.

        Raises:
            BadInput: it is no picture, or it is too large.
        """
        if len(data) > self._config.max_input_bytes:
            raise BadInput(f"the image is larger than {self._config.max_input_bytes:,} bytes")
        key = hashlib.sha256(data).hexdigest()
        known = self._known.get(key)
        if known is not None and self._files.find(key) is not None:
            return known
        extension, width, height = _inspect(data, max_pixels=self._config.max_input_pixels)
        self._files.put(data, extension)
        self._known[key] = InputImage(key, width, height)
        return self._known[key]

    def keep_data_uri(self, uri: str) -> str:
        """Store the picture of a data: URI and return the name of its file.

        Raises:
            BadInput: it is no picture, it is too large, or there is no room for it.
        """
        image = self.keep(_decode_data_uri(uri, self._config.max_input_bytes))
        path = self._files.find(image.key)
        if path is None:
            raise BadInput("there is no room for it")
        return path.name

    def _own(self, path: str) -> InputImage:
        kind, _, name = path.removeprefix("/files/").partition("/")
        data = self._files.read(name) if kind == "uploads" else None
        if data is None:
            raise BadInput("input_image is no file of this server, or it has expired")
        return self.keep(data)

    def _trusts(self, netloc: str, host: str) -> bool:
        return not {netloc, host}.isdisjoint(self._config.trusted_input_hosts)

    def _fetch(self, uri: str) -> bytes:
        deadline = time.monotonic() + FETCH_SECONDS
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(uri, deadline)
            if isinstance(answer, bytes):
                return answer
            uri = answer
        raise BadInput(f"input_image redirects more than {MAX_REDIRECTS} times")

    def _get(self, uri: str, deadline: float) -> bytes | str:
        """Return the body at `uri`, or the URL to which it redirects."""
        url = urllib.parse.urlsplit(uri)
        host = url.hostname
        if url.scheme not in {"http", "https"} or not host:
            raise BadInput("input_image leads to a URL that is not http(s)")
        port = url.port or (443 if url.scheme == "https" else 80)
        address = _resolve(host, port, trusted=self._trusts(url.netloc.lower(), host))
        # The connection goes to the address that was checked: a second look-up could return another one.
        pool = urllib3.HTTPConnectionPool(address, port, timeout=5)
        if url.scheme == "https":
            pool = urllib3.HTTPSConnectionPool(address, port, timeout=5, server_hostname=host, assert_hostname=host)
        headers = {"Host": url.netloc, "Accept": "image/*", "Accept-Encoding": "identity"}
        path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        options: dict[str, Any] = {"redirect": False, "retries": False, "preload_content": False}
        try:
            with pool, contextlib.closing(pool.request("GET", path, headers=headers, **options)) as answer:
                location = answer.headers.get("Location")
                if answer.status in {301, 302, 303, 307, 308} and location:
                    return urllib.parse.urljoin(uri, location)
                if answer.status != 200:
                    raise BadInput(f"input_image can't be fetched: its server answered {answer.status}")
                return self._read(answer, deadline)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BadInput(f"input_image can't be fetched: {type(error).__name__}") from error

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
    if not trusted and not all(map(is_public_host, addresses)):
        raise BadInput("input_image leads to a private address, which is not fetched")
    return addresses[0]


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    if len(uri) > max_bytes * 4 // 3 + 100:
        raise BadInput(f"the image is larger than {max_bytes:,} bytes")
    try:
        with urllib.request.urlopen(uri) as data:  # noqa: S310 - the caller has checked that it is a data: URI
            content: bytes = data.read()
            return content
    except (OSError, ValueError) as error:
        raise BadInput(f"this is no valid data: URI: {error}") from None


def _inspect(data: bytes, *, max_pixels: int) -> tuple[str, int, int]:
    """Return (extension, upright width, upright height) of a picture that can be decoded to its end."""
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
    except Exception as error:
        raise BadInput(f"the image can't be read as one of {', '.join(FORMATS)}: {error}") from error
