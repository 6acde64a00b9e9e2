"""The bodies of requests and answers. These models validate, and the OpenAPI document is made from them."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from kontext_pipeline.sandbox.account import Usd
from kontext_pipeline.sandbox.faults import Fault
from kontext_pipeline.sandbox.request_log import LogEntry
from kontext_pipeline.segmind import model

DEFAULT_SEED: Final = 123
"""The provider's default, by the source document."""
MAX_UPLOADS: Final = 32
"""Files in one call of upload-asset."""

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]


def _reject_text_and_booleans(value: object) -> object:
    # JSON has no integers: 3.0 is the integer 3. "3" and true are none, although pydantic would convert them.
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


Number = BeforeValidator(_reject_text_and_booleans)
Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), Number]
Tolerance = Annotated[int, Field(ge=model.SAFETY_TOLERANCES[0], le=model.SAFETY_TOLERANCES[-1]), Number]
Seed = Annotated[int, Field(ge=model.SEEDS[0], le=model.SEEDS[-1]), Number]
Count = Annotated[int, Field(ge=0)]
Uri = Annotated[str, Field(min_length=1, json_schema_extra={"format": "uri"})]
Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
FaultRow = Annotated[Fault, WithJsonSchema({"type": "object", "description": "One row of a fault file."})]


class Generation(BaseModel):
    """The parameters of the model, with the provider's defaults. Unknown fields are ignored.

    Without `input_image` it means text-to-image here. The provider would edit a demo picture of its own.
    """

    prompt: Annotated[str, Field(min_length=1, pattern=r"\S")]
    input_image: Uri = ""
    aspect_ratio: Literal[model.ASPECT_RATIOS] = model.DEFAULT_ASPECT_RATIO  # type: ignore[valid-type]
    output_format: Literal[model.OUTPUT_FORMATS] = model.DEFAULT_OUTPUT_FORMAT  # type: ignore[valid-type]
    safety_tolerance: Tolerance = model.DEFAULT_SAFETY_TOLERANCE
    seed: Seed = DEFAULT_SEED


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
    """Why a request is refused."""

    error: str


class AuthError(Error):
    """Why a key is refused."""

    error_description: str
    status_code: int


class Submission(BaseModel):
    """An accepted job, and the URLs of its status and its result."""

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
    """The state of a job that failed."""

    status: Literal["FAILED"]
    error: str


class Credits(BaseModel):
    """What is left on the account, USD."""

    credits: float
    free_credits: Annotated[float, Field(serialization_alias="free-credits")] = 0.0


class Uploaded(BaseModel):
    """The URLs of stored uploads, in the order in which they were sent."""

    file_urls: list[Uri]
    message: str = "Files uploaded successfully"


class LogTotals(BaseModel):
    """Totals of the request log; money in USD."""

    posts: Count
    billed: Count
    cost: Usd
    running: Count
    balance: Usd
    held: Usd


class LogPage(BaseModel):
    """Totals, and the entries after the requested sequence number."""

    totals: LogTotals
    entries: list[LogEntry]


class Faults(BaseModel):
    """The faults in force, and how often each has struck."""

    seed: int
    faults: list[dict[str, Any]]
    struck: list[Count]
