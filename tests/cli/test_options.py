"""Options of the commands: they follow from the settings, and log options stand before or after the subcommand."""

import logging
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from kontext_pipeline.cli import main
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.launcher import _as_environment
from kontext_pipeline.settings import Settings, load_settings

PLANNED = ["columns", "data_dir", "backend", "batch_size", "seed", "api_version", "concurrency", "rpm"]
EXPECTED = {
    "plan": ["manifests", *PLANNED],
    "run": ["manifests", *PLANNED, "budget", "retry_failed", "retry_unknown", "yes"],
    "ui": ["manifests", *PLANNED, "port"],
    "failures": ["data_dir", "backend", "csv_path"],
    "status": ["data_dir", "as_json"],
}
LOG_OPTIONS = ["verbosity", "log_file", "log_format"]


def parameters(command: str) -> dict[str, click.Parameter]:
    found = main.commands[command].get_params(click.Context(main.commands[command]))
    return {str(one.name): one for one in found if "--help" not in one.opts}


@pytest.mark.parametrize("command", EXPECTED)
def test_a_command_has_the_options_of_its_settings(command: str) -> None:
    found = parameters(command)
    assert sorted(found) == sorted([*EXPECTED[command], *LOG_OPTIONS])
    for name, option in found.items():
        if name in Settings.model_fields and isinstance(option, click.Option):
            flag = "--column" if name == "columns" else f"--{name.replace('_', '-')}"
            assert option.opts == [flag]
            assert option.help == str(Settings.model_fields[name].description).replace("`", "")
            assert option.default is None or option.to_info_dict()["default"] is None, "the settings have the default"


def test_types_and_choices_are_those_of_the_settings() -> None:
    found = parameters("plan")
    assert isinstance(found["backend"].type, click.Choice)
    assert tuple(found["backend"].type.choices) == get_args(Settings.model_fields["backend"].annotation)
    assert found["seed"].type is click.INT
    assert found["rpm"].type is click.FLOAT
    assert found["manifests"].nargs == -1
    assert found["data_dir"].metavar == "DIR"
    assert found["seed"].metavar == "N"


@pytest.mark.parametrize(
    ("arguments", "level", "lines"),
    [
        (["status"], logging.WARNING, None),
        (["status", "-v"], logging.INFO, None),
        (["-v", "status"], logging.INFO, None),
        (["-v", "status", "-v"], logging.DEBUG, None),
        (["status", "-vv"], logging.DEBUG, None),
        (["status", "--log-file", "log"], logging.DEBUG, "text"),
        (["--log-file", "log", "status", "--log-format", "json"], logging.DEBUG, "json"),
        (["--log-format", "json", "status", "--log-file", "log"], logging.DEBUG, "json"),
    ],
)
def test_log_options_stand_before_or_after_the_subcommand(
    arguments: list[str], level: int, lines: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KONTEXT_DATA_DIR", str(tmp_path / "nothing"))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2, "there is no ledger"
    logger = logging.getLogger("kontext_pipeline")
    assert logger.level == level
    logger.warning("a line")
    if lines:
        [line] = (tmp_path / "log").read_text().splitlines()
        assert line.startswith("{") == (lines == "json")


def test_a_log_file_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["plan", "--log-file", str(tmp_path / "nowhere" / "log")])
    assert done.exit_code == 2
    assert "can't be written" in done.stderr


def test_columns_are_mapped_by_option_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tsv").write_text("Prompt\tthe photo\na cat\thttps://example.org/a.png\n")
    arguments = ["plan", "m.tsv", "--backend", "sandbox", "--data-dir", "data"]
    said = "prompt is Prompt, input_image is the photo"
    mapping = ["--column", "prompt=Prompt", "--column", "input_image=the photo"]
    by_option = CliRunner().invoke(main, [*arguments, *mapping])
    assert by_option.exit_code == 0
    assert said in " ".join(by_option.stdout.split())
    monkeypatch.setenv("KONTEXT_COLUMNS", "prompt=Prompt 'input_image=the photo'")
    assert said in " ".join(CliRunner().invoke(main, arguments).stdout.split())


@pytest.mark.parametrize("value", ["promt=Prompt", "prompt", "prompt=", "prompt=a prompt=b"])
def test_a_mapping_that_is_none(value: str) -> None:
    with pytest.raises(SettingsError, match="KONTEXT_COLUMNS"):
        load_settings(columns=value)


def test_the_ui_gets_no_secret_as_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads secrets where this process has read them: as text of a setting they would be stars."""
    for name, text in {
        "SEGMIND_API_KEY": "SG_0123456789abcdef",
        "KONTEXT_ALERT_URL": "https://hooks.example.com/services/T0",
        "KONTEXT_ALERT_TEMPLATE": '{"text": "$text"}',
        "KONTEXT_ALERT_FAILURE_SHARE": "0.5",
    }.items():
        monkeypatch.setenv(name, text)
    given = _as_environment(load_settings())
    assert given["KONTEXT_ALERT_FAILURE_SHARE"] == "0.5"
    assert "*" not in "".join(given.values())
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load_settings().alert_url is not None


def test_the_ui_gets_the_lists_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = load_settings(manifests=["a b.csv", "s3://bucket/m.csv"], columns=["id=the id"], input_roots=["in puts"])
    for name, value in _as_environment(given).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    taken = load_settings()
    assert taken.manifests == [str(tmp_path / "a b.csv"), "s3://bucket/m.csv"]
    assert taken.input_roots == [str(tmp_path / "in puts")]
    assert taken.column_mapping == {"id": "the id"}
