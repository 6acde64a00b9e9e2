"""The calls of the API: one method each, one answer each. No call is repeated that could cost money twice."""

import base64
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import state_folder
from kontext_pipeline.segmind.addresses import ApiAddresses, is_loopback, peer_check
from kontext_pipeline.segmind.answers import Answer, Credits, Job
from kontext_pipeline.segmind.exchange import Exchanger
from kontext_pipeline.segmind.model import MODEL
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from kontext_pipeline.segmind.payloads import amount, job_state, parse_json
from kontext_pipeline.segmind.received_pictures import PictureReader
from kontext_pipeline.segmind.spool import HeldFile, Spool
from kontext_pipeline.segmind.transport import Transport

_HIGHEST_BALANCE_USD: Final = 1e9
"""The highest balance that is believed, USD."""
_RATIO_TOLERANCE: Final = 1.15
"""Factor by which a picture's sides may differ from the ratio that was asked for: the model's sizes are rounded."""

_logger = logging.getLogger(__name__)


class UploadUnsupported(KontextError):
    """The server takes no uploads. Send a data URI in the request instead."""


class UploadFailed(KontextError):
    """An upload failed. Nothing was billed."""

    def __init__(self, message: str, answer: Answer) -> None:
        """`answer`: the result of the call."""
        super().__init__(message)
        self.answer = answer


