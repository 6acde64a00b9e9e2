"""Every setting: its environment variable, type, default, unit, check and help text, in one place.

The options of the command line and the fields of the Dagster resources are made from `Settings`. Options override
environment variables, which override a `.env` file in the working directory, which overrides the defaults here.
"""

from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import NoDecode

from kontext_pipeline import logs
from kontext_pipeline.definition_settings import DescriptionSettings, check_env_file
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.setting_types import (
    SEGMIND_URL,
    AlertTemplate,
    AlertUrl,
    ApiVersion,
    AspectRatio,
    Backend,
    BudgetPeriod,
    ColumnNames,
    Key,
    LedgerUrl,
    Optionally,
    Rpm,
    Url,
    Usd,
    Words,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


SEGMIND_UPLOAD_URL: Final = "https://workflows-api.segmind.com/upload-asset"
SANDBOX_PORT: Final = 8765
SANDBOX_KEY: Final = "SG_5a4dba5e5a4dba5e"
"""The key that is sent to the sandbox, which takes any key of the right form. A real key is never sent there."""


class Settings(DescriptionSettings):
    """The settings of one run, from all sources."""

    api_key: Key = Field(
        None,
        validation_alias="SEGMIND_API_KEY",
        description="The key of the Segmind account. Only ever sent in a header.",
    )
    base_url: Annotated[Url | None, Optionally] = Field(
        None,
        validation_alias="SEGMIND_BASE_URL",
        description="Base URL of the API; every other endpoint follows from it.",
    )
    upload_url: Annotated[Url | None, Optionally] = Field(
        None,
        validation_alias="SEGMIND_UPLOAD_URL",
        description="URL to which local input pictures are uploaded; default: the one that belongs to the base URL.",
    )
    backend: Backend = Field(
        "segmind", description="`segmind` is the paid API; `sandbox` is the free stand-in on this machine."
    )
    api_version: ApiVersion = Field("v1", description="`v1` waits for each answer; `v2` submits, polls and fetches.")
    manifests: Annotated[list[str], NoDecode, Words] = Field(
        ["data/demo.csv"],
        description="CSV, TSV, JSON Lines or Parquet files, recipes (.toml) or globs of these, separated by spaces; quote "
        "names that contain spaces.",
    )
    columns: ColumnNames = Field(
        [],
        description="NAME=THEIRS: our column NAME is the manifests' column THEIRS, as in prompt=Prompt. Several are "
        "separated by spaces; quote names that contain spaces.",
    )
    input_roots: Annotated[list[str], NoDecode, Words] = Field(
        [],
        description="Folders of this machine in which manifests may name pictures, and recipes tables, separated by "
        "spaces; the folder of a local manifest is always allowed.",
    )
    private_inputs: bool = Field(
        False,
        description="Allow input pictures at addresses of private networks, localhost among them; they are fetched here "
        "and uploaded.",
    )
    max_rows: int = Field(
        10_000_000,
        ge=1,
        description="Most rows of a manifest, and most pictures that it requests. Planning takes about 0.6 GB of memory "
        "a million.",
    )
    max_columns: int = Field(1000, ge=1, description="Most columns of a manifest; fields of nested ones count each.")
    max_manifest_mb: int = Field(
        4096, ge=1, description="Most MB in a manifest once it is decompressed, pictures in it not counted."
    )
    ledger_url: LedgerUrl = Field(
        None,
        description="SQLAlchemy URL of the ledger (sqlite or postgresql); default: ledger.db in the data directory.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Number from which the seeds of rows without a seed are derived.")
    batch_size: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="Pictures in a batch; each batch is a Dagster partition. Dagster is fast with 10,000 partitions and "
        "slow beyond 100,000, so use 1000 or more for a million rows.",
    )
    concurrency: int = Field(8, ge=1, le=1024, description="Generations in flight at once, per process.")
    rpm: Annotated[Rpm | None, Optionally] = Field(
        None,
        description="Requests a minute that the account allows, over all processes on the ledger; "
        "default: no limit but the 429 answers of the API.",
    )
    budget_usd: Annotated[Usd | None, Optionally] = Field(
        None, description="Cap on what all runs of this ledger may spend, USD."
    )
    budget_period: BudgetPeriod = Field(
        "all", description="Period that `KONTEXT_BUDGET_USD` caps: `all` time, a UTC `day` or `month`."
    )
    aspect_ratio: Annotated[AspectRatio | None, Optionally] = Field(
        None,
        description="Aspect ratio of rows that edit a picture, name none and have no picture yet, such as "
        "`match_input_image`; default: the provider's, 16:9.",
    )
    clamp_safety_tolerance: bool = Field(
        False, description="Send 2 where a row with an input picture asks for more; the table records both values."
    )
    keep_inputs: Annotated[bool | None, Optionally] = Field(
        None,
        description="Keep a copy of every input picture in `inputs/` before its row is paid for, and check it; `false` "
        "passes public URLs and data URIs on unseen. Default: `true` for the paid API, `false` for the sandbox.",
    )
    input_max_mb: float = Field(20.0, gt=0, le=1024, description="Largest input picture, MB.")
    input_min_side: int = Field(256, ge=1, le=10_000, description="Least width and height of an input picture, pixels.")
    input_max_ratio: float = Field(
        8.0, ge=1, le=10_000, description="Most that the longer side of an input picture is, by the shorter one."
    )
    input_animated: bool = Field(
        False, description="Allow input pictures with more than one frame or page; the provider uses the first."
    )
    input_max_age_s: float = Field(
        3600.0,
        ge=0,
        description="Time after which the address of a kept input picture is asked whether the picture has changed, "
        "before a row uses it, seconds.",
    )
    server_error_retries: int = Field(
        6, ge=0, le=100, description="Times a row is tried again in a run after 500, 502 or 503."
    )
    unknown_retries: int = Field(
        1,
        ge=0,
        le=100,
        description="Times, over all runs, a row is tried again for each way of losing an answer (none came, a 504 on "
        "v1, no picture in it). Each such attempt may have been charged.",
    )
    backoff_base_s: float = Field(
        1.0, gt=0, le=3600, description="First pause before a retry, seconds; it doubles each time."
    )
    backoff_cap_s: float = Field(60.0, gt=0, le=3600, description="Longest pause before a retry, seconds.")
    backoff_jitter: float = Field(0.5, ge=0, le=1, description="Share of each pause that is drawn at random, 0 to 1.")
    connect_timeout_s: float = Field(10.0, gt=0, le=600, description="Wait for a connection, seconds.")
    answer_timeout_s: float = Field(
        300.0, gt=0, le=7200, description="Wait for an answer, seconds; a typical one takes 24.34."
    )
    job_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="v2: wait for a job before it is left to a later run, seconds."
    )
    drain_s: float = Field(120.0, ge=0, le=7200, description="After a stop: wait for answers in flight, seconds.")
    lease_s: float = Field(
        60.0,
        ge=1,
        le=3600,
        description="Time without a heartbeat after which another process takes over a run's claims, seconds.",
    )

    alert_url: AlertUrl = Field(
        None,
        description="Address that is told of a stop, of budgets at 50, 80 and 100 %, of failures and of a finished run or "
        "backfill, once each: a Slack webhook, or any that `KONTEXT_ALERT_TEMPLATE` suits.",
    )
    alert_template: AlertTemplate = Field(
        None,
        description="JSON that is sent to `KONTEXT_ALERT_URL`, with placeholders such as `$text`; default: that of Slack.",
    )
    alert_failure_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of a run's pictures above which failures are told, from 20 outcomes on, 0 to 1.",
    )

    quality: Annotated[str | None, Optionally] = Field(
        None,
        description="TOML file with the thresholds from which the issues of pictures follow, a path or an fsspec URL; "
        "default: those of docs/quality.md.",
    )

    @property
    def paid(self) -> bool:
        """Whether generations cost real money."""
        return self.backend == "segmind"

    @property
    def keeps_inputs(self) -> bool:
        """Whether public input pictures are kept before a row is paid for."""
        return self.paid if self.keep_inputs is None else self.keep_inputs

    @property
    def resolved_base_url(self) -> str:
        """The base URL of the chosen backend's API."""
        return self.base_url or (SEGMIND_URL if self.paid else f"http://127.0.0.1:{SANDBOX_PORT}")

    @property
    def resolved_upload_url(self) -> str:
        """The URL to which local pictures are uploaded: on the API's host, but for the provider, which has another host."""
        base = self.resolved_base_url
        return self.upload_url or (SEGMIND_UPLOAD_URL if base == SEGMIND_URL else f"{base}/upload-asset")

    @property
    def column_mapping(self) -> dict[str, str]:
        """Our column names, each with the manifests' name for it."""
        pairs = (value.partition("=") for value in self.columns)
        return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}

    @property
    def key(self) -> str:
        """The API key to send.

        Raises:
            SettingsError: the backend is the paid one and no key is set.
        """
        key = self.api_key.get_secret_value() if self.api_key and self.paid else ""
        if self.paid and not key:
            raise SettingsError(
                "no API key: set SEGMIND_API_KEY in the environment or in a .env file (a key looks like SG_ and "
                "16 hex digits), or try everything at no cost with KONTEXT_BACKEND=sandbox. Nothing was sent."
            )
        return key or SANDBOX_KEY

    @property
    def secrets(self) -> list[str]:
        """Texts that no log may contain: the API key, the password of the ledger's database, the address of alerts."""
        key = self.api_key.get_secret_value() if self.api_key else ""
        password = urlsplit(self.ledger_url or "").password or ""
        address = self.alert_url.get_secret_value() if self.alert_url else ""
        # What names the receiver is behind the host. A short text would be hidden in many a word.
        target = "".join(address.split("/", 3)[3:])
        target = target if len(target) >= 8 else ""
        return [secret for secret in (key, password, unquote(password), address, target) if secret]

    @property
    def resolved_ledger_url(self) -> "str | URL":
        """URL of the ledger, in SQLAlchemy's form. As text, a path with `?`, `#` or `%2F` in it would name another file.

        Raises:
            SettingsError: the data directory is remote and `KONTEXT_LEDGER_URL` is not set.
        """
        if self.ledger_url:
            return self.ledger_url
        if "://" in self.data_dir and not self.data_dir.startswith("file://"):
            raise SettingsError(
                f"KONTEXT_DATA_DIR is {self.data_dir}: a remote directory can't hold the ledger's database. "
                "Name one with KONTEXT_LEDGER_URL, such as postgresql://user@host/kontext or sqlite:////var/lib/kontext.db."
            )
        path = Path(self.data_dir.removeprefix("file://")).expanduser().absolute()
        # Imported here, as in `_ledger_url`.
        from sqlalchemy.engine import URL

        return URL.create("sqlite", database=str(path / "ledger.db"))


