"""Input pictures on the wire: how a local file becomes something the API can read.

The provider takes URIs. A local picture is uploaded once a run, however many rows edit it; where the
API has no such endpoint it travels inside the request as a data URI.
"""

import base64
import hashlib
import mimetypes
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.client import SegmindClient, UploadFailed, UploadUnsupported
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from kontext_pipeline.segmind.request import GenerationRequest


class InputUnavailable(Exception):
    """The input picture can't be put on the wire; `answer` says why, and nothing was sent."""

    def __init__(self, answer: Answer) -> None:
        """Carry what came of the attempt to upload it."""
        super().__init__(answer.error)
        self.answer = answer


class InputImages:
    """The URIs of one run's input pictures. Any number of threads may ask."""

    def __init__(self, client: SegmindClient) -> None:
        """Nothing is uploaded yet."""
        self._client = client
        self._uploads: dict[str, Future[str | None]] = {}
        self._lock = threading.Lock()

    def uri(self, request: GenerationRequest) -> str | None:
        """Return what the request's `input_image` is on the wire; None is text-to-image.

        Raises:
            InputUnavailable: the file is gone or was changed since it was planned, or can't be uploaded.
        """
        if request.input_image is None or request.input_sha256 is None:
            return request.input_image
        with self._lock:
            upload = self._uploads.get(request.input_sha256)
            mine = upload is None
            if upload is None:
                upload = self._uploads[request.input_sha256] = Future()
        if mine:
            try:
                upload.set_result(self._upload(request))
            except BaseException as error:
                with self._lock:
                    del self._uploads[request.input_sha256]
                upload.set_exception(error)
                raise
        return upload.result() or self._data_uri(request)

    def _upload(self, request: GenerationRequest) -> str | None:
        data = self._read(request)
        try:
            return self._client.upload(data, _media_type(request))
        except UploadUnsupported:
            return None
        except UploadFailed as error:
            raise InputUnavailable(_harmless(error.answer)) from None

    def _data_uri(self, request: GenerationRequest) -> str:
        # Made anew for each request: a thousand pictures kept as text would fill the memory.
        return f"data:{_media_type(request)};base64,{base64.b64encode(self._read(request)).decode()}"

    def _read(self, request: GenerationRequest) -> bytes:
        assert request.input_image is not None
        try:
            data = Path(request.input_image).read_bytes()
        except OSError as error:
            raise _unavailable(Cause.INPUT_MISSING, f"{request.input_image}: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != request.input_sha256:
            raise _unavailable(
                Cause.INPUT_CHANGED,
                f"{request.input_image} was changed since it was planned: plan again, and its rows ask for new pictures",
            )
        return data


def _media_type(request: GenerationRequest) -> str:
    return mimetypes.guess_type(str(request.input_image))[0] or "image/png"


def _harmless(answer: Answer) -> Answer:
    """An upload costs nothing: one that was lost may simply be made again, as after a server's error."""
    if answer.outcome in (Outcome.LOST, Outcome.UNUSABLE):
        return replace(answer, outcome=Outcome.SERVER_ERROR)
    return answer


def _unavailable(cause: Cause, error: str) -> InputUnavailable:
    return InputUnavailable(Answer(call=Call.UPLOAD, outcome=Outcome.REJECTED, cause=cause, error=error))
