"""The types of settings: what each kind of value must look like, and what a user is told where it does not."""

import re
import shlex
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

Backend = Literal["segmind", "sandbox"]
ApiVersion = Literal["v1", "v2"]
AspectRatio = Literal[
    "match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2"
]
BudgetPeriod = Literal["all", "day", "month"]

SEGMIND_URL: Final = "https://api.segmind.com"


def _http_url(value: str) -> str:
    """Return `value` without a slash at its end. The client relies on this check and makes none of its own."""
    value = value.strip().rstrip("/")
    if "@" in value:
        raise ValueError("a user name or password in the URL is not allowed")
    try:
        parts = urlsplit(value)
        # A port that is no number, or too large, raises.
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or re.search(r"[^!-~]|\\", value):
        raise ValueError(
            f"http:// or https://, a host, and if needed a port and a path are expected, like {SEGMIND_URL}"
        )
    return value


def _alert_url(value: SecretStr | None) -> SecretStr | None:
    """Return the address of alerts. Its path and its query are part of it, and may be secret."""
    if value is None:
        return None
    address = value.get_secret_value().strip()
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.fragment or re.search(r"[^!-~]|[\\@]", parts.netloc + parts.path):
        raise ValueError("the https:// address of a webhook is expected, without a user name and in ASCII")
    return SecretStr(address)


def _alert_template(value: SecretStr | None) -> SecretStr | None:
    if value is None:
        return None
    # Imported here: few users set this.
    from kontext_pipeline.alert_template import check_template

    return SecretStr(check_template(value.get_secret_value()))


def _key(value: SecretStr | None) -> SecretStr:
    key = value.get_secret_value().strip() if value else ""
    if not re.fullmatch(r"[!-~]*", key):
        raise ValueError(
            "it has a character that no key has (a space, a line break, a letter beyond ASCII), most likely from "
            "copying; keys look like SG_ and 16 hex digits"
        )
    return SecretStr(key)


def _ledger_url(value: str | None) -> str | None:
    if not value:
        return None
    # Imported here: it takes a third of a second, and few users set this.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(value)
    except ArgumentError as error:
        raise ValueError("an SQLAlchemy URL is expected, such as postgresql://user@host/kontext") from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg2")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError("a ledger is kept in sqlite or postgresql")
    return url.render_as_string(hide_password=False)


def _columns(values: list[str]) -> list[str]:
    from kontext_pipeline.columns import MANIFEST_COLUMNS

    ours = [column.name for column in MANIFEST_COLUMNS]
    names = [value.partition("=")[0].strip() for value in values]
    for value, name in zip(values, names, strict=True):
        if name not in ours or not value.partition("=")[2].strip():
            raise ValueError(f"{value!r} is not NAME=THEIRS, where NAME is one of {', '.join(ours)}")
        if names.count(name) > 1:
            raise ValueError(f"{name} is there more than once")
    return values


def _micro_usd(value: float) -> float:
    if abs(value * 1e6 - round(value * 1e6)) > 1e-3:
        raise ValueError("amounts are kept to a millionth of a USD")
    return value


Url = Annotated[str, AfterValidator(_http_url)]
Key = Annotated[SecretStr | None, AfterValidator(_key)]
AlertUrl = Annotated[SecretStr | None, AfterValidator(_alert_url)]
AlertTemplate = Annotated[SecretStr | None, AfterValidator(_alert_template)]
LedgerUrl = Annotated[str | None, AfterValidator(_ledger_url)]
Usd = Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False), AfterValidator(_micro_usd)]
Rpm = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Words = BeforeValidator(lambda value: shlex.split(value) if isinstance(value, str) else value)
_Owner = Annotated[str, Field(pattern=r"^(team:\S+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})$")]
Owners = Annotated[list[_Owner], NoDecode, Words]
ColumnNames = Annotated[list[str], NoDecode, Words, AfterValidator(_columns)]
Optionally = BeforeValidator(lambda value: None if isinstance(value, str) and not value.strip() else value)
