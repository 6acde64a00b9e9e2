"""The file store: uploads and fetched inputs on disk, named by their content, for a limited time and space.

The store has a temporary folder of its own, and finds files only through a table in memory. So a name from a URL
can't reach any other path.
"""

import hashlib
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store. `name` is its sha256 and its extension."""

    name: str
    path: Path
    size: int
    expires: float


class FileStore:
    """Files by the sha256 of their content. Safe to use from several threads."""

    def __init__(self, *, max_bytes: int, ttl_s: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kontext-sandbox-")
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._files: dict[str, StoredFile] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, extension: str) -> StoredFile:
        """Store `data` and return the file. A file that is there already gets a new expiry."""
        key = hashlib.sha256(data).hexdigest()
        path = Path(self._folder.name, f"{key}.{extension}")
        with self._lock:
            if self._files.pop(key, None) is None:
                path.write_bytes(data)
                self._bytes += len(data)
            file = self._files[key] = StoredFile(path.name, path, len(data), time.time() + self._ttl_s)
            while self._bytes > self._max_bytes and len(self._files) > 1:
                self._drop(next(iter(self._files)))
            return file

    def find(self, key: str) -> StoredFile | None:
        """Return the file with this sha256 if it has not expired."""
        with self._lock:
            file = self._files.get(key)
            if file is not None and time.time() > file.expires:
                self._drop(key)
                return None
            return file

    def read(self, name: str) -> bytes | None:
        """Return the content of the file called `name` (its sha256, with or without the extension), if it is there."""
        file = self.find(name.partition(".")[0])
        if file is None or name not in (file.name, file.path.stem):
            return None
        try:
            return file.path.read_bytes()
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Delete the folder and everything in it."""
        self._folder.cleanup()

    def _drop(self, key: str) -> None:
        file = self._files.pop(key)
        self._bytes -= file.size
        file.path.unlink(missing_ok=True)
