"""The meaning of every answer of the API, as data: outcomes, causes, and whether a call was billed."""

import re
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """The result of one call."""

    SUCCEEDED = "succeeded"
    """A whole picture arrived (or the balance, or an upload's URL). A picture is billed."""
    ACCEPTED = "accepted"
    """v2 submit: the job exists, and the answer holds its `Job`."""
    COMPLETED = "completed"
    """v2 poll: the picture is ready to be fetched."""
    PENDING = "pending"
    """v2: the job is queued or running."""
    REJECTED = "rejected"
    """This row fails for good. Not billed; the same request will be refused again."""
    STOPPED = "stopped"
    """The account or the endpoint is refused, so every other row would be too. Not billed; send nothing more."""
    RATE_LIMITED = "rate_limited"
    """429. Not billed, and never counted against a row. `retry_after_s` says when the window resets."""
    SERVER_ERROR = "server_error"
    """The server reports a failure of its own. Not billed; safe to repeat."""
    GATEWAY_TIMEOUT = "gateway_timeout"
    """v1 POST: a gateway stopped waiting, but the job behind it may have run. Possibly charged."""
    LOST = "lost"
    """At least a part of the request was sent, and no answer came. A POST is possibly charged."""
    UNREACHABLE = "unreachable"
    """No connection was made, so nothing was sent. Not billed; safe to repeat."""
    UNUSABLE = "unusable"
    """A success without a whole picture. Charged if the answer named a cost, otherwise possibly charged."""
    EXPIRED = "expired"
    """v2: the job's record or its file is gone. Charged if a cost is known, otherwise possibly charged."""
    UNSUPPORTED = "unsupported"
    """Balance and upload only: this server has no such endpoint."""


class Charge(StrEnum):
    """Whether a call was billed."""

    NO = "no"
    YES = "yes"
    """Billed `cost_usd`, or the list price where the answer named no cost."""
    POSSIBLE = "possible"
    """Nobody can know or, for the GETs of v2, nobody knows yet."""


class Call(StrEnum):
    """The kinds of call. The meaning of a status depends on the call."""

    GENERATE = "generate"
    SUBMIT = "submit"
    POLL = "poll"
    FETCH = "fetch"
    DOWNLOAD = "download"
    """A GET of an output's URL, on any host and without the key."""
    CREDITS = "credits"
    UPLOAD = "upload"


