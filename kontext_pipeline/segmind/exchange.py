"""One exchange: a request is sent, its answer is read, and status and headers decide what it means.

The body of a success is judged elsewhere: JSON in `client.py`, pictures in `received_pictures.py`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import requests

from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome, meaning
from kontext_pipeline.segmind.pacing import retry_after
from kontext_pipeline.segmind.payloads import amount, error_text, job_state, metrics, one_line, request_id
from kontext_pipeline.segmind.spool import Received, Spool
from kontext_pipeline.segmind.transport import DisconnectedError, Reply, Transport

_USER_AGENT: Final = f"kontext-pipeline python-requests/{requests.__version__}"
_MAX_TEXT_BYTES: Final = 1 << 20
"""Of JSON that carries no picture, which takes some hundred bytes in practice."""
_MAX_ERROR_BYTES: Final = 1 << 16
_QUICK_CALLS: Final = frozenset({Call.POLL, Call.CREDITS})
"""Calls that a server answers at once."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request brought.

    `answer` follows from status and headers; its outcome is `SUCCEEDED` for every 2xx whose body is still to
    be judged. `content` is the body of an error or of JSON, `received` the body of a 2xx that was spooled.
    `failure` is why there is no answer, or only a part of its body.
    """

    answer: Answer
    content: bytes = b""
    received: Received | None = None
    failure: DisconnectedError | None = None


class Exchanger:
    """Sends the client's requests, with the headers and the deadline that each kind of call needs."""

    def __init__(
        self,
        transport: Transport,
        *,
        api_key: str,
        answer_timeout_s: float,
        poll_timeout_s: float,
        max_answer_bytes: int,
    ) -> None:
        """The arguments are those of `SegmindClient`."""
        self.key = api_key
        self._transport = transport
        self._answer_timeout_s = answer_timeout_s
        self._poll_timeout_s = min(poll_timeout_s, answer_timeout_s)
        self._max_answer_bytes = max_answer_bytes
        # Not compressed: pictures don't compress, and the length should be the one that was announced.
        self._download_headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._get_headers = {**self._download_headers, "x-api-key": api_key}
        self._post_headers = {**self._get_headers, "Content-Type": "application/json"}

    def send(self, call: Call, url: str, *, body: bytes | None = None, spool: Spool | None = None) -> Exchange:
        """Send a GET or, with a `body`, a POST, and read the answer. The body of a success goes to `spool`."""
        headers = self._post_headers
        if body is None:
            headers = self._download_headers if call is Call.DOWNLOAD else self._get_headers
        timeout_s = self._poll_timeout_s if call in _QUICK_CALLS else self._answer_timeout_s
        status: int | None = None
        answered: Mapping[str, str] = {}
        content = bytearray()
        failure = None
        try:
            method = "GET" if body is None else "POST"
            with self._transport.send(method, url, headers, body=body, timeout_s=timeout_s) as reply:
                status, answered = reply.status, reply.headers
                if not _succeeded(status):
                    _copy(reply, content.extend, _MAX_ERROR_BYTES)
                elif spool is None:
                    _copy(reply, content.extend, _MAX_TEXT_BYTES)
                else:
                    _copy(reply, spool.write, self._max_answer_bytes)
        except DisconnectedError as error:
            failure = error
        except BaseException:
            if spool is not None:
                spool.discard()
            raise
        received = spool.finish() if spool is not None and _succeeded(status) else None
        text = bytes(content)
        if status is None:
            assert failure is not None, "there is an answer or a failure"
            answer = self.fail(
                Answer(call, Outcome.LOST if failure.sent else Outcome.UNREACHABLE),
                cause=failure.cause,
                error=str(failure),
            )
        else:
            answer = self._judged(call, status, answered, text)
            if _succeeded(status) and failure is not None and received is None:
                answer = self.cut(answer, failure)
        return Exchange(answer, text, received, failure)

    def fail(self, answer: Answer, outcome: Outcome | None = None, *, cause: Cause, error: str) -> Answer:
        """Return `answer` with another outcome (None: the same), cause and error, without the key in it."""
        return replace(answer, outcome=outcome or answer.outcome, cause=cause, error=one_line(error, self.key))

    def cut(self, answer: Answer, failure: DisconnectedError) -> Answer:
        """Return `answer`, a success, as one whose body is incomplete.

        A POST may have been paid for. A GET can be repeated, but a file that is too large stays so.
        """
        unusable = answer.call in {Call.GENERATE, Call.SUBMIT} or (
            answer.call is Call.DOWNLOAD and failure.cause is Cause.ANSWER_TOO_LARGE
        )
        cause = Cause.CUT if failure.cause is Cause.CONNECTION_LOST else failure.cause
        outcome = Outcome.UNUSABLE if unusable else Outcome.LOST
        return self.fail(answer, outcome, cause=cause, error=f"the answer was cut: {failure}")

    def unknown_json(self, answer: Answer, missing: str, content: bytes) -> Answer:
        """Return `answer`, a success, as one whose JSON lacks what the call is about."""
        words = content[:_MAX_ERROR_BYTES].decode("utf-8", "replace")
        error = f"no {missing} in the answer: {words}"
        return self.fail(answer, Outcome.UNUSABLE, cause=Cause.UNKNOWN_JSON, error=error)

    def job_answer(self, answer: Answer, document: Any, content: bytes = b"") -> Answer:
        """Return `answer` with the state and the costs of the job that the JSON `document` describes."""
        answer = replace(answer, **metrics(document))
        state = job_state(document)
        if state is Outcome.REJECTED:
            error = error_text(json.dumps(document).encode(), self.key) or "the job failed"
            return self.fail(answer, state, cause=Cause.JOB_FAILED, error=error)
        if state is None:
            return self.unknown_json(answer, "known status", content)
        return replace(answer, outcome=state)

    def _judged(self, call: Call, status: int, headers: Mapping[str, str], content: bytes) -> Answer:
        answer = Answer(
            call,
            Outcome.SUCCEEDED,
            status_code=status,
            cost_usd=amount(headers.get("x-cost")),
            remaining_credits=amount(headers.get("x-remaining-credits")),
            request_id=request_id(headers.get("x-request-id"), self.key),
            generation_time_s=amount(headers.get("x-generation-time")),
            seed_value=_whole_number(headers.get("x-seed-value")),
        )
        if _succeeded(status):
            return answer
        text = error_text(content, self.key)
        outcome, cause = meaning(call, status, text)
        if cause is Cause.REDIRECTED:
            text = f"redirected to {headers.get('location') or 'nowhere'}, which is not followed {text}"
        answer = replace(answer, retry_after_s=retry_after(headers))
        return self.fail(answer, outcome, cause=cause, error=text or f"status {status} without a word")


def _succeeded(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _copy(reply: Reply, write: Callable[[bytes], Any], limit: int) -> None:
    """Read the body of `reply` and `write` at most `limit` bytes of it.

    Raises:
        DisconnectedError: the body is incomplete or larger.
    """
    size = 0
    for chunk in reply.chunks():
        write(chunk[: limit - size])
        size += len(chunk)
        if size > limit:
            raise DisconnectedError(f"it is larger than {limit:,} bytes", cause=Cause.ANSWER_TOO_LARGE, sent=True)


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,20}", text, re.ASCII) else None