def environment_variable(name: str) -> str:
    """Return the environment variable of a setting, `SEGMIND_...` or `KONTEXT_...`."""
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"KONTEXT_{name.upper()}"


def plain_type(name: str) -> Any:
    """Return a setting's type without constraints and without None: `int`, `str`, `Literal[...]`, `list[str]`, ..."""
    found: Any = Settings.model_fields[name].annotation
    while get_origin(found) in (Annotated, Union, UnionType):
        found = next(part for part in get_args(found) if part is not type(None))
    return found


def load_settings(**options: Any) -> Settings:
    """Read the settings from all sources, and hide their secrets from all logs.

    `options` that are not None and not empty override every other source.

    Raises:
        SettingsError: one or more values are not allowed, or the `.env` file can't be read. The message names each with
            its variable.
    """
    check_env_file()
    try:
        settings = Settings(**{name: value for name, value in options.items() if value not in (None, ())})
    except ValidationError as error:
        raise SettingsError("\n".join(map(_problem, error.errors(include_url=False)))) from None
    logs.hide(*settings.secrets)
    return settings


def _problem(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    variable = environment_variable(name) if name in Settings.model_fields else name
    # A ledger's URL may hold a password, and so may one that was refused for it.
    secret = any(part in variable for part in ("KEY", "LEDGER", "ALERT_URL", "ALERT_TEMPLATE"))
    secret = secret or ("URL" in variable and "@" in str(problem["input"]))
    value = "" if secret else f" is {problem['input']!r}"
    return f"{variable}{value}: {problem['msg'].removeprefix('Value error, ')}. Nothing was sent."
