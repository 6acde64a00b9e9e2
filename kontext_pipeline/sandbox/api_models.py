"""The bodies of requests and answers. These models validate, and the OpenAPI document is made from them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.functional_serializers import PlainSerializer
from pydantic.json_schema import SkipJsonSchema

from kontext_pipeline.sandbox.account import to_usd
from kontext_pipeline.sandbox.faults import Fault
from kontext_pipeline.segmind.model import (
    ASPECT_RATIOS,
    DEFAULT_ASPECT_RATIO,
    DEFAULT_OUTPUT_FORMAT,
    DEFAULT_SAFETY_TOLERANCE,
    OUTPUT_FORMATS,
    SAFETY_TOLERANCES,
    SEEDS,
)

DEFAULT_SEED: Final = 123
"""The provider's default, by the source document."""
MAX_UPLOADS: Final = 32
"""Files in one call of upload-asset."""

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]
LogState = Literal["RECEIVED", "REFUSED", "RUNNING", "COMPLETED", "FAILED", "ABANDONED"]


def _reject_text_and_booleans(value: object) -> object:
    # JSON has no integers: 3.0 is the integer 3. "3" and true are none, although pydantic would convert them.
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


def _reject_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _reject_null(value: object) -> object:
    if value is None:
        raise ValueError("must be a string")
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return check


Number = BeforeValidator(_reject_text_and_booleans)
Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), Number]
Uri = Annotated[str, Field(json_schema_extra={"format": "uri"})]
Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Count = Annotated[int, Field(ge=0)]
Usd = Annotated[int, PlainSerializer(to_usd, return_type=float)]
"""Micro-dollars, served as USD."""
Timestamp = Annotated[
    datetime,
    PlainSerializer(lambda at: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
FaultRow = Annotated[
    Fault,
    WithJsonSchema({"type": "object", "description": "One row of a fault file: see Fault."}),
]


class Generation(BaseModel):
    """The parameters of the model, with the provider's defaults. Unknown fields are ignored.

    An absent `input_image` means text-to-image here. The provider would edit a demo picture of its own.
    """

    prompt: Annotated[
        str, AfterValidator(_reject_blank), Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})
    ]
    input_image: Annotated[
        Uri | SkipJsonSchema[None],
        BeforeValidator(_reject_null),
        Field(description="The reference image: an http(s) URL or a data: URI. Absent: text-to-image."),
    ] = None
    aspect_ratio: Annotated[
        str, AfterValidator(_one_of(ASPECT_RATIOS)), Field(json_schema_extra={"enum": list(ASPECT_RATIOS)})
    ] = DEFAULT_ASPECT_RATIO
    output_format: Annotated[
        str, AfterValidator(_one_of(OUTPUT_FORMATS)), Field(json_schema_extra={"enum": list(OUTPUT_FORMATS)})
    ] = DEFAULT_OUTPUT_FORMAT
    safety_tolerance: Annotated[int, Field(ge=SAFETY_TOLERANCES[0], le=SAFETY_TOLERANCES[-1]), Number] = (
        DEFAULT_SAFETY_TOLERANCE
    )
    seed: Annotated[int, Field(ge=SEEDS[0], le=SEEDS[-1]), Number] = DEFAULT_SEED


class Upload(BaseModel):
    """Images to keep, as data: URIs."""

    data_urls: Annotated[
        list[Annotated[str, Field(pattern="^[Dd][Aa][Tt][Aa]:")]], Field(min_length=1, max_length=MAX_UPLOADS)
    ]


class SetFaults(BaseModel):
    """Faults to put in force: those of the named profiles first, then `faults`."""

    model_config = ConfigDict(extra="forbid")

    profiles: tuple[str, ...] = ()
    faults: tuple[FaultRow, ...] = ()


class SetAccount(BaseModel):
    """Account fields to set; absent ones stay as they are. A null limit is no limit."""

    model_config = ConfigDict(extra="forbid")

    balance: Money | None = None
    rpm: Annotated[int, Field(ge=1, le=1_000_000_000), Number] | None = None
    team_spend_limit: Money | None = None


class Error(BaseModel):
    """An error in the gateway's words."""

    error: str


class AuthError(Error):
    """An error about the key."""

    error_description: str
    status_code: int


class Submission(BaseModel):
    """A v2 job that was accepted."""

    request_id: Uuid
    status: Literal["QUEUED"] = "QUEUED"
    poll_url: Uri
    status_url: Uri
    response_url: Uri


class Metrics(BaseModel):
    """What a job cost (USD) and how long it took (seconds)."""

    cost: float
    remaining_credits: float
    queue_time: float
    inference_time: float
    total_time: float
    retry_count: Count = 0


class Status(BaseModel):
    """The state of a job."""

    request_id: str
    status: State
    metrics: Metrics | SkipJsonSchema[None] = None
    error: str | SkipJsonSchema[None] = None


class Image(BaseModel):
    """One picture of a result."""

    url: Uri
    content_type: str


class Result(Status):
    """The state of a job, and its picture once it is COMPLETED."""

    output: Uri | SkipJsonSchema[None] = None
    images: list[Image] | SkipJsonSchema[None] = None


class Failure(Status):
    """A job that FAILED."""

    status: Literal["FAILED"]
    error: str


class Credits(BaseModel):
    """What is left on the account, USD."""

    model_config = ConfigDict(validate_by_name=True)

    credits: float
    free_credits: Annotated[float, Field(alias="free-credits")]


class Uploaded(BaseModel):
    """The URLs of uploaded files."""

    file_urls: list[Uri]
    message: str = "Files uploaded successfully"


@dataclass(slots=True)
class LogEntry:
    """One POST to a model."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(json_schema_serialization_defaults_required=True)

    sequence: Annotated[int, Field(ge=1)]
    """1 for the first POST since the start or the last reset."""
    request_id: str
    api: Literal["v1", "v2"]
    received_at: Timestamp
    body_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the canonical form of the JSON body (see `canonical_sha256`), or of the raw bytes if it is not JSON."""
    prompt: str | None = None
    seed: int | None = None
    status: int | None = None
    """The HTTP status of the answer. None: no answer was given (yet, or the connection was cut)."""
    state: LogState = "RECEIVED"
    """ABANDONED: the sandbox stopped before the generation ended."""
    billed: bool = False
    cost: Usd = 0
    fault: str | None = None
    """The kind of the fault that struck, if one did."""
    client_gone: bool = False
    """v1: the client had hung up when the answer was ready. The generation is billed all the same."""


class LogTotals(BaseModel):
    """Totals of the request log; money in USD."""

    posts: Count
    billed: Count
    cost: float
    running: Count
    balance: float
    held: float


class LogPage(BaseModel):
    """Totals, and the entries that were asked for."""

    totals: LogTotals
    entries: list[LogEntry]


class Faults(BaseModel):
    """The faults in force, and how often each has struck."""

    seed: int
    faults: list[dict[str, Any]]
    struck: list[Count]


class AccountState(BaseModel):
    """The account; money in USD."""

    balance: float
    held: float
    spent: float
    price: float
    rpm: int | None
    team_spend_limit: float | None


class ResetDone(BaseModel):
    """Everything has started anew."""

    reset: Literal[True] = True