class Cause(StrEnum):
    """Short names of what went wrong: in the ledger, in statistics and in logs. Values never change."""

    NONE = ""
    """Nothing went wrong."""

    # Nothing was sent.
    CLIENT_CLOSED = "client_closed"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECTION_REFUSED = "connection_refused"
    DNS = "dns"
    FORBIDDEN_ADDRESS = "forbidden_address"
    NO_CONNECTION = "no_connection"
    PROXY = "proxy"
    TLS = "tls"

    # The request was sent, and no complete answer came.
    ABORTED = "aborted"
    ANSWER_TIMEOUT = "answer_timeout"
    ANSWER_TOO_LARGE = "answer_too_large"
    CONNECTION_LOST = "connection_lost"
    CUT = "cut"

    # A success holds something else than what it should.
    DAMAGED_PICTURE = "damaged_picture"
    BAD_OUTPUT_URL = "bad_output_url"
    NO_IMAGE = "no_image"
    NOT_A_PICTURE = "not_a_picture"
    OUTPUT_UNAVAILABLE = "output_unavailable"
    UNKNOWN_JSON = "unknown_json"

    # The server refused the request.
    BAD_KEY = "bad_key"
    BAD_PARAMETERS = "bad_parameters"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    JOB_FAILED = "job_failed"
    MODEL_RETIRED = "model_retired"
    NO_PERMISSION = "no_permission"
    NO_SUCH_ENDPOINT = "no_such_endpoint"
    NO_SUCH_MODEL = "no_such_model"
    NOT_ACCEPTABLE = "not_acceptable"
    OUTPUT_EXPIRED = "output_expired"
    PARAMETER_REFUSED = "parameter_refused"
    PROXY_REFUSED = "proxy_refused"
    RATE_LIMITED = "rate_limited"
    RECORD_EXPIRED = "record_expired"
    RECORD_REFUSED = "record_refused"
    REDIRECTED = "redirected"
    REFUSED = "refused"
    SPEND_LIMIT = "spend_limit"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA = "unsupported_media"
    WRONG_CONTENT_TYPE = "wrong_content_type"
    WRONG_METHOD = "wrong_method"

    # The server failed.
    BAD_GATEWAY = "bad_gateway"
    GATEWAY_TIMEOUT = "gateway_timeout"
    REQUEST_TIMEOUT = "request_timeout"
    SERVER_ERROR = "server_error"
    UNAVAILABLE = "unavailable"

    # An attempt ended without a call, or its run died.
    INPUT_CHANGED = "input_changed"
    INPUT_MISSING = "input_missing"
    INPUT_NOT_A_PICTURE = "input_not_a_picture"
    INPUT_REFUSED = "input_refused"
    INPUT_UNREACHABLE = "input_unreachable"
    INPUT_UNSUITABLE = "input_unsuitable"
    NOT_SENT = "not_sent"
    RUN_DIED = "run_died"

    # A run stopped. Causes above stop a run as well.
    BUDGET = "budget"
    DISK_FULL = "disk_full"
    FAULT = "fault"
    FILES = "files"
    INTERRUPTED = "interrupted"
    LEDGER = "ledger"
    MANIFEST = "manifest"
    OUTAGE = "outage"
    STILL_OUT_THERE = "still_out_there"
    UNREACHABLE = "unreachable"


_Meaning = tuple[Outcome, Cause]

_STATUSES: Final[dict[int, _Meaning]] = {
    400: (Outcome.REJECTED, Cause.BAD_PARAMETERS),
    401: (Outcome.STOPPED, Cause.BAD_KEY),
    402: (Outcome.STOPPED, Cause.INSUFFICIENT_CREDITS),
    403: (Outcome.STOPPED, Cause.NO_PERMISSION),
    404: (Outcome.STOPPED, Cause.NO_SUCH_MODEL),
    405: (Outcome.STOPPED, Cause.WRONG_METHOD),
    407: (Outcome.STOPPED, Cause.PROXY_REFUSED),
    # A load balancer answers 408 or 425 to a request that it did not pass on.
    408: (Outcome.SERVER_ERROR, Cause.REQUEST_TIMEOUT),
    410: (Outcome.STOPPED, Cause.MODEL_RETIRED),
    413: (Outcome.REJECTED, Cause.TOO_LARGE),
    415: (Outcome.REJECTED, Cause.UNSUPPORTED_MEDIA),
    422: (Outcome.REJECTED, Cause.JOB_FAILED),
    425: (Outcome.SERVER_ERROR, Cause.REQUEST_TIMEOUT),
    429: (Outcome.RATE_LIMITED, Cause.RATE_LIMITED),
    502: (Outcome.SERVER_ERROR, Cause.BAD_GATEWAY),
    503: (Outcome.SERVER_ERROR, Cause.UNAVAILABLE),
    504: (Outcome.SERVER_ERROR, Cause.GATEWAY_TIMEOUT),
    524: (Outcome.SERVER_ERROR, Cause.GATEWAY_TIMEOUT),
}
"""The meaning of a status unless the call gives it another one. The text decides about 406."""

