"""What all subcommands have: options made from `Settings`, options for logs, and errors printed as messages.

Importing `Settings` takes longer than `kontext --help` should, so a command makes these options when it needs them.
"""

import sys
from functools import cache, partial
from typing import Any, Final, Literal, get_args, get_origin

import click

from kontext_pipeline import exits, logs

PLANNING: Final = ("manifests", "columns", "data_dir", "backend", "batch_size", "seed")
"""Settings that decide what is planned, and where."""
GENERATION: Final = ("api_version", "concurrency", "rpm")
"""Settings that decide how pictures are generated."""

_LOGS: Final = f"{__name__}.logs"
"""Key in click's `meta`, which the command and its subcommand share."""
POSTS: Final = f"{__name__}.posts"
"""Key in click's `meta` of a function that returns how many requests the command has sent; absent: none."""


class Command(click.Command):
    """A subcommand with the options of `settings` and the log options. Errors of the user end it with a message."""

    def __init__(self, *arguments: Any, settings: tuple[str, ...] = (), **attributes: Any) -> None:
        """`settings`: names in `Settings`; `manifests` becomes the command's arguments."""
        super().__init__(*arguments, **attributes)
        self.settings = settings
        self.params += log_options()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters: of settings first, then the command's own."""
        return [*map(_of_setting, self.settings), *super().get_params(ctx)]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what a manifest is, which click has no place for beside the arguments."""
        if "manifests" in self.settings:
            from kontext_pipeline.settings import Settings

            self.epilog = f"MANIFEST...: {Settings.model_fields['manifests'].description} Default: KONTEXT_MANIFESTS."
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Configure the logs as the options before and after the subcommand say, then run the command."""
        try:
            logs.configure(**ctx.meta.get(_LOGS, {}))
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except (Exception, KeyboardInterrupt) as error:
            posts = ctx.meta.get(POSTS, int)()
            if isinstance(error, BrokenPipeError) and not posts:
                # The reader of a pipe has ended: click knows what to do.
                raise
            from kontext_pipeline import console

            for line in exits.lines_of(error):
                console.complain(line)
            sys.exit(exits.of_error(error, posts=posts))


class Group(click.Group):
    """A group of such subcommands."""

    command_class = Command


@cache
def _of_setting(name: str) -> click.Parameter:
    from kontext_pipeline.settings import Settings, plain_type

    field, kind = Settings.model_fields[name], plain_type(name)
    if name == "manifests":
        return click.Argument([name], nargs=-1, metavar="MANIFEST...")
    is_list = get_origin(kind) is list
    return click.Option(
        # An option is given once for each item of a list.
        [f"--{name.removesuffix('s') if is_list else name}".replace("_", "-"), name],
        multiple=is_list,
        type=click.Choice(get_args(kind)) if get_origin(kind) is Literal else str if is_list else kind,
        metavar={"data_dir": "DIR", "columns": "NAME=THEIRS"}.get(name, "N" if kind in (int, float) else None),
        help=(field.description or "").replace("`", ""),
    )


def _choose_logs(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    chosen = context.meta.setdefault(_LOGS, {"verbosity": 0})
    if parameter.name == "verbosity":
        # `kontext -v run -v` is as verbose as `kontext run -vv`.
        chosen["verbosity"] += value
    elif value is not None:
        chosen[parameter.name] = value


def log_options() -> list[click.Parameter]:
    """Return the options for logs, which stand before or after the subcommand."""
    option = partial(click.Option, expose_value=False, callback=_choose_logs)
    return [
        option(
            ["-v", "--verbose", "verbosity"],
            count=True,
            help="Log more to the terminal: -v what a run does, -vv every step of every request.",
        ),
        option(["--log-file"], metavar="PATH", help="Append a log of every step of every request to this file."),
        option(
            ["--log-format"],
            type=click.Choice(get_args(logs.LogFormat)),
            help="Format of the log, on the terminal and in the file; default: text.",
        ),
    ]
