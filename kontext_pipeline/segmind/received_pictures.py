"""The picture in a success: the body itself, a picture inside JSON, or a file whose URL the JSON names.

What was paid for is never dropped: a success without a whole picture leaves its bytes in a file.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from kontext_pipeline.segmind.addresses import ApiAddresses
from kontext_pipeline.segmind.answers import Answer, Picture
from kontext_pipeline.segmind.exchange import Exchange, Exchanger
from kontext_pipeline.segmind.images import NotAPicture, inspect, inspect_bytes
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from kontext_pipeline.segmind.payloads import error_text, find_image, job_state, one_line, parse_json
from kontext_pipeline.segmind.spool import Received, Spool

DOWNLOAD_PAUSES_S: Final = (0.0, 0.5, 2.0)
"""Before each try to download a picture that a blocking call was billed for. Only this answer knows its URL, so
there is no later try; a GET costs nothing."""
_TRANSIENT: Final = frozenset({Outcome.SERVER_ERROR, Outcome.RATE_LIMITED, Outcome.LOST, Outcome.UNREACHABLE})
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Finds the picture in the answer of one call of `generate` or `fetch`.

    `exchanger`: for downloads. `addresses`: decides which URLs are downloaded. `new_spool`: makes the spools of
    further files.
    """

    exchanger: Exchanger
    addresses: ApiAddresses
    new_spool: Callable[..., Spool]

    def read(self, exchange: Exchange) -> Answer:
        """Return the answer of `exchange` with the picture that its body is or carries.

        Without a picture, the answer says what is wrong, and `remains` is the file of what came instead.
        """
        received = exchange.received
        if received is None:
            return exchange.answer
        answer = self._judged(exchange.answer, received)
        if answer.cause is Cause.NOT_A_PICTURE:
            content = received.start(received.size)
            document = parse_json(content)
            if document is not None:
                answer = replace(exchange.answer, spilled=received.spilled, **self.exchanger.metrics(document))
                return self._carried(answer, document, content, received)
        return answer if answer.picture else self._with_remains(answer, received)

    def _judged(self, answer: Answer, received: Received) -> Answer:
        """Return `answer` with the picture that the body is, or with what is wrong with the body."""
        answer = replace(answer, spilled=answer.spilled or received.spilled)
        try:
            info = inspect_bytes(received.data) if received.path is None else inspect(received.path)
        except (NotAPicture, OSError) as reason:
            if answer.outcome is not Outcome.SUCCEEDED:
                return answer
            if isinstance(reason, NotAPicture) and reason.cut:
                return self.exchanger.fail(answer, Outcome.UNUSABLE, Cause.CUT, str(reason))
            words = error_text(received.start(_HEAD_BYTES), self.exchanger.key)
            error = f"a success without a picture: {reason}; {words}"
            return self.exchanger.fail(answer, Outcome.UNUSABLE, Cause.NOT_A_PICTURE, error)
        if info.bytes < received.size:
            with suppress(OSError):
                received = received.first(info.bytes)
        data = received.data if received.path is None else None
        picture = Picture(received.path, data, received.sha256, received.size, info.format, info.width, info.height)
        return replace(answer, outcome=Outcome.SUCCEEDED, cause=Cause.NONE, error=None, picture=picture)

    def _carried(self, answer: Answer, document: Any, content: bytes, received: Received) -> Answer:
        """Return `answer` with the picture that the JSON `document`, parsed from `content`, carries."""
        if answer.call is Call.FETCH and job_state(document) in {Outcome.PENDING, Outcome.REJECTED}:
            received.discard()
            return self.exchanger.job_answer(answer, document, content)
        found = find_image(document)
        if isinstance(found, bytes):
            spool = self.new_spool()
            spool.write(found)
            embedded = spool.finish()
            answer = self._judged(answer, embedded)
            if answer.picture is None:
                embedded.discard()
        elif isinstance(found, str):
            answer = self._downloaded(answer, found)
        else:
            error = f"JSON without a picture: {error_text(content, self.exchanger.key)}"
            answer = self.exchanger.fail(answer, Outcome.UNUSABLE, Cause.NO_IMAGE, error)
        # The record of a job can be fetched again, the answer of a blocking call can't.
        if answer.picture is not None or (isinstance(found, str) and answer.call is Call.FETCH):
            received.discard()
            return answer
        return self._with_remains(answer, received)

    def _downloaded(self, answer: Answer, named_url: str) -> Answer:
        """Return `answer` with the picture at `named_url`."""
        try:
            url = self.addresses.output_url(named_url)
        except ValueError as reason:
            error = f"the picture's URL can't be used: {reason}"
            return self.exchanger.fail(answer, Outcome.UNUSABLE, Cause.BAD_OUTPUT_URL, error)
        if answer.call is not Call.GENERATE:
            return self._download(answer, url)
        for pause in DOWNLOAD_PAUSES_S:
            time.sleep(pause)
            downloaded = self._download(answer, url)
            if downloaded.picture is not None:
                return downloaded
            # The JSON remains instead: the URL in it is worth more than what was found there.
            if downloaded.remains is not None:
                with suppress(OSError):
                    downloaded.remains.unlink()
            may_pass = downloaded.outcome in _TRANSIENT or downloaded.cause is Cause.CUT
            if not may_pass or downloaded.cause in {Cause.ABORTED, Cause.CLIENT_CLOSED}:
                break
        # The call itself succeeded and is billed, whatever happened to its file.
        return replace(downloaded, outcome=Outcome.UNUSABLE, remains=None)

    def _download(self, answer: Answer, url: str) -> Answer:
        exchange = self.exchanger.send(Call.DOWNLOAD, url, spool=self.new_spool())
        file = exchange.answer
        if file.cause is Cause.FORBIDDEN_ADDRESS:
            file = replace(file, outcome=Outcome.UNUSABLE, cause=Cause.BAD_OUTPUT_URL)
        if exchange.received is not None:
            file = self._judged(file, exchange.received)
            if file.picture is None:
                file = self._with_remains(file, exchange.received)
        return replace(
            answer,
            outcome=file.outcome,
            cause=file.cause,
            status_code=file.status_code,
            error=file.error and one_line(f"the picture's file: {file.error}", self.exchanger.key),
            retry_after_s=file.retry_after_s,
            picture=file.picture,
            remains=file.remains,
            spilled=answer.spilled or file.spilled,
        )

    def _with_remains(self, answer: Answer, received: Received) -> Answer:
        """Return `answer` with the file that holds what was `received`."""
        if received.size == 0:
            received.discard()
            return answer
        content, key = received.start(received.size), self.exchanger.key.encode()
        if (received.path is None and not received.spilled) or key in content:
            received.discard()
            spool = self.new_spool(json_in_file=True)
            spool.write(content.replace(key, b"***"))
            received = spool.finish()
        return replace(answer, remains=received.path, spilled=answer.spilled or received.spilled)