class SegmindClient:
    """The API, for any number of threads. A context manager; leaving it closes the client.

    Failures of the network, the server and the disk don't raise: they are in the answer.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        upload_url: str | None = None,
        connect_timeout_s: float = 10.0,
        answer_timeout_s: float = 300.0,
        poll_timeout_s: float = 30.0,
        max_answer_bytes: int = 64 * 2**20,
        pool_size: int = 64,
        spill: Path | None = None,
    ) -> None:
        """Configure the client. Nothing is sent yet.

        `api_key`, `base_url` (without a slash at its end) and `upload_url` (default: `/upload-asset` on the API)
        are used as given: the settings check them. `answer_timeout_s` bounds one exchange, from its start to the
        last byte. A generation takes about 24 s and is billed even if nobody waits for it, so the limit should
        be much larger. `poll_timeout_s` is the limit for status and balance, which a server answers at once.
        `pool_size`: connections kept open to one host, best as many as there are threads. `spill`: folder for
        paid bytes when the spool can't be written (default: `rescue` in this program's state folder).

        Raises:
            SettingsError: the certificate bundle of the environment can't be read.
        """
        self._upload_url = upload_url or f"{base_url}/upload-asset"
        self._rescue = spill or state_folder("rescue")
        self._transport = Transport(
            connect_timeout_s=connect_timeout_s,
            pool_size=pool_size,
            check_peer=peer_check(base_url, self._upload_url),
        )
        self._exchanger = Exchanger(
            self._transport,
            api_key,
            answer_timeout_s=answer_timeout_s,
            poll_timeout_s=min(poll_timeout_s, answer_timeout_s),
            max_bytes=max_answer_bytes,
        )
        self._contradictions = self._exchanger.contradictions
        self._addresses = ApiAddresses(base_url, api_key, self._contradictions)
        _warn_of_plain_http(base_url)

    def __enter__(self) -> "SegmindClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every call in progress (`LOST`, cause `aborted`) and refuse later ones (`UNREACHABLE`)."""
        self._transport.close()
        self._contradictions.close()

    def generate(self, body: dict[str, Any], spool: Path, name: str = "", held: HeldFile | None = None) -> Answer:
        """Request a picture with v1 and wait for it.

        The picture's file is created in the folder `spool`, and its name starts with `name`; or it is `held`.
        """

        def call() -> Answer:
            new_spool = partial(Spool, spool, self._rescue, prefix=name, held=held)
            url = f"{self._addresses.base_url}/v1/{MODEL}"
            exchange = self._exchanger.send(Call.GENERATE, url, body=_json(body), spool=new_spool())
            return PictureReader(self._exchanger, self._addresses, new_spool).read(exchange)

        answer = self._answer(Call.GENERATE, call)
        self._compare(answer, body)
        return answer

    def submit(self, body: dict[str, Any]) -> Answer:
        """Request a picture with v2. `ACCEPTED` comes with the job, which belongs in the ledger at once."""

        def call() -> Answer:
            url = f"{self._addresses.base_url}/v2/{MODEL}"
            exchange = self._exchanger.send(Call.SUBMIT, url, body=_json(body))
            answer = exchange.answer
            if answer.outcome is not Outcome.SUCCEEDED:
                return answer
            document = parse_json(exchange.content)
            job = self._addresses.job(document)
            if job_state(document) is Outcome.REJECTED:
                return self._exchanger.job_answer(answer, document, exchange.content)
            if job is None:
                return self._exchanger.unknown_json(answer, "request_id", exchange.content)
            return replace(answer, outcome=Outcome.ACCEPTED, job=job, request_id=job.request_id)

        return self._answer(Call.SUBMIT, call)

    def poll(self, job: Job) -> Answer:
        """Return the state of `job`: `COMPLETED` (fetch it), `PENDING`, `REJECTED` (it failed) or `EXPIRED`.

        Any other outcome says nothing about the job. Poll again.
        """

        def call() -> Answer:
            exchange = self._exchanger.send(Call.POLL, self._addresses.checked_job(job).status_url)
            answer = exchange.answer
            if answer.outcome is Outcome.SUCCEEDED:
                answer = self._exchanger.job_answer(answer, parse_json(exchange.content), exchange.content)
            return answer

        return replace(self._answer(Call.POLL, call), job=job, request_id=job.request_id)

    def fetch(self, job: Job, spool: Path, name: str = "") -> Answer:
        """Get the picture and the cost of the completed `job`. Its file is created as in `generate`.

        `SUCCEEDED`, `REJECTED` and `EXPIRED` are final, and `PENDING` means too early. After any other outcome,
        fetching again costs nothing. The picture's own URL is requested without the key.
        """

        def call() -> Answer:
            new_spool = partial(Spool, spool, self._rescue, prefix=name)
            url = self._addresses.checked_job(job).response_url
            exchange = self._exchanger.send(Call.FETCH, url, spool=new_spool())
            return PictureReader(self._exchanger, self._addresses, new_spool).read(exchange)

        return replace(self._answer(Call.FETCH, call), job=job, request_id=job.request_id)

    def credits(self) -> Credits:
        """Return the balance. The call is free and shows whether the key is valid."""
        url = f"{self._addresses.base_url}/v1/get-user-credits"
        exchange = self._exchanger.send(Call.CREDITS, url)
        answer = exchange.answer
        paid = free = None
        if answer.outcome is Outcome.SUCCEEDED:
            document = parse_json(exchange.content)
            if isinstance(document, dict):
                paid, free = (amount(document.get(name), _HIGHEST_BALANCE_USD) for name in ("credits", "free-credits"))
            if paid is None:
                answer = self._exchanger.unknown_json(answer, "credits", exchange.content)
        return Credits(answer.outcome, answer.cause, answer.status_code, answer.error, paid, free)

    def upload(self, data: bytes, media_type: str) -> str:
        """Upload a picture and return its URL. `media_type`: such as `image/png`.

        Raises:
            UploadUnsupported: the server has no such endpoint.
            UploadFailed: any other failure.
        """
        body = b'{"data_urls":["data:%b;base64,%b"]}' % (media_type.encode("ascii"), base64.b64encode(data))
        exchange = self._exchanger.send(Call.UPLOAD, self._upload_url, body=body)
        answer = exchange.answer
        if answer.outcome is Outcome.UNSUPPORTED:
            raise UploadUnsupported(
                f"{self._upload_url} takes no uploads ({answer.status_code}). Send pictures in the request."
            )
        if answer.outcome is Outcome.SUCCEEDED:
            document = parse_json(exchange.content)
            urls = document.get("file_urls") if isinstance(document, dict) else None
            url = urls[0] if isinstance(urls, list) and urls else None
            if isinstance(url, str) and url.lower().startswith(("http://", "https://")):
                return url
            answer = self._exchanger.unknown_json(answer, "file_urls", exchange.content)
        raise UploadFailed(f"A picture could not be uploaded to {self._upload_url}: {answer.error}.", answer)

    def _answer(self, call: Call, make: Callable[[], Answer]) -> Answer:
        """Return the answer that `make` makes, with its latency.

        An answer that this program can't handle is no reason to end a run, and may have been paid for.
        """
        started = time.monotonic()
        try:
            answer = make()
        except (KontextError, OSError, MemoryError):
            # Not about this answer: the machine.
            raise
        except Exception as error:
            _logger.exception("an answer can't be handled")
            answer = self._exchanger.fail(
                Answer(call, Outcome.UNUSABLE), Outcome.UNUSABLE, Cause.FAULT, f"{type(error).__name__}: {error}"
            )
        return replace(answer, latency_s=time.monotonic() - started)

    def _compare(self, answer: Answer, body: dict[str, Any]) -> None:
        """Note where a picture contradicts the request that it answers. It is kept all the same."""
        if answer.seed is not None and answer.seed != body.get("seed"):
            text = f"an answer says that it used the seed {answer.seed}, and {body.get('seed')} was sent"
            self._contradictions.note("seed", text)
        width, _, height = str(body.get("aspect_ratio")).partition(":")
        if answer.picture is not None and height:
            asked, came = int(width) / int(height), answer.picture.width / answer.picture.height
            if not 1 / _RATIO_TOLERANCE < came / asked < _RATIO_TOLERANCE:
                size = f"{answer.picture.width} x {answer.picture.height} pixels"
                self._contradictions.note("size", f"a picture of {size} came, and {width}:{height} was sent")


@cache
def _warn_of_plain_http(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        _logger.warning(
            "%s is not encrypted, so everybody on the way can read the API key and the pictures; use https:// unless "
            "you trust that network",
            base_url,
        )


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
