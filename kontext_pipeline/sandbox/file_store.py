"""The file store: uploads and fetched inputs on disk, named by their content, for a limited time and space."""

import hashlib
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"([0-9a-f]{64})(\.[a-z]+)?")
"""The only names that are looked up, so that no other path can be reached."""


class FileStore:
    """Files by the sha256 of their content, in a temporary folder. Safe to use from several threads."""

    def __init__(self, *, max_bytes: int, ttl_s: float) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="kontext-sandbox-")
        self._folder = Path(self._temporary.name)
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._lock = threading.Lock()

    def put(self, data: bytes, extension: str) -> None:
        """Store `data`; beyond `max_bytes` the oldest files are deleted. A file that is there gets a new expiry."""
        with self._lock:
            (self._folder / f"{hashlib.sha256(data).hexdigest()}.{extension}").write_bytes(data)
            oldest_first = sorted(
                (path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.iterdir()
            )
            total = sum(size for _, size, _ in oldest_first)
            for _, size, path in oldest_first[:-1]:
                if total > self._max_bytes:
                    path.unlink()
                    total -= size

    def find(self, name: str) -> Path | None:
        """Return the file with this name (its sha256, with or without the extension) if it has not expired."""
        match = _NAME.fullmatch(name)
        paths = self._folder.glob(f"{match[1]}{match[2] or '.*'}") if match else []
        now = time.time()
        return next((path for path in paths if path.stat().st_mtime + self._ttl_s > now), None)

    def read(self, name: str) -> bytes | None:
        """Return the content of the file with this name if it has not expired."""
        with self._lock:
            path = self.find(name)
            return None if path is None else path.read_bytes()

    def close(self) -> None:
        """Delete the folder and everything in it."""
        self._temporary.cleanup()
