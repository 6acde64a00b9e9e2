"""Command-line options: those made from `Settings`, and those that say where logs go.

A command makes its settings' options when it is run or asked for help, because reading `Settings` takes longer than
`kontext --help` should.
"""

from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

import click

from kontext_pipeline import logs
from kontext_pipeline.errors import SettingsError

PLANNING: Final = ("manifests", "data_dir", "backend", "batch_size", "seed")
"""Settings that decide what is planned, and where."""
GENERATION: Final = ("api_version", "concurrency", "rpm")
"""Settings that decide how pictures are generated."""

_LOGS: Final = f"{__name__}.logs"
"""Key in click's `meta`, which all contexts of a command line share."""


class Command(click.Command):
    """A subcommand with the options of `settings`, and the log options."""

    def __init__(self, *arguments: Any, settings: tuple[str, ...] = (), **attributes: Any) -> None:
        """`settings`: names in `Settings`; `manifests` becomes the command's arguments."""
        super().__init__(*arguments, **attributes)
        self.settings = settings
        self.params += _log_options()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters: of settings first, then the command's own."""
        return [*map(_of_setting, self.settings), *super().get_params(ctx)]

    def invoke(self, ctx: click.Context) -> Any:
        """Configure the logs as the options before and after the subcommand say, then run the command."""
        try:
            logs.configure(**ctx.meta.get(_LOGS, {}))
        except SettingsError as error:
            raise click.UsageError(str(error)) from None
        return super().invoke(ctx)


class Group(click.Group):
    """The `kontext` command itself, which takes the log options as its subcommands do."""

    command_class = Command

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        """Take what `click.Group` takes."""
        super().__init__(*arguments, **attributes)
        self.params += _log_options()


@cache
def _of_setting(name: str) -> click.Parameter:
    from kontext_pipeline.settings import Settings, plain_type

    field, kind = Settings.model_fields[name], plain_type(name)
    if get_origin(kind) is list:
        return click.Argument([name], nargs=-1, metavar=f"{name.removesuffix('s').upper()}...")
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    choice = get_origin(kind) is Literal
    return click.Option(
        [f"--{name.replace('_', '-')}"],
        type=click.Choice(get_args(kind)) if choice else kind,
        metavar=None if choice else str(extra.get("metavar", "N")),
        help=(field.description or "").replace("`", ""),
    )


def _log_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["-v", "--verbose", "verbosity"],
            count=True,
            expose_value=False,
            callback=_choose_logs,
            help="Log more to the terminal: -v what a run does, -vv every step of every request.",
        ),
        click.Option(
            ["--log-file"],
            metavar="PATH",
            expose_value=False,
            callback=_choose_logs,
            help="Append a log of every step of every request to this file.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(get_args(logs.LogFormat)),
            expose_value=False,
            callback=_choose_logs,
            help="Format of the log, on the terminal and in the file; default: text.",
        ),
    ]


def _choose_logs(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    chosen = context.meta.setdefault(_LOGS, {"verbosity": 0})
    if parameter.name == "verbosity":
        # `kontext -v run -v` is as verbose as `kontext run -vv`.
        chosen["verbosity"] += value
    elif value is not None:
        chosen[parameter.name] = value