_RECORD_REFUSED: Final = (Outcome.EXPIRED, Cause.RECORD_REFUSED)
_RECORD: Final[dict[int, _Meaning]] = {
    **dict.fromkeys((404, 410), (Outcome.EXPIRED, Cause.RECORD_EXPIRED)),
    **dict.fromkeys((400, 413, 415), _RECORD_REFUSED),
}
_NO_ENDPOINT: Final = dict.fromkeys((404, 405), (Outcome.UNSUPPORTED, Cause.NO_SUCH_ENDPOINT))
_STATUSES_BY_CALL: Final[dict[Call, dict[int, _Meaning]]] = {
    Call.GENERATE: dict.fromkeys((504, 524), (Outcome.GATEWAY_TIMEOUT, Cause.GATEWAY_TIMEOUT)),
    Call.POLL: _RECORD,
    Call.FETCH: _RECORD,
    # Object stores answer 403 for a file that is gone and for a signature that has expired.
    Call.DOWNLOAD: dict.fromkeys((403, 404, 410), (Outcome.EXPIRED, Cause.OUTPUT_EXPIRED)),
    Call.CREDITS: _NO_ENDPOINT,
    Call.UPLOAD: _NO_ENDPOINT,
}

_TEXTS_OF_406: Final = {
    Cause.WRONG_CONTENT_TYPE: r"content[- ]?type|media[- ]?type|application/json",
    Cause.SPEND_LIMIT: r"spend|(team|workspace|organi[sz]ation|monthly|daily|account|budget)\W+(\w+\W+){0,3}limit",
    Cause.INSUFFICIENT_CREDITS: (
        r"(insufficient|not enough|enough|no|low|out of|more|lack\w*|exhaust\w*)\W+(\w+\W+){0,3}(credit|balance|fund)"
        r"|(credit|balance|fund)s?\W+(\w+\W+){0,4}"
        r"(insufficient|exhausted|depleted|low|empty|required|not enough|zero|negative)"
        r"|top[- ]?up|recharge|payment required"
    ),
    Cause.PARAMETER_REFUSED: (
        r"parameter|invalid|not (allowed|supported|permitted)|unsupported|must be|out of range|validation"
        r"|aspect_ratio|output_format|safety_tolerance|input_image|\bseed\b|\bprompt\b"
    ),
}
"""The four causes of a 406, which differ in the text only. The first match wins: an ambiguous text stops the
run, because every later row would probably be refused too."""


def meaning(call: Call, status: int, text: str) -> tuple[Outcome, Cause]:
    """Return the meaning of `status` (not 2xx) for `call`; `text` is the server's error message."""
    by_call = _STATUSES_BY_CALL.get(call, {})
    if status in by_call:
        return by_call[status]
    if call is Call.DOWNLOAD and 300 <= status < 500 and status not in {408, 425, 429}:
        return Outcome.UNUSABLE, Cause.OUTPUT_UNAVAILABLE
    if status == 406:
        causes = (cause for cause, pattern in _TEXTS_OF_406.items() if re.search(pattern, text, re.IGNORECASE))
        cause = next(causes, Cause.NOT_ACCEPTABLE)
        return Outcome.REJECTED if cause is Cause.PARAMETER_REFUSED else Outcome.STOPPED, cause
    if status in _STATUSES:
        return _STATUSES[status]
    if 300 <= status < 400:
        return Outcome.STOPPED, Cause.REDIRECTED
    if 400 <= status < 500:
        return _RECORD_REFUSED if call in {Call.POLL, Call.FETCH} else (Outcome.REJECTED, Cause.REFUSED)
    if status >= 500:
        return Outcome.SERVER_ERROR, Cause.SERVER_ERROR
    # Below 200: this is not an answer in HTTP.
    return Outcome.LOST, Cause.CONNECTION_LOST


def charge(call: Call, outcome: Outcome, cost_usd: float | None) -> Charge:
    """Return whether a call with this outcome was billed. A cost in a refusal is ignored."""
    if outcome is Outcome.SUCCEEDED:
        return Charge.YES
    if outcome is Outcome.REJECTED:
        return Charge.NO
    if outcome in {Outcome.UNUSABLE, Outcome.EXPIRED}:
        return Charge.POSSIBLE if cost_usd is None else Charge.YES
    job_exists = call in {Call.POLL, Call.FETCH, Call.DOWNLOAD}
    if job_exists or outcome in {Outcome.GATEWAY_TIMEOUT, Outcome.LOST, Outcome.ACCEPTED}:
        return Charge.POSSIBLE
    return Charge.NO
