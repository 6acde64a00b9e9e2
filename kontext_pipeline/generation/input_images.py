"""Input images on the wire: how a request's input picture becomes something that the API can read.

The API takes URIs. A public URL and a data URI are sent as they are. Everything else is uploaded from the input store, once
for all runs until the upload expires, however many requests edit it. Where the API has no endpoint for uploads, the
picture travels inside the request, as a data URI.
"""

import base64
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from kontext_pipeline.generation.ledger.uploads import RememberedUploads
from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_collector import InputCollector
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import KeptInput
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.client import SegmindClient, UploadFailed, UploadUnsupported
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from kontext_pipeline.segmind.request import GenerationRequest


class InputUnavailable(Exception):
    """The input image can't be put on the wire. `answer` says why; no generation was requested."""

    def __init__(self, answer: Answer) -> None:
        """Carry the answer to the upload, or the one that stands for a picture that can't be had."""
        super().__init__(answer.error)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class WireInput:
    """The URI that is sent for an input picture, and the kept picture; None where there is none, or none was kept."""

    uri: str | None
    kept: KeptInput | None = None


class InputImages:
    """The input images of one run. Any number of threads may ask for them."""

    def __init__(
        self,
        client: SegmindClient,
        collector: InputCollector,
        *,
        remembered: RememberedUploads | None = None,
        pass_on: bool = False,
    ) -> None:
        """`client` uploads pictures of the `collector`.

        `remembered`: uploads of all runs; None: those of this run are forgotten at its end. `pass_on`: send public URLs
        and data URIs without looking at them.
        """
        self._client = client
        self._collector = collector
        self._remembered = remembered
        self._pass_on = pass_on
        self._uploads: dict[str, Future[str | None]] = {}
        self._lock = threading.Lock()

    def prepare(self, request: GenerationRequest, then: Callable[[], None]) -> bool:
        """Fetch a request's input picture ahead of need, and call `then` when `resolve` need not wait for it.

        Return False, and don't call, where there is nothing to fetch.
        """
        address = self._looked_at(request)
        if address is not None:
            self._collector.want(address, then)
        return address is not None

    def resolve(self, request: GenerationRequest) -> WireInput:
        """Return the URI of a request's input image, and the kept picture that it stands for.

        Raises:
            InputUnavailable: There is no usable picture, or it can't be uploaded.
            InputStoreFull: The picture can't be kept.
        """
        address = self._looked_at(request)
        if address is None:
            return WireInput(request.input_image)
        try:
            found = self._collector.get(address)
        except InputProblem as problem:
            raise _unavailable(problem.cause, f"input picture {address.shown()}: {problem}") from None
        uri = self._uploaded(found.kept) if found.upload else request.input_image
        return WireInput(uri, found.kept)

    def _looked_at(self, request: GenerationRequest) -> InputAddress | None:
        if request.input_image is None:
            return None
        address = InputAddress(request.input_image, request.input_sha256)
        as_it_is = address.sha256 is None and (address.is_public or address.scheme == "data")
        return None if self._pass_on and as_it_is else address

    def _uploaded(self, kept: KeptInput) -> str:
        sha256 = kept.sha256
        with self._lock:
            upload = self._uploads.get(sha256)
            mine = upload is None
            if upload is None:
                upload = self._uploads[sha256] = Future()
        if mine:
            try:
                upload.set_result(self._upload(kept))
            except BaseException as error:
                # The next request tries again.
                with self._lock:
                    del self._uploads[sha256]
                upload.set_exception(error)
                raise
        # Made for each request: a thousand images as text would fill the memory.
        return upload.result() or f"data:{kept.media_type};base64,{base64.b64encode(self._read(kept)).decode()}"

    def _upload(self, kept: KeptInput) -> str | None:
        """Return the URL of the upload of a picture, which may be an earlier run's; None where the API takes none."""
        remembered = self._remembered
        if remembered is not None and (known := remembered.find(kept.sha256)) is not None:
            return known
        try:
            url = self._client.upload(self._read(kept), kept.media_type)
        except UploadUnsupported:
            return None
        except UploadFailed as error:
            answer = error.answer
            if answer.outcome in (Outcome.LOST, Outcome.UNUSABLE):
                # An upload costs nothing, so a lost answer is like a server's error: try again.
                answer = replace(answer, outcome=Outcome.SERVER_ERROR)
            raise InputUnavailable(answer) from None
        if remembered is not None:
            remembered.note(kept.sha256, url)
        return url

    def _read(self, kept: KeptInput) -> bytes:
        try:
            return self._collector.keeper.store.read(kept)
        except Exception as error:  # noqa: BLE001  remote file systems raise their own
            words = getattr(error, "strerror", None) or str(error)
            raise _unavailable(Cause.INPUT_MISSING, f"kept input picture {kept.path}: {words}") from None


def _unavailable(cause: Cause, error: str) -> InputUnavailable:
    return InputUnavailable(Answer(call=Call.UPLOAD, outcome=Outcome.REJECTED, cause=cause, error=error[:500]))
