"""Input images on the wire: how a local file becomes something that the API can read.

The API takes URIs. A local file is uploaded once a run, however many requests edit it. Where the API has no endpoint for
uploads, the file travels inside the request, as a data URI.
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
    """The input image can't be put on the wire. `answer` says why; no generation was requested."""

    def __init__(self, answer: Answer) -> None:
        """Carry the answer to the upload, or the one that stands for a file that can't be read."""
        super().__init__(answer.error)
        self.answer = answer


class InputImages:
    """The URIs of one run's input images. Any number of threads may ask for them."""

    def __init__(self, client: SegmindClient) -> None:
        """`client` uploads them."""
        self._client = client
        self._uploads: dict[str, Future[str | None]] = {}
        self._lock = threading.Lock()

    def uri(self, request: GenerationRequest) -> str | None:
        """Return the URI of a request's input image; None for a request without one.

        Raises:
            InputUnavailable: The file does not exist, was changed since it was planned, or can't be uploaded.
        """
        sha256 = request.input_sha256
        if request.input_image is None or sha256 is None:
            return request.input_image
        with self._lock:
            upload = self._uploads.get(sha256)
            mine = upload is None
            if upload is None:
                upload = self._uploads[sha256] = Future()
        if mine:
            try:
                upload.set_result(self._upload(request))
            except BaseException as error:
                # The next request tries again.
                with self._lock:
                    del self._uploads[sha256]
                upload.set_exception(error)
                raise
        return upload.result() or _data_uri(request)

    def _upload(self, request: GenerationRequest) -> str | None:
        """Upload the file and return its URL, or None where the API takes no uploads."""
        data = _read(request)
        try:
            return self._client.upload(data, _media_type(request))
        except UploadUnsupported:
            return None
        except UploadFailed as error:
            answer = error.answer
            if answer.outcome in (Outcome.LOST, Outcome.UNUSABLE):
                # An upload costs nothing, so a lost answer is like a server's error: try again.
                answer = replace(answer, outcome=Outcome.SERVER_ERROR)
            raise InputUnavailable(answer) from None


def _data_uri(request: GenerationRequest) -> str:
    # Made for each request: a thousand images as text would fill the memory.
    return f"data:{_media_type(request)};base64,{base64.b64encode(_read(request)).decode()}"


def _read(request: GenerationRequest) -> bytes:
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


def _unavailable(cause: Cause, error: str) -> InputUnavailable:
    return InputUnavailable(Answer(call=Call.UPLOAD, outcome=Outcome.REJECTED, cause=cause, error=error))
