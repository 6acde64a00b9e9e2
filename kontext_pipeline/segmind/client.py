"""The calls: one method each, one answer each, nothing tried twice that could cost money twice.

Belongs here: addresses, headers, and putting an `Answer` together from what arrived. Not here: waiting,
trying again, spending limits, storing.
"""

import base64
import json
import math
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import requests

from kontext_pipeline.errors import KontextError, SettingsError
from kontext_pipeline.segmind.answers import Answer, Credits, Job, Picture
from kontext_pipeline.segmind.hosts import is_inside
from kontext_pipeline.segmind.images import ImageInfo, NotAPicture, inspect, inspect_bytes
from kontext_pipeline.segmind.model import MODEL
from kontext_pipeline.segmind.outcomes import Call, Outcome, meaning
from kontext_pipeline.segmind.pacing import retry_after
from kontext_pipeline.segmind.payloads import (
    Embedded,
    Link,
    error_text,
    find_image,
    one_line,
    parse_json,
    starts_like_json,
)
from kontext_pipeline.segmind.spool import Received, Spool
from kontext_pipeline.segmind.transport import DisconnectedError, Reply, Transport

DEFAULT_BASE_URL: Final = "https://api.segmind.com"
_DEFAULT_UPLOAD_URL: Final = "https://workflows-api.segmind.com/upload-asset"

_MAX_TEXT_BYTES: Final = 1 << 20
"""Of JSON that carries no picture: some hundred bytes in practice."""
_MAX_ERROR_BYTES: Final = 1 << 16
_DOWNLOAD_PAUSES_S: Final = (0.0, 0.5, 2.0)
"""Before each try to get a picture that a blocking call has already been billed for and that only this
answer knows of. A GET costs nothing, and there is no later."""

_PASSING: Final = frozenset({Outcome.SERVER_ERROR, Outcome.RATE_LIMITED, Outcome.LOST, Outcome.UNREACHABLE})
"""What a moment later may be otherwise."""

_WAITING: Final = frozenset(
    {"QUEUED", "PENDING", "IN_QUEUE", "STARTING", "PROCESSING", "RUNNING", "IN_PROGRESS"}
)
_READY: Final = frozenset({"COMPLETED", "SUCCEEDED", "SUCCESS"})
_FAILED: Final = frozenset({"FAILED", "ERROR", "CANCELLED", "CANCELED"})
_REQUEST_ID: Final = re.compile(r"[!-~]{1,200}")
_UNSAFE_IN_URL: Final = re.compile(r"[^!-~]|[\\@]")


class UploadUnsupported(KontextError):
    """This server takes no uploads; a data URI in the request does instead."""


class UploadFailed(KontextError):
    """An upload did not succeed. Nothing was billed; `answer` says what came of it."""

    def __init__(self, message: str, answer: Answer) -> None:
        """`answer`: what came of the call."""
        super().__init__(message)
        self.answer = answer


