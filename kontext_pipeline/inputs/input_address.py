"""What a request names as its input picture, and what follows from the kind of that address."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from kontext_pipeline.segmind.addresses import is_public_host


@dataclass(frozen=True)
class InputAddress:
    """An http(s), data or fsspec URI, or a local absolute path.

    `sha256` is the digest of the content where planning knows it: then only that content is meant.
    """

    uri: str
    sha256: str | None = None

    @cached_property
    def scheme(self) -> str:
        """The scheme in lower case: `http`, `https`, `data`, `file` (a local path too), or one of fsspec."""
        head, colon, rest = self.uri[:64].partition(":")
        if not colon or "/" in head or (not rest.startswith("//") and head.lower() != "data"):
            return "file"
        return {"local": "file"}.get(head.lower(), head.lower())

    @property
    def is_web(self) -> bool:
        """Whether it is an http(s) URL."""
        return self.scheme in {"http", "https"}

    @cached_property
    def host(self) -> str:
        """What is asked for the picture: a host, a bucket, or nothing but this machine."""
        if self.scheme in {"data", "file"}:
            return self.scheme
        try:
            return f"{self.scheme}://{urlsplit(self.uri).netloc.rpartition('@')[2].lower()}"
        except ValueError:
            return self.scheme

    @cached_property
    def is_public(self) -> bool:
        """Whether it is an http(s) URL whose host looks public: the provider can fetch it."""
        try:
            return self.is_web and is_public_host(urlsplit(self.uri).hostname or "")
        except ValueError:
            return False

    @cached_property
    def key(self) -> str:
        """The name of this address in the index: the URI itself, but for data URIs, which are as long as a picture."""
        if self.scheme == "data":
            return f"data:sha256={hashlib.sha256(self.uri.encode()).hexdigest()}"
        return self.uri

    @property
    def identity(self) -> str:
        """What tells this address and its content from others: short."""
        return self.key if self.sha256 is None else f"{self.sha256} {self.key}"

    def shown(self) -> str:
        """The address for a message: short, on one line."""
        text = self.uri if self.scheme != "data" else f"{self.uri[:40]}..."
        return text if len(text) <= 200 else f"{text[:197]}..."
