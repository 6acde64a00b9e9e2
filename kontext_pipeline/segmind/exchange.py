"""One exchange: a request is sent, its answer is read, and status and headers decide what it means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import requests

from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.contradictions import Contradictions
from kontext_pipeline.segmind.model import HIGHEST_COST_USD, LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome, meaning
from kontext_pipeline.segmind.pacing import retry_after
from kontext_pipeline.segmind.payloads import (
    MAX_JSON_BYTES,
    amount,
    error_text,
    job_state,
    number,
    one_line,
    request_id,
)
from kontext_pipeline.segmind.spool import Received, Spool
from kontext_pipeline.segmind.transport import DisconnectedError, Reply, Transport

_USER_AGENT: Final = f"kontext-pipeline python-requests/{requests.__version__}"
_LONGEST_JOB_S: Final = 86_400.0
"""Longest time of a job that is believed, seconds."""
_MAX_ERROR_BYTES: Final = 1 << 16
_QUICK_CALLS: Final = frozenset({Call.POLL, Call.CREDITS})
"""Calls that a server answers at once."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one request brought.

    `answer` follows from status and headers; its outcome is `SUCCEEDED` for every 2xx whose body is still to
    be judged. `content` is the body of an error or of JSON, `received` the body of a 2xx that was spooled.
    """

    answer: Answer
    content: bytes = b""
    received: Received | None = None


class Exchanger:
    """Sends the client's requests, with the headers and the deadline that each kind of call needs."""

    def __init__(
        self, transport: Transport, api_key: str, *, answer_timeout_s: float, poll_timeout_s: float, max_bytes: int
    ) -> None:
        """The arguments are those of `SegmindClient`; `max_bytes` is its `max_answer_bytes`."""
        self.key = api_key
        self.contradictions = Contradictions()
        self._transport = transport
        self._answer_timeout_s = answer_timeout_s
        self._poll_timeout_s = poll_timeout_s
        self._max_answer_bytes = max_bytes
        # Not compressed: pictures don't compress, and the length should be the one that was announced.
        self._download_headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._get_headers = {**self._download_headers, "x-api-key": api_key}
        self._post_headers = {**self._get_headers, "Content-Type": "application/json"}

    def send(self, call: Call, url: str, *, body: bytes | None = None, spool: Spool | None = None) -> Exchange:
        """Send a GET or, with a `body`, a POST, and read the answer. The body of a success goes to `spool`."""
        method, headers = "POST", self._post_headers
        if body is None:
            method, headers = "GET", self._download_headers if call is Call.DOWNLOAD else self._get_headers
        timeout_s = self._poll_timeout_s if call in _QUICK_CALLS else self._answer_timeout_s
        status: int | None = None
        answered: Mapping[str, str] = {}
        content = bytearray()
        failure = None
        try:
            with self._transport.send(method, url, headers, body=body, timeout_s=timeout_s) as reply:
                status, answered = reply.response.status_code, reply.response.headers
                if not _succeeded(status):
                    _copy(reply, content.extend, _MAX_ERROR_BYTES)
                elif spool is None:
                    _copy(reply, content.extend, MAX_JSON_BYTES)
                else:
                    _copy(reply, spool.write, self._max_answer_bytes, with_rest=not spool.holds_json)
        except DisconnectedError as error:
            failure = error
        except BaseException:
            if spool is not None:
                spool.discard()
            raise
        received = spool.finish() if spool is not None and _succeeded(status) else None
        text = bytes(content)
        if status is not None:
            answer = self._judged(call, status, answered, text)
            if _succeeded(status) and failure is not None:
                answer = self._cut(answer, failure)
        else:
            assert failure is not None, "there is an answer or a failure"
            outcome = Outcome.LOST if failure.sent else Outcome.UNREACHABLE
            answer = Answer(call, outcome, failure.cause, error=one_line(str(failure), self.key))
        return Exchange(answer, text, received)

    def fail(self, answer: Answer, outcome: Outcome, cause: Cause, error: str) -> Answer:
        """Return `answer` with another outcome, cause and error. The key is removed from the error."""
        return replace(answer, outcome=outcome, cause=cause, error=one_line(error, self.key))

    def unknown_json(self, answer: Answer, missing: str, content: bytes) -> Answer:
        """Return `answer`, a success, as one whose JSON lacks what the call is about."""
        error = f"no {missing} in the answer: {content.decode('utf-8', 'replace')}"
        return self.fail(answer, Outcome.UNUSABLE, Cause.UNKNOWN_JSON, error)

    def job_answer(self, answer: Answer, document: Any, content: bytes) -> Answer:
        """Return `answer` with state and costs of the job that the JSON `document`, parsed `content`, describes."""
        state = job_state(document)
        answer = replace(answer, outcome=state or Outcome.UNUSABLE, **self.metrics(document))
        if state is Outcome.REJECTED:
            return self.fail(answer, state, Cause.JOB_FAILED, error_text(content, self.key))
        return answer if state else self.unknown_json(answer, "known status", content)

    def metrics(self, document: Any) -> dict[str, Any]:
        """Return the fields of `Answer` that the `metrics` of the JSON `document` name: USD and seconds."""
        named = document.get("metrics") if isinstance(document, dict) else None
        if not isinstance(named, dict):
            return {}
        found = {
            "cost_usd": self._cost(named.get("cost")),
            "total_time_s": amount(named.get("total_time"), _LONGEST_JOB_S),
        }
        return {field: value for field, value in found.items() if value is not None}

    def _cost(self, named: Any) -> float | None:
        """Return the cost that an answer names, USD, or None where it names none that can be true."""
        cost = amount(named, HIGHEST_COST_USD)
        if cost is None and named is not None:
            words = one_line(str(named)[:100], self.key)
            self.contradictions.note(
                "cost",
                f"an answer names a cost of {words!r}, and 0 to {HIGHEST_COST_USD:g} USD is believed: the price of "
                f"{LIST_PRICE_USD:g} USD is taken, as an estimate",
            )
        return cost

    def _cut(self, answer: Answer, failure: DisconnectedError) -> Answer:
        # A POST may have been paid for. A GET can be repeated, but a file that is too large stays so.
        unusable = answer.call in {Call.GENERATE, Call.SUBMIT} or (
            answer.call is Call.DOWNLOAD and failure.cause is Cause.ANSWER_TOO_LARGE
        )
        cause = Cause.CUT if failure.cause is Cause.CONNECTION_LOST else failure.cause
        outcome = Outcome.UNUSABLE if unusable else Outcome.LOST
        return self.fail(answer, outcome, cause, f"the answer was cut: {failure}")

    def _judged(self, call: Call, status: int, headers: Mapping[str, str], content: bytes) -> Answer:
        answer = Answer(
            call,
            Outcome.SUCCEEDED,
            status_code=status,
            cost_usd=self._cost(headers.get("x-cost")),
            request_id=request_id(headers.get("x-request-id"), self.key),
            seed=_integer(headers.get("x-seed-value")),
        )
        if _succeeded(status):
            return answer
        text = error_text(content, self.key)
        outcome, cause = meaning(call, status, text)
        if cause is Cause.REDIRECTED:
            text = f"redirected to {headers.get('location') or 'nowhere'}, which is not followed {text}"
        answer = replace(answer, retry_after_s=retry_after(headers))
        return self.fail(answer, outcome, cause, text or f"status {status} without a word")


def _succeeded(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _integer(text: str | None) -> int | None:
    found = number(text)
    return int(found) if found is not None and found.is_integer() else None


def _copy(reply: Reply, write: Callable[[bytes], Any], limit: int, *, with_rest: bool = False) -> None:
    """Read the body of `reply` and `write` at most `limit` bytes of it.

    `with_rest`: what follows the announced length, too.

    Raises:
        DisconnectedError: the body is incomplete or larger.
    """
    size = 0
    for chunk in chain(reply.chunks(), reply.rest() if with_rest else ()):
        write(chunk[: limit - size])
        size += len(chunk)
        if size > limit:
            raise DisconnectedError(f"it is larger than {limit:,} bytes", cause=Cause.ANSWER_TOO_LARGE, sent=True)
