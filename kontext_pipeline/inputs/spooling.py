"""Bytes that arrive: written to a file while they are hashed, and cut off at a bound."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStore
from kontext_pipeline.segmind.outcomes import Cause


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought. The bytes are in the file that it was given.

    `sha256` is None where the content is that of the version that was asked about. `etag` and `last_modified` name the
    version; `private`: only this network can reach the address.
    """

    sha256: str | None
    etag: str | None = None
    last_modified: str | None = None
    private: bool = False


@dataclass(frozen=True, slots=True)
class Spool:
    """A file for bytes that arrive, and the most that it takes."""

    store: InputStore
    path: Path
    max_bytes: int

    def check_size(self, size: int) -> None:
        """Raise an `InputProblem` where `size` bytes are more than are taken."""
        if size > self.max_bytes:
            raise self._too_large(f"has {size / 2**20:,.1f} MB;")

    def write(self, chunks: Iterable[bytes]) -> str:
        """Write the chunks and return their sha256 (64 hex digits).

        Raises:
            InputProblem: there are more bytes than are taken. The rest was not read.
            InputStoreFull: the file can't be written.
        """
        digest, size = hashlib.sha256(), 0
        with self.store.writing():
            file = self.path.open("wb")
        with file:
            for chunk in chunks:
                size += len(chunk)
                if size > self.max_bytes:
                    raise self._too_large("is larger:")
                digest.update(chunk)
                with self.store.writing():
                    file.write(chunk)
            with self.store.writing():
                file.flush()
        return digest.hexdigest()

    def _too_large(self, size: str) -> InputProblem:
        limit = f"at most {self.max_bytes / 2**20:g} MB are allowed (KONTEXT_INPUT_MAX_MB)"
        return InputProblem(Cause.INPUT_UNSUITABLE, f"it {size} {limit}")
