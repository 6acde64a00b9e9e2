"""What an answer means: every status of the API, as data, in one place.

Belongs here: the classes of outcome, whether each was billed, and the tables that map a call and a
status code to them. Nothing here opens a socket. What to do about an outcome (wait, try again, stop)
is the caller's business.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """What became of one call."""

    SUCCEEDED = "succeeded"
    """A whole picture arrived. Billed. (For the balance: it is known.)"""
    ACCEPTED = "accepted"
    """v2 submit: the job exists, its `Job` is in the answer."""
    COMPLETED = "completed"
    """v2 poll: the picture is ready to be fetched."""
    PENDING = "pending"
    """v2: the job is queued or running; ask again later."""
    REJECTED = "rejected"
    """This row fails for good. Not billed, and the same request will be refused again."""
    STOPPED = "stopped"
    """Account-wide: no other row would fare better, so nothing more is to be sent. Not billed."""
    RATE_LIMITED = "rate_limited"
    """429. Not billed; never counts against a row. `retry_after_s` says when the window resets."""
    SERVER_ERROR = "server_error"
    """The server said it failed. Not billed; safe to repeat."""
    GATEWAY_TIMEOUT = "gateway_timeout"
    """v1 POST: a gateway gave up waiting, the job behind it may have run. Possibly charged."""
    LOST = "lost"
    """The request went out, or part of it, and no answer came. A POST is possibly charged."""
    UNREACHABLE = "unreachable"
    """No connection was made, so nothing was sent. Not billed; safe to repeat."""
    UNUSABLE = "unusable"
    """A success came that holds no whole picture. Charged if it said so, else possibly charged."""
    EXPIRED = "expired"
    """v2: the job's record, or its file, is gone. Charged if its cost was told, else possibly charged."""
    UNSUPPORTED = "unsupported"
    """Balance and upload alone: this server has no such endpoint."""


class Charge(StrEnum):
    """Whether an answer's call was billed."""

    NO = "no"
    YES = "yes"
    """Billed: `cost_usd`, or the list price where the answer did not say."""
    POSSIBLE = "possible"
    """Nobody can know, or (v2 GETs) nobody knows yet."""


class Call(StrEnum):
    """The kinds of call; one status means different things to them."""

    GENERATE = "generate"
    SUBMIT = "submit"
    POLL = "poll"
    FETCH = "fetch"
    DOWNLOAD = "download"
    """The output URL: another host, no key."""
    CREDITS = "credits"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Meaning:
    """An outcome and its cause: a short name for statistics, the same in every version."""

    outcome: Outcome
    cause: str


_STATUSES: Final = {
    400: Meaning(Outcome.REJECTED, "bad_parameters"),
    401: Meaning(Outcome.STOPPED, "bad_key"),
    402: Meaning(Outcome.STOPPED, "insufficient_credits"),
    403: Meaning(Outcome.STOPPED, "no_permission"),
    404: Meaning(Outcome.STOPPED, "no_such_model"),
    405: Meaning(Outcome.STOPPED, "wrong_method"),
    407: Meaning(Outcome.STOPPED, "proxy_refused"),
    # A balancer says 408 or 425 of a request that it did not pass on.
    408: Meaning(Outcome.SERVER_ERROR, "request_timeout"),
    410: Meaning(Outcome.STOPPED, "model_retired"),
    413: Meaning(Outcome.REJECTED, "too_large"),
    415: Meaning(Outcome.REJECTED, "unsupported_media"),
    422: Meaning(Outcome.REJECTED, "job_failed"),
    425: Meaning(Outcome.SERVER_ERROR, "request_timeout"),
    429: Meaning(Outcome.RATE_LIMITED, "rate_limited"),
    502: Meaning(Outcome.SERVER_ERROR, "bad_gateway"),
    503: Meaning(Outcome.SERVER_ERROR, "unavailable"),
    504: Meaning(Outcome.SERVER_ERROR, "gateway_timeout"),
    524: Meaning(Outcome.SERVER_ERROR, "gateway_timeout"),
}
"""What a status means unless the call says otherwise. 406 is told apart by its text, see `_CAUSES_OF_406`."""

_GONE: Final = Meaning(Outcome.EXPIRED, "record_expired")
_FILE_GONE: Final = Meaning(Outcome.EXPIRED, "output_expired")
_NO_ENDPOINT: Final = Meaning(Outcome.UNSUPPORTED, "no_such_endpoint")
_GATEWAY_GAVE_UP: Final = Meaning(Outcome.GATEWAY_TIMEOUT, "gateway_timeout")

