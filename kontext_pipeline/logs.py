"""Log records: their formats, their destinations, and the filter that removes secrets from them.

Modules log through `logging.getLogger(__name__)` and put figures into `extra`, under the keys in `FIELDS`. Handlers are
added by the command line (`configure`) and by the Dagster room alone.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.escaping import displayable, one_line

LogFormat = Literal["text", "json"]

PACKAGE: Final = "kontext_pipeline"
"""Name of the logger above all loggers of the package."""
FIELDS: Final = ("attempt", "fingerprint", "batch", "state", "cause", "status_code", "seconds", "cost_usd")
"""Keys of `extra` that are written out. `seconds` and `cost_usd` are in the units that they name."""
HIDDEN: Final = "[hidden]"
"""Text that replaces a secret."""

_KEY_FORM: Final = "SG_[0-9A-Fa-f]{16}"
_secrets: set[str] = set()
_pattern = re.compile(_KEY_FORM)
_handlers: list[logging.Handler] = []


def hide(*secrets: str) -> None:
    """Replace these texts by `[hidden]` in all records from now on. Texts in the form of an API key always are."""
    global _pattern  # noqa: PLW0603  compiled once, not for each record
    for secret in filter(None, secrets):
        _secrets.update({secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]})
    # The longest first: one secret may be part of another.
    known = sorted(map(re.escape, _secrets), key=len, reverse=True)
    _pattern = re.compile("|".join([*known, _KEY_FORM]))


def redact(text: str) -> str:
    """Return `text` without secrets."""
    return _pattern.sub(HIDDEN, text)


class Redaction(logging.Filter):
    """Lets every record pass, after replacing secrets in its message, arguments, extra fields and traceback.

    The record itself is changed, so handlers that come after see the clean one too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  a wrong format string must not print its arguments, as logging would
            message = f"{record.msg!r} {record.args!r}"
        record.msg, record.args = redact(message), ()
        if record.exc_info and record.exc_info[0] is not None:
            text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_text = redact(text)
            if record.exc_text != text:
                # Handlers may format the exception themselves.
                record.exc_info = None
        for name, value in list(vars(record).items()):
            if (
                name != "exc_info"
                and not isinstance(value, int | float | None)
                and (clean := redact(str(value))) != str(value)
            ):
                setattr(record, name, clean)
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the structured fields of a record, without those that are None."""
    return {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}


def line_of(record: logging.LogRecord) -> str:
    """Return a record's message, followed by its fields as `[name=value ...]`."""
    fields = " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in fields_of(record).items()
    )
    return f"{record.getMessage()} [{fields}]" if fields else record.getMessage()


class TextFormatter(logging.Formatter):
    """One line a record: UTC time, level, logger, message, fields. A traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line."""
        name = record.name.removeprefix(f"{PACKAGE}.")
        return f"{_time_of(record)} {record.levelname} {name}: {one_line(line_of(record))}"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and the traceback."""
        return displayable(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, the fields, and `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, without a line break."""
        document = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_text:
            document["exception"] = record.exc_text
        return displayable(json.dumps(document, ensure_ascii=False, default=str))


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`. While the progress bar is shown, rich replaces it and puts lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(verbosity: int = 0, *, log_file: str | None = None, log_format: LogFormat = "text") -> None:
    """Send the package's records to standard error and to a file. Replaces the handlers of an earlier call.

    Standard error gets WARNING and above; with `verbosity` 1 INFO too, with 2 DEBUG too. The file, to which is appended,
    gets everything.

    Raises:
        SettingsError: the file can't be written.
    """
    logger = logging.getLogger(PACKAGE)
    while _handlers:
        handler = _handlers.pop()
        logger.removeHandler(handler)
        handler.close()
    terminal = _StandardError()
    terminal.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    _handlers.append(terminal)
    if log_file is not None:
        try:
            _handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            raise SettingsError(
                f"--log-file is {log_file}: it can't be written ({error.strerror}). Name a file in a folder that exists. "
                "Nothing was sent."
            ) from None
    for handler in _handlers:
        handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
        handler.addFilter(Redaction())
        logger.addHandler(handler)
    logger.setLevel(terminal.level if log_file is None else logging.DEBUG)


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
