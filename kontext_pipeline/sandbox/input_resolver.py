"""Input images: from the URI of a request to a picture that can be drawn from.

Everything from outside is bounded here: bytes, pixels, seconds, redirects, and the addresses to which a URL may lead.
"""

import contextlib
import hashlib
import io
import socket
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3
from PIL import ExifTags, Image

from kontext_pipeline.sandbox.config import SandboxConfig
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
    extension: str = ""

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.key}.{self.extension}"


class InputResolver:
    """Resolves the `input_image` of requests, and keeps pictures on disk for a limited time and space.

    Its methods block: call them in a thread.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._temporary = tempfile.TemporaryDirectory(prefix="kontext-sandbox-")
        self._folder = Path(self._temporary.name)
        self._kept: dict[str, tuple[InputImage, int, float]] = {}
        """By sha256: each picture, its bytes and its expiry; the oldest first."""
        self._lock = threading.Lock()

    def resolve(self, uri: str, own_hosts: frozenset[str]) -> InputImage:
        """Return the picture at `uri`. `own_hosts` are the sandbox's own `host:port`.

        Raises:
            BadInput: there is no picture, it may not be fetched, or it is too large.
        """
        scheme = uri[:8].partition(":")[0].lower()
        if scheme == "data":
            return self.keep_data_uri(uri)
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
            kept = self._find(url.path.removeprefix("/files/uploads/"))
            if kept is None:
                raise BadInput("input_image is no file of this server, or it has expired")
            return kept
        if host != DEMO_HOST and (self._config.fetch_inputs or self._trusts(netloc, host)):
            return self.keep(self._fetch(uri))
        if not is_public_host(host):
            raise BadInput("input_image leads to a private address, which is not fetched")
        digest = hashlib.sha256(uri.encode("utf-8", "replace")).hexdigest()
        return InputImage(f"stand-in:{digest}", *STAND_IN_SIZE, host)

    def keep_data_uri(self, uri: str) -> InputImage:
        """Keep the picture of a data: URI and return it.

        Raises:
            BadInput: it is no picture, or it is too large.
        """
        if len(uri) > self._config.max_input_bytes * 4 // 3 + 100:
            raise BadInput(f"the image is larger than {self._config.max_input_bytes:,} bytes")
        try:
            with urllib.request.urlopen(uri) as data:  # noqa: S310 - the callers have checked that it is a data: URI
                return self.keep(data.read())
        except (OSError, ValueError) as error:
            raise BadInput(f"this is no valid data: URI: {error}") from None

    def keep(self, data: bytes) -> InputImage:
        """Keep a picture and return it; the oldest ones are deleted beyond `store_bytes`.

        Raises:
            BadInput: it is no picture, or it is too large.
        """
        if len(data) > self._config.max_input_bytes:
            raise BadInput(f"the image is larger than {self._config.max_input_bytes:,} bytes")
        key = hashlib.sha256(data).hexdigest()
        kept = self._kept.get(key)
        image = kept[0] if kept is not None else _inspect(data, key, max_pixels=self._config.max_input_pixels)
        with self._lock:
            if self._kept.pop(key, None) is None:
                (self._folder / image.file_name).write_bytes(data)
            self._kept[key] = image, len(data), time.time() + self._config.file_ttl_s
            while len(self._kept) > 1 and sum(size for _, size, _ in self._kept.values()) > self._config.store_bytes:
                oldest, *_ = self._kept.pop(next(iter(self._kept)))
                (self._folder / oldest.file_name).unlink()
        return image

    def _find(self, name: str) -> InputImage | None:
        """Return the kept picture with this file name, unless it has expired."""
        kept = self._kept.get(name.partition(".")[0])
        return kept[0] if kept is not None and kept[0].file_name == name and time.time() < kept[2] else None

    def read(self, name: str) -> bytes | None:
        """Return the content of the kept picture with this file name, unless it has expired."""
        with self._lock:
            image = self._find(name)
            return None if image is None else (self._folder / image.file_name).read_bytes()

    def close(self) -> None:
        """Delete every kept picture."""
        self._temporary.cleanup()

    def _trusts(self, netloc: str, host: str) -> bool:
        return not {netloc, host}.isdisjoint(self._config.trusted_input_hosts)

    def _fetch(self, uri: str) -> bytes:
        deadline = time.monotonic() + FETCH_SECONDS
        try:
            for _ in range(MAX_REDIRECTS + 1):
                with contextlib.closing(self._request(uri)) as answer:
                    location = answer.get_redirect_location()
                    if not location:
                        return self._read(answer, deadline)
                    uri = urllib.parse.urljoin(uri, location)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BadInput(f"input_image can't be fetched: {type(error).__name__}") from error
        raise BadInput(f"input_image redirects more than {MAX_REDIRECTS} times")

    def _request(self, uri: str) -> urllib3.BaseHTTPResponse:
        url = urllib.parse.urlsplit(uri)
        host = url.hostname
        if url.scheme not in {"http", "https"} or not host:
            raise BadInput("input_image leads to a URL that is not http(s)")
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if not self._trusts(url.netloc.lower(), host) and not all(map(is_public_host, addresses)):
            raise BadInput("input_image leads to a private address, which is not fetched")
        # The connection goes to the address that was checked: a second look-up could return another one.
        pool = urllib3.HTTPConnectionPool(addresses[0], port, timeout=5)
        if url.scheme == "https":
            pool = urllib3.HTTPSConnectionPool(
                addresses[0], port, timeout=5, server_hostname=host, assert_hostname=host
            )
        headers = {"Host": url.netloc, "Accept": "image/*", "Accept-Encoding": "identity"}
        path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        options: dict[str, Any] = {"redirect": False, "retries": False, "preload_content": False}
        return pool.request("GET", path, headers=headers, **options)

    def _read(self, answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        if answer.status != 200:
            raise BadInput(f"input_image can't be fetched: its server answered {answer.status}")
        body = bytearray()
        # `keep` refuses what is larger.
        while len(body) <= self._config.max_input_bytes and (chunk := answer.read1(65536, decode_content=False)):
            body += chunk
            if time.monotonic() > deadline:
                raise BadInput(f"input_image can't be fetched within {FETCH_SECONDS:g} seconds")
        return bytes(body)


def _inspect(data: bytes, key: str, *, max_pixels: int) -> InputImage:
    """Return a picture that can be decoded to its end, with its upright width and height."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadInput(f"the image has {width} x {height} pixels; {max_pixels:,} are allowed")
                image.load()
                # These EXIF orientations turn it by a quarter.
                if image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9):
                    width, height = height, width
                return InputImage(key, width, height, extension=FORMATS[image.format or ""])
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"the image can't be read as one of {', '.join(FORMATS)}: {error}") from error