_STATUSES_BY_CALL: Final = {
    Call.GENERATE: {504: _GATEWAY_GAVE_UP, 524: _GATEWAY_GAVE_UP},
    Call.SUBMIT: {},
    Call.POLL: {404: _GONE, 410: _GONE},
    Call.FETCH: {404: _GONE, 410: _GONE},
    # Object stores answer 403 for a file that is gone and for a signature that ran out.
    Call.DOWNLOAD: {403: _FILE_GONE, 404: _FILE_GONE, 410: _FILE_GONE},
    Call.CREDITS: {404: _NO_ENDPOINT, 405: _NO_ENDPOINT},
    Call.UPLOAD: {404: _NO_ENDPOINT, 405: _NO_ENDPOINT},
}

_REDIRECTED: Final = Meaning(Outcome.STOPPED, "redirected")
_REFUSED: Final = Meaning(Outcome.REJECTED, "refused")
_RECORD_REFUSED: Final = Meaning(Outcome.EXPIRED, "record_refused")
_OUTPUT_REFUSED: Final = Meaning(Outcome.UNUSABLE, "output_unavailable")
_SERVER_ERROR: Final = Meaning(Outcome.SERVER_ERROR, "server_error")
_NOT_HTTP: Final = Meaning(Outcome.LOST, "connection_lost")

_UNCLEAR_406: Final = Meaning(Outcome.STOPPED, "not_acceptable")
_CAUSES_OF_406: Final = (
    (
        re.compile(r"content[- ]?type|media[- ]?type|application/json"),
        Meaning(Outcome.STOPPED, "wrong_content_type"),
    ),
    (
        re.compile(
            r"spend|(team|workspace|organi[sz]ation|monthly|daily|account|budget)\W+(\w+\W+){0,3}limit"
        ),
        Meaning(Outcome.STOPPED, "spend_limit"),
    ),
    (
        re.compile(
            r"(insufficient|not enough|enough|no|low|out of|more|lack\w*|exhaust\w*)\W+(\w+\W+){0,3}"
            r"(credit|balance|fund)"
            r"|(credit|balance|fund)s?\W+(\w+\W+){0,4}"
            r"(insufficient|exhausted|depleted|low|empty|required|not enough|zero|negative)"
            r"|top[- ]?up|recharge|payment required"
        ),
        Meaning(Outcome.STOPPED, "insufficient_credits"),
    ),
    (
        re.compile(
            r"parameter|invalid|not (allowed|supported|permitted)|unsupported|must be|out of range|validation"
            r"|aspect_ratio|output_format|safety_tolerance|input_image|\bseed\b|\bprompt\b"
        ),
        Meaning(Outcome.REJECTED, "parameter_refused"),
    ),
)
"""The four causes of a 406, which its text alone tells apart, in the order in which they win: a text that
could be read both ways stops the run, as every row after it would meet the same wall."""


def meaning(call: Call, status: int, text: str) -> Meaning:
    """Return what an answer with `status` (not 2xx) means to `call`; `text` is the server's error."""
    by_call = _STATUSES_BY_CALL[call]
    if status in by_call:
        return by_call[status]
    if call is Call.DOWNLOAD and 300 <= status < 500 and status not in {408, 425, 429}:
        return _OUTPUT_REFUSED
    if call in {Call.POLL, Call.FETCH} and status in {400, 413, 415}:
        return _RECORD_REFUSED
    if status == 406:
        return _meaning_of_406(text)
    if status in _STATUSES:
        return _STATUSES[status]
    if 300 <= status < 400:
        return _REDIRECTED
    if 400 <= status < 500:
        return _RECORD_REFUSED if call in {Call.POLL, Call.FETCH} else _REFUSED
    if status >= 500:
        return _SERVER_ERROR
    return _NOT_HTTP


def _meaning_of_406(text: str) -> Meaning:
    lowered = text.lower()
    return next((found for pattern, found in _CAUSES_OF_406 if pattern.search(lowered)), _UNCLEAR_406)


def charge(call: Call, outcome: Outcome, cost_usd: float | None) -> Charge:
    """Return whether a call that ended so was billed.

    Only a finished success is ever billed, so whatever a refusal says of costs is not believed.
    """
    if outcome is Outcome.SUCCEEDED:
        return Charge.YES
    if outcome is Outcome.REJECTED:
        return Charge.NO
    if outcome in {Outcome.UNUSABLE, Outcome.EXPIRED}:
        return Charge.POSSIBLE if cost_usd is None else Charge.YES
    if call in {Call.POLL, Call.FETCH, Call.DOWNLOAD}:
        return Charge.POSSIBLE
    if outcome in {Outcome.GATEWAY_TIMEOUT, Outcome.LOST, Outcome.ACCEPTED}:
        return Charge.POSSIBLE
    return Charge.NO