@dataclass(slots=True)
class _Arrived:
    """One exchange: an answer's status, headers and body, or that none came."""

    call: Call
    status: int | None = None
    headers: Mapping[str, str] | None = None
    content: bytes = b""
    """Of errors and of JSON that was asked for without a spool."""
    received: Received | None = None
    """Of a success that was asked for with one."""
    failure: DisconnectedError | None = None
    """Why there is no answer or not all of it."""

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        return None if self.headers is None else self.headers.get(name)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the file of a picture is to be made: the folder, and what its name begins with."""

    folder: Path
    name: str


class SegmindClient:
    """The API, for any number of threads. A context manager; leaving it closes it.

    What the network, the server or the disk does never raises: it is in the answer. The key is in one
    header of the calls to the API and the upload address, and nowhere else.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        upload_url: str | None = None,
        connect_timeout_s: float = 10.0,
        answer_timeout_s: float = 300.0,
        poll_timeout_s: float = 30.0,
        max_answer_bytes: int = 64 * 2**20,
        pool_size: int = 64,
        spill: Path | None = None,
        user_agent: str = f"kontext-pipeline python-requests/{requests.__version__}",
    ) -> None:
        """Check the settings; nothing is sent yet.

        `answer_timeout_s` bounds one exchange from its start to the last byte; a generation takes about
        24 s, and giving up on one does not stop its being billed, so it should exceed that by far.
        `poll_timeout_s` does so for status, balance and record, which answer at once. `pool_size`:
        connections kept open, best as many as there are threads. `spill`: where paid bytes go when the
        spool can't be written, by default `kontext-rescue` in the system's temporary folder.
        Raises `SettingsError` for a key or URL that can't be used.
        """
        self._key = _checked_key(api_key)
        self._base = _checked_base(base_url, "SEGMIND_BASE_URL")
        self._origin = _origin(self._base)
        if upload_url is not None:
            self._upload_url = _checked_base(upload_url, "the upload URL")
        elif self._base == DEFAULT_BASE_URL:
            self._upload_url = _DEFAULT_UPLOAD_URL
        else:
            self._upload_url = f"{self._base}/upload-asset"
        self._inside_allowed = is_inside(urlsplit(self._base).hostname or "")
        self._answer_timeout_s = answer_timeout_s
        self._poll_timeout_s = min(poll_timeout_s, answer_timeout_s)
        self._max_answer_bytes = max_answer_bytes
        self._spill = spill or Path(tempfile.gettempdir()) / "kontext-rescue"
        # Identity: a picture does not compress, and its length should be the one that was announced.
        self._plain_headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._get_headers = {**self._plain_headers, "x-api-key": self._key}
        self._post_headers = {**self._get_headers, "Content-Type": "application/json"}
        # A job is asked for several times, and what it says of itself doesn't change.
        self._trusted = lru_cache(maxsize=4096)(self._check_job)
        self._transport = Transport(connect_timeout_s=connect_timeout_s, pool_size=pool_size)

    def __repr__(self) -> str:
        return f"SegmindClient({self._base})"

    def __enter__(self) -> "SegmindClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call in flight and refuse any further one.

        The threads of calls in flight get `LOST` (cause `aborted`) at once, later calls get
        `UNREACHABLE` (cause `client_closed`), so this is also how to leave without waiting.
        """
        self._transport.close()

    def generate(self, body: dict[str, Any], spool: Path, name: str = "") -> Answer:
        """Ask for a picture with v1 and wait for it. Its file is made in the folder `spool`, its name begins
        with `name`.
        """
        started = time.monotonic()
        place = _Place(spool, name)
        arrived = self._post(Call.GENERATE, f"{self._base}/v1/{MODEL}", _json(body), place)
        answer = self._answer(arrived)
        if arrived.received is not None:
            answer = self._with_picture(answer, arrived, place)
        return replace(answer, latency_s=time.monotonic() - started)

    def submit(self, body: dict[str, Any]) -> Answer:
        """Ask for a picture with v2: `ACCEPTED` with the job, which belongs in the ledger at once."""
        started = time.monotonic()
        arrived = self._post(Call.SUBMIT, f"{self._base}/v2/{MODEL}", _json(body), None)
        answer = self._answer(arrived)
        if arrived.succeeded and arrived.failure is None:
            document = parse_json(arrived.content)
            state = _state(document)
            job = self._job(document)
            if state in _FAILED:
                answer = self._failed(answer, document)
            elif job is None:
                answer = self._unusable(answer, "unknown_json", "no request_id in", arrived.content)
            else:
                answer = replace(answer, outcome=Outcome.ACCEPTED, job=job, request_id=job.request_id)
        return replace(answer, latency_s=time.monotonic() - started)

    def poll(self, job: Job) -> Answer:
        """Ask how `job` is: `COMPLETED` (fetch it), `PENDING`, `REJECTED` (it failed), `EXPIRED`.

        Any other outcome says nothing about the job: ask again.
        """
        started = time.monotonic()
        job = self._trusted(job)
        arrived = self._get(Call.POLL, job.status_url, None, self._poll_timeout_s)
        answer = replace(self._answer(arrived), job=job, request_id=job.request_id)
        if answer.outcome is Outcome.SUCCEEDED:
            answer = self._by_state(answer, parse_json(arrived.content), arrived.content)
        return replace(answer, latency_s=time.monotonic() - started)

    def fetch(self, job: Job, spool: Path, name: str = "") -> Answer:
        """Get the picture and the cost of the completed `job`. The file is made as `generate` makes it.

        `SUCCEEDED`, `REJECTED` and `EXPIRED` are final, `PENDING` means too early; whatever else comes,
        fetching again costs nothing. The output's own address is asked without the key.
        """
        started = time.monotonic()
        job = self._trusted(job)
        place = _Place(spool, name)
        arrived = self._get(Call.FETCH, job.response_url, place, self._answer_timeout_s)
        answer = replace(self._answer(arrived), job=job, request_id=job.request_id)
        if arrived.received is not None:
            answer = self._with_picture(answer, arrived, place)
        return replace(answer, latency_s=time.monotonic() - started)

    def credits(self) -> Credits:
        """Ask for the balance, which is free and shows whether the key is good."""
        arrived = self._get(Call.CREDITS, f"{self._base}/v1/get-user-credits", None, self._poll_timeout_s)
        answer = self._answer(arrived)
        paid = free = None
        if answer.outcome is Outcome.SUCCEEDED:
            document = parse_json(arrived.content)
            if isinstance(document, dict):
                paid, free = _amount(document.get("credits")), _amount(document.get("free-credits"))
            if paid is None:
                answer = self._unusable(answer, "unknown_json", "no credits in", arrived.content)
        return Credits(answer.outcome, answer.cause, answer.status_code, answer.error, paid, free)

    def upload(self, data: bytes, media_type: str) -> str:
        """Upload a picture and return the URL it then has. `media_type`: such as `image/png`.

        Raises `UploadUnsupported` where the server has no such endpoint, `UploadFailed` for the rest.
        """
        body = b'{"data_urls":["data:%b;base64,%b"]}' % (media_type.encode("ascii"), base64.b64encode(data))
        arrived = self._post(Call.UPLOAD, self._upload_url, body, None)
        answer = self._answer(arrived)
        if answer.outcome is Outcome.UNSUPPORTED:
            raise UploadUnsupported(
                f"{self._upload_url} takes no uploads ({answer.status_code}). Send pictures in the request."
            )
        if answer.outcome is Outcome.SUCCEEDED:
            document = parse_json(arrived.content)
            urls = document.get("file_urls") if isinstance(document, dict) else None
            url = urls[0] if isinstance(urls, list) and urls else None
            if isinstance(url, str) and url.lower().startswith(("http://", "https://")):
                return url
            answer = self._unusable(answer, "unknown_json", "no file_urls in", arrived.content)
        raise UploadFailed(f"A picture could not be uploaded to {self._upload_url}: {answer.error}.", answer)

    # One exchange

    def _post(self, call: Call, url: str, body: bytes, place: _Place | None) -> _Arrived:
        return self._exchange(
            call, url, self._post_headers, body=body, place=place, timeout_s=self._answer_timeout_s
        )

    def _get(self, call: Call, url: str, place: _Place | None, timeout_s: float) -> _Arrived:
        headers = self._plain_headers if call is Call.DOWNLOAD else self._get_headers
        return self._exchange(call, url, headers, body=None, place=place, timeout_s=timeout_s)

    def _exchange(
        self,
        call: Call,
        url: str,
        headers: dict[str, str],
        *,
        body: bytes | None,
        place: _Place | None,
        timeout_s: float,
    ) -> _Arrived:
        arrived = _Arrived(call)
        method = "GET" if body is None else "POST"
        try:
            with self._transport.send(method, url, headers, body=body, timeout_s=timeout_s) as reply:
                arrived.status = reply.status
                arrived.headers = reply.headers
                if not arrived.succeeded:
                    with suppress(DisconnectedError):
                        self._read_text(reply, arrived, _MAX_ERROR_BYTES)
                elif place is None:
                    if not self._read_text(reply, arrived, _MAX_TEXT_BYTES):
                        arrived.failure = _too_large(_MAX_TEXT_BYTES)
                else:
                    self._read_body(reply, arrived, self._spool(place))
        except DisconnectedError as failure:
            arrived.failure = failure
        return arrived

    def _read_text(self, reply: Reply, arrived: _Arrived, limit: int) -> bool:
        """Read the body; return whether all of it fits."""
        for chunk in reply.chunks():
            arrived.content += chunk
            if len(arrived.content) > limit:
                return False
        return True

    def _read_body(self, reply: Reply, arrived: _Arrived, spool: Spool) -> None:
        try:
            for chunk in reply.chunks():
                room = self._max_answer_bytes - spool.size
                spool.write(chunk[:room])
                if len(chunk) > room:
                    arrived.failure = _too_large(self._max_answer_bytes)
                    break
        except DisconnectedError as failure:
            arrived.failure = failure
        except BaseException:
            spool.discard()
            raise
        arrived.received = spool.finish()

    def _spool(self, place: _Place, *, as_file: bool = False) -> Spool:
        return Spool(place.folder, self._spill, name=place.name, as_file=as_file)

    # What an exchange means

    def _answer(self, arrived: _Arrived) -> Answer:
        """Return the answer by status and headers alone; of a success, the body is still to be judged."""
        call, failure = arrived.call, arrived.failure
        if arrived.status is None:
            assert failure is not None
            outcome = Outcome.LOST if failure.sent else Outcome.UNREACHABLE
            return Answer(call, outcome, failure.cause, error=one_line(str(failure), self._key))
        answer = Answer(
            call,
            Outcome.SUCCEEDED,
            status_code=arrived.status,
            cost_usd=_amount(arrived.header("x-cost")),
            remaining_credits=_amount(arrived.header("x-remaining-credits")),
            request_id=self._clean_id(arrived.header("x-request-id")),
            generation_time_s=_amount(arrived.header("x-generation-time")),
            seed_value=_whole(arrived.header("x-seed-value")),
        )
        if arrived.succeeded:
            if failure is not None and arrived.received is None:
                return self._cut(answer, failure)
            return answer
        text = error_text(arrived.content, self._key)
        found = meaning(call, arrived.status, text)
        if found.cause == "redirected":
            target = arrived.header("location") or "nowhere"
            text = one_line(f"redirected to {target}, which is not followed {text}", self._key)
        return replace(
            answer,
            outcome=found.outcome,
            cause=found.cause,
            error=text or f"status {arrived.status} without a word",
            retry_after_s=None if arrived.headers is None else retry_after(arrived.headers),
        )

    def _cut(self, answer: Answer, failure: DisconnectedError) -> Answer:
        """Return that a success came whose body did not: a GET can be sent again, a POST may be paid for."""
        outcome = Outcome.UNUSABLE if answer.call in {Call.GENERATE, Call.SUBMIT} else Outcome.LOST
        cause = "cut" if failure.cause == "connection_lost" else failure.cause
        return replace(
            answer, outcome=outcome, cause=cause, error=one_line(f"the answer was cut: {failure}", self._key)
        )

    def _unusable(self, answer: Answer, cause: str, fault: str, content: bytes) -> Answer:
        words = one_line(f"{fault} the answer: {content[:300].decode('utf-8', 'replace')}", self._key)
        return replace(answer, outcome=Outcome.UNUSABLE, cause=cause, error=words)

    def _failed(self, answer: Answer, document: Any) -> Answer:
        text = error_text(json.dumps(document).encode(), self._key)
        return replace(answer, outcome=Outcome.REJECTED, cause="job_failed", error=text or "the job failed")

    def _by_state(self, answer: Answer, document: Any, content: bytes) -> Answer:
        answer = _with_metrics(answer, document)
        state = _state(document)
        if state in _WAITING:
            return replace(answer, outcome=Outcome.PENDING)
        if state in _READY:
            return replace(answer, outcome=Outcome.COMPLETED)
        if state in _FAILED:
            return self._failed(answer, document)
        return self._unusable(answer, "unknown_json", "no status that is known in", content)

    # What a body holds

    def _with_picture(self, answer: Answer, arrived: _Arrived, place: _Place) -> Answer:
        """Return `answer`, a success, with the picture that its body is or carries."""
        received = arrived.received
        assert received is not None
        answer = replace(answer, spilled=received.spilled)
        info = _inspected(received)
        if isinstance(info, ImageInfo):
            return replace(answer, picture=_picture(received, info))
        document = None
        if arrived.failure is None and not info.cut and starts_like_json(received.head()):
            document = parse_json(received.content())
        if document is not None:
            return self._with_carried(answer, document, received, place)
        if arrived.failure is not None:
            answer = self._cut(answer, arrived.failure)
        elif info.cut:
            answer = replace(answer, outcome=Outcome.UNUSABLE, cause="cut", error=str(info))
        else:
            words = error_text(received.head(), self._key)
            answer = replace(
                answer,
                outcome=Outcome.UNUSABLE,
                cause="not_a_picture",
                error=one_line(f"a success without a picture: {info}; {words}", self._key),
            )
        return self._with_remains(answer, received, place)

    def _with_carried(self, answer: Answer, document: Any, received: Received, place: _Place) -> Answer:
        """Return `answer` with the picture that the JSON `document` carries."""
        answer = _with_metrics(answer, document)
        if answer.call is Call.FETCH:
            state = _state(document)
            if state in _WAITING or state in _FAILED:
                received.discard()
                return self._by_state(answer, document, b"")
        found = find_image(document)
        if found is None:
            words = error_text(received.head(), self._key)
            answer = replace(
                answer,
                outcome=Outcome.UNUSABLE,
                cause="no_image",
                error=one_line(f"JSON without a picture: {words}", self._key),
            )
            return self._with_remains(answer, received, place)
        if isinstance(found, Embedded):
            carried = self._unpacked(answer, found, place)
        else:
            carried = self._downloaded(answer, found, place)
            if carried.picture is None and answer.call is Call.GENERATE:
                # The address is worth more than whatever was found there.
                _remove(carried.remains)
                return self._with_remains(carried, received, place)
        received.discard()
        return carried

    def _unpacked(self, answer: Answer, found: Embedded, place: _Place) -> Answer:
        writer = self._spool(place)
        writer.write(found.content)
        received = writer.finish()
        answer = replace(answer, spilled=answer.spilled or received.spilled)
        info = _inspected(received)
        if isinstance(info, ImageInfo):
            return replace(answer, picture=_picture(received, info))
        answer = replace(
            answer, outcome=Outcome.UNUSABLE, cause="cut" if info.cut else "not_a_picture", error=str(info)
        )
        return self._with_remains(answer, received, place)

    def _downloaded(self, answer: Answer, found: Link, place: _Place) -> Answer:
        try:
            url = self._output_url(found.url)
        except ValueError as fault:
            return replace(
                answer,
                outcome=Outcome.UNUSABLE,
                cause="bad_output_url",
                error=one_line(f"the picture's address can't be used: {fault}", self._key),
            )
        pauses = _DOWNLOAD_PAUSES_S if answer.call is Call.GENERATE else _DOWNLOAD_PAUSES_S[:1]
        outcome = answer
        for pause in pauses:
            time.sleep(pause)
            _remove(outcome.remains)
            outcome = self._download_once(answer, url, place)
            passing = outcome.outcome in _PASSING or outcome.cause == "cut"
            if not passing or outcome.cause in {"aborted", "client_closed"}:
                break
        if answer.call is Call.GENERATE and outcome.outcome is not Outcome.SUCCEEDED:
            # The call itself did succeed and is billed, whatever became of its file.
            outcome = replace(outcome, outcome=Outcome.UNUSABLE)
        return outcome

    def _download_once(self, answer: Answer, url: str, place: _Place) -> Answer:
        arrived = self._get(Call.DOWNLOAD, url, place, self._answer_timeout_s)
        of_file = self._answer(arrived)
        answer = replace(
            answer,
            outcome=of_file.outcome,
            cause=of_file.cause,
            error=of_file.error and one_line(f"the picture's file: {of_file.error}", self._key),
            status_code=of_file.status_code,
            retry_after_s=of_file.retry_after_s,
        )
        received = arrived.received
        if received is None:
            return answer
        answer = replace(answer, spilled=answer.spilled or received.spilled)
        info = _inspected(received)
        if isinstance(info, ImageInfo):
            return replace(answer, picture=_picture(received, info))
        if arrived.failure is not None and arrived.failure.cause != "answer_too_large":
            received.discard()
            of_file = self._cut(of_file, arrived.failure)
            return replace(answer, outcome=of_file.outcome, cause=of_file.cause, error=of_file.error)
        cause = arrived.failure.cause if arrived.failure else "cut" if info.cut else "not_a_picture"
        answer = replace(
            answer,
            outcome=Outcome.UNUSABLE,
            cause=cause,
            error=one_line(f"the picture's file: {info}", self._key),
        )
        return self._with_remains(answer, received, place)

    def _with_remains(self, answer: Answer, received: Received, place: _Place) -> Answer:
        if received.size == 0:
            received.discard()
            return answer
        if received.data is not None and not received.spilled:
            writer = self._spool(place, as_file=True)
            writer.write(received.data)
            received = writer.finish()
        return replace(answer, remains=received.path, spilled=answer.spilled or received.spilled)

    # Addresses

    def _job(self, document: Any) -> Job | None:
        """Return the job that a submit's answer names, its addresses on the API's own origin."""
        if not isinstance(document, dict):
            return None
        request_id = self._clean_id(document.get("request_id"))
        if request_id is None:
            return None
        status_url = document.get("status_url") or document.get("poll_url") or ""
        return self._trusted(Job(request_id, str(status_url), str(document.get("response_url") or "")))

    def _check_job(self, job: Job) -> Job:
        """Return `job` with addresses the key may be sent to: others are derived from its request_id."""
        record = f"{self._base}/v2/requests/{quote(job.request_id, safe='')}"
        return Job(
            job.request_id,
            self._on_origin(job.status_url) or f"{record}/status",
            self._on_origin(job.response_url) or record,
        )

    def _on_origin(self, url: str) -> str | None:
        """Return `url` rebuilt on the API's origin, None where it is not there.

        Rebuilt, because two parsers may disagree on where a crafted URL leads, and the key goes there.
        """
        if not url or _UNSAFE_IN_URL.search(url) or self._key in url:
            return None
        try:
            absolute = urljoin(f"{self._base}/", url)
            if _origin(absolute) != self._origin:
                return None
        except ValueError:
            return None
        parts = urlsplit(absolute)
        query = f"?{parts.query}" if parts.query else ""
        base = urlsplit(self._base)
        return f"{base.scheme}://{base.netloc}{parts.path or '/'}{query}"

    def _output_url(self, url: str) -> str:
        """Return `url` made fit to be asked for. Raises `ValueError` for one that must not be.

        An address inside this machine or network is only followed for an API that is itself inside, as
        a server elsewhere has no business to name one.
        """
        prepared = requests.PreparedRequest()
        try:
            prepared.prepare_url(url, None)
        except requests.RequestException as fault:
            raise ValueError(str(fault)) from None
        fit = prepared.url or ""
        parts = urlsplit(fit)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{parts.scheme or 'no scheme'} is not http or https")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it has a user name in it")
        if not self._inside_allowed and is_inside(parts.hostname):
            raise ValueError(f"{parts.hostname} is an address inside this network")
        if self._key in fit:
            raise ValueError("it has the key in it")
        return fit.partition("#")[0]

    def _clean_id(self, value: Any) -> str | None:
        if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value) or value in {".", ".."}:
            return None
        return None if self._key in value else value


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def _too_large(limit: int) -> DisconnectedError:
    return DisconnectedError(f"it is larger than {limit:,} bytes", cause="answer_too_large", sent=True)


def _remove(path: Path | None) -> None:
    if path is not None:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _inspected(received: Received) -> ImageInfo | NotAPicture:
    try:
        if received.file is None or received.whole is not None:
            return inspect_bytes(received.whole or received.data or b"")
        return inspect(received.file)
    except NotAPicture as reason:
        return reason
    except OSError as error:
        return NotAPicture(f"it can't be read back ({error.strerror or error})")


def _picture(received: Received, info: ImageInfo) -> Picture:
    return Picture(
        received.file, received.data, received.sha256, received.size, info.format, info.width, info.height
    )


def _state(document: Any) -> str:
    state = document.get("status") if isinstance(document, dict) else None
    return state.upper() if isinstance(state, str) else ""


def _with_metrics(answer: Answer, document: Any) -> Answer:
    metrics = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(metrics, dict):
        return answer
    cost = _amount(metrics.get("cost"))
    left = _amount(metrics.get("remaining_credits"))
    time_s = _amount(metrics.get("inference_time"))
    total_s = _amount(metrics.get("total_time"))
    return replace(
        answer,
        cost_usd=answer.cost_usd if cost is None else cost,
        remaining_credits=answer.remaining_credits if left is None else left,
        generation_time_s=answer.generation_time_s if time_s is None else time_s,
        total_time_s=answer.total_time_s if total_s is None else total_s,
    )


def _amount(value: Any) -> float | None:
    """Return a finite number that is not negative; anything else counts as not told."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"\d{1,20}", value, re.ASCII) else None


def _checked_key(key: str) -> str:
    if not key:
        raise SettingsError("There is no API key. Set SEGMIND_API_KEY; keys look like SG_ and 16 hex digits.")
    if not re.fullmatch(r"[!-~]+", key):
        raise SettingsError(
            "SEGMIND_API_KEY has a character in it that no key has (a space, a line break, a letter beyond "
            "ASCII), most likely from copying. Keys look like SG_ and 16 hex digits; set it again."
        )
    return key


def _checked_base(url: str, name: str) -> str:
    fault = SettingsError(
        f"{name} is {url!r}, which can't be used. Allowed is http:// or https://, a host, and if need be a "
        f"port and a path, such as {DEFAULT_BASE_URL}."
    )
    if _UNSAFE_IN_URL.search(url):
        raise fault
    try:
        parts = urlsplit(url)
        _origin(url)
    except ValueError:
        raise fault from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise fault
    return url.rstrip("/")


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80)
