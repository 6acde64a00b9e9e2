"""The content of a manifest of text as a stream: decompressed, and bounded while it is read."""

import gzip
import io
from typing import IO, Final

from kontext_pipeline.files import AnyPath
from kontext_pipeline.planning.manifest_options import ManifestOptions

_TAIL_BYTES: Final = 64


class ContentStream(io.RawIOBase):
    """The bytes of a file, decompressed if its name ends in `.gz`.

    `last_byte` is the last byte that isn't white space, among those that were read.
    """

    def __init__(self, path: AnyPath, options: ManifestOptions) -> None:
        """Open a file. Reading more than `options.max_bytes` raises a `TooLargeError`."""
        super().__init__()
        self._options = options
        self._file: IO[bytes] = path.open("rb")
        self._content: IO[bytes] = self._file
        if path.suffix.lower() == ".gz":
            self._content = gzip.GzipFile(fileobj=self._file)  # type: ignore[assignment]
        self._count = 0
        self.last_byte = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        """Read up to the size of `buffer`, and return how many bytes there were."""
        count: int = self._content.readinto(buffer)  # type: ignore[attr-defined]
        self._count += count
        self._options.check_bytes(self._count)
        view = memoryview(buffer)[:count]
        end = bytes(view[-_TAIL_BYTES:]).rstrip() or bytes(view).rstrip()
        self.last_byte = end[-1:] or self.last_byte
        return count

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._content.close()
            self._file.close()
        super().close()
