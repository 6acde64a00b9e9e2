"""A client without a network: its calls return what a test has prepared, and are recorded."""

import hashlib
import struct
import zlib
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kontext_pipeline.segmind.answers import Answer, Job, Picture
from kontext_pipeline.segmind.client import UploadFailed, UploadUnsupported
from kontext_pipeline.segmind.outcomes import Call, Outcome
from kontext_pipeline.segmind.spool import HeldFile

Step = Answer | Outcome | Callable[[], Answer]
"""What a call returns. An `Outcome` is an answer that says nothing else; a callable is called within the call."""


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0" + bytes(6)))
    + _chunk(b"IEND", b"")
)
"""A whole picture of 2 x 1 pixels."""


def picture_in(spool: Path, name: str) -> Picture:
    """Write the picture into the spool, as the client does while an answer arrives."""
    path = spool / f"{name}.{len(list(spool.iterdir()))}.part"
    path.write_bytes(PNG)
    return Picture(path, None, hashlib.sha256(PNG).hexdigest(), len(PNG), "png", 2, 1)


class ScriptedClient:
    """Has the methods of `SegmindClient` that the stages call. An answer SUCCEEDED brings a picture."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, str]] = []
        """Each call, with the fingerprint, the prompt or the request id that it was about."""
        self.bodies: list[dict[str, Any]] = []
        self.closed = False
        self._script: defaultdict[Call, deque[Step]] = defaultdict(deque)

    def on(self, call: Call, *steps: Step) -> None:
        """Let the next calls of a kind return these, in order."""
        self._script[call].extend(steps)

    def count(self, call: Call) -> int:
        return sum(kind is call for kind, _ in self.calls)

    def generate(self, body: dict[str, Any], spool: Path, name: str = "", held: HeldFile | None = None) -> Answer:
        self.bodies.append(body)
        return self._with_picture(self._next(Call.GENERATE, name), spool, name)

    def submit(self, body: dict[str, Any]) -> Answer:
        self.bodies.append(body)
        return self._next(Call.SUBMIT, body["prompt"])

    def poll(self, job: Job) -> Answer:
        return self._next(Call.POLL, job.request_id)

    def fetch(self, job: Job, spool: Path, name: str = "") -> Answer:
        return self._with_picture(self._next(Call.FETCH, job.request_id), spool, name)

    def upload(self, data: bytes, media_type: str) -> str:
        answer = self._next(Call.UPLOAD, media_type)
        if answer.outcome is Outcome.UNSUPPORTED:
            raise UploadUnsupported("no such endpoint")
        if answer.outcome is not Outcome.SUCCEEDED:
            raise UploadFailed("the upload failed", answer)
        return f"https://uploads.example/{hashlib.sha256(data).hexdigest()}"

    def close(self) -> None:
        self.closed = True

    def _next(self, call: Call, about: str) -> Answer:
        self.calls.append((call, about))
        assert self._script[call], f"no answer was prepared for this {call}"
        step = self._script[call].popleft()
        if isinstance(step, Outcome):
            return Answer(call=call, outcome=step)
        return step if isinstance(step, Answer) else step()

    @staticmethod
    def _with_picture(answer: Answer, spool: Path, name: str) -> Answer:
        if answer.outcome is Outcome.SUCCEEDED and answer.picture is None:
            return replace(answer, picture=picture_in(spool, name))
        return answer
