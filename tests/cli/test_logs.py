"""Log records: where they go, what they look like, and that no secret is in them."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext_pipeline import logs
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.settings import load_settings

KEY = 'SG_not-hex "quoted"\\and%more'.replace(" ", "")
FORMED = "SG_0123456789abcdef"
log = logging.getLogger("kontext_pipeline.of_a_test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    logger = logging.getLogger(logs.PACKAGE)
    before = logger.level
    yield
    logs.configure()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(before)


def every_way(secret: str) -> None:
    """Log a secret in each part of a record."""
    log.warning(f"in the message: {secret}")
    log.warning("in the arguments: %s %r", secret, {"key": secret})
    log.warning("in a field", extra={"cause": f"header {secret}", "batch": [secret]})
    log.warning("in a wrong format: %d", secret)
    log.warning("with the stack", extra={"state": secret}, stack_info=True)
    try:
        raise RuntimeError(f"in an exception: {secret}")
    except RuntimeError:
        log.exception("raised")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("secret", [KEY, FORMED])
def test_no_key_is_in_any_record(
    log_format: logs.LogFormat, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if secret == KEY:
        load_settings(api_key=KEY)
    seen: list[logging.LogRecord] = []

    class Later(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logs.configure(2, log_file=str(tmp_path / "log"), log_format=log_format)
    later = Later()
    logging.getLogger(logs.PACKAGE).addHandler(later)

    every_way(secret)

    written = (tmp_path / "log").read_text(), capsys.readouterr().err
    for text in written:
        assert text.count(logs.HIDDEN) >= 7
        assert "Traceback" in text
        assert not any(form in text for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]))
    assert len(seen) == 6
    for record in seen:
        assert secret not in logging.Formatter().format(record) + str(vars(record)), (
            "handlers that come after get a record without the secret"
        )


def test_the_password_of_the_ledger_is_a_secret_too(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(ledger_url="postgresql://user:hush%2Fhush@db/kontext")
    logs.configure()
    log.warning("can't connect to %s with hush/hush", settings.ledger_url)
    assert "hush" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, ["WARNING"]),
        (1, ["WARNING", "INFO"]),
        (2, ["WARNING", "INFO", "DEBUG"]),
        (3, ["WARNING", "INFO", "DEBUG"]),
    ],
)
def test_the_terminal_shows_what_was_asked_for_and_the_file_has_everything(
    verbosity: int, shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(verbosity, log_file=str(tmp_path / "log"))
    log.warning("one")
    log.info("two")
    log.debug("three")
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == shown
    assert [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "WARNING",
        "INFO",
        "DEBUG",
    ]


def test_a_line_has_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(1)
    fields = {
        "attempt": 7,
        "fingerprint": "0123456789ab",
        "cost_usd": 0.1,
        "seconds": 24.34,
        "cause": None,
        "other": 1,
    }
    log.info("settled", extra=fields)
    line = capsys.readouterr().err
    assert line.endswith("INFO of_a_test: settled [attempt=7 fingerprint=0123456789ab seconds=24.34 cost_usd=0.1]\n")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(1, log_format="json")
    log.info("two\nlines", extra={"status_code": 503, "seconds": 0.5})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("raised")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "kontext_pipeline.of_a_test",
        "message": "two\nlines",
        "status_code": 503,
        "seconds": 0.5,
    }
    assert second["exception"].endswith("ValueError: no")


def test_configuring_again_replaces_what_was_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(2, log_file=str(tmp_path / "first"))
    logs.configure(0, log_file=str(tmp_path / "second"))
    log.warning("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "first").read_text() == ""


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--log-file is .*nowhere"):
        logs.configure(log_file=str(tmp_path / "nowhere" / "log"))
