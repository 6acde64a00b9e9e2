"""Files on disk: uploads and fetched inputs, named by their content, for a limited time and space.

The store owns a temporary folder and knows files by a table in memory alone: a name from a URL is only
ever looked up in it, so no path of the host can be reached.
"""

import hashlib
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store: `name` is its sha256 and extension."""

    name: str
    path: Path
    size: int
    expires: float


class FileStore:
    """Content-addressed files. Safe to use from several threads."""

    def __init__(self, *, max_bytes: int, ttl_s: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kontext-sandbox-")
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._files: OrderedDict[str, StoredFile] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, extension: str) -> StoredFile:
        """Store `data` (again: its time starts anew) and return the file."""
        key = hashlib.sha256(data).hexdigest()
        path = Path(self._folder.name, f"{key}.{extension}")
        with self._lock:
            if key not in self._files:
                path.write_bytes(data)
                self._bytes += len(data)
            self._files[key] = StoredFile(path.name, path, len(data), time.time() + self._ttl_s)
            self._files.move_to_end(key)
            while self._bytes > self._max_bytes and len(self._files) > 1:
                self._drop(next(iter(self._files)))
            return self._files[key]

    def find(self, key: str) -> StoredFile | None:
        """Return the file with this sha256 if it's there and hasn't expired."""
        with self._lock:
            file = self._files.get(key)
            if file is not None and time.time() > file.expires:
                self._drop(key)
                return None
            return file

    def read(self, name: str) -> bytes | None:
        """Return the bytes of the file called `name` (sha256, with or without its extension), if it's there."""
        file = self.find(name.partition(".")[0])
        if file is None or name not in (file.name, file.path.stem):
            return None
        try:
            return file.path.read_bytes()
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Delete the folder with everything in it."""
        self._folder.cleanup()

    def _drop(self, key: str) -> None:
        file = self._files.pop(key)
        self._bytes -= file.size
        file.path.unlink(missing_ok=True)
