"""The `kontext` command: reads options, calls the pipeline as the Dagster assets do, and prints the result.

Commands import other modules only when they run, so that `kontext --help` answers at once.
"""

import contextlib
import ctypes
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kontext_pipeline.commands.subcommand import GENERATION, PLANNING, POSTS, Group, log_options
from kontext_pipeline.exits import Exit

if TYPE_CHECKING:
    from kontext_pipeline.pipeline import Pipeline

HEAPS: Final = 2
"""Heaps that all threads share. Python threads seldom allocate at the same time, so few heaps are enough."""
M_ARENA_MAX: Final = -8
"""Number of this option in glibc's `mallopt`."""


def _limit_memory() -> None:
    """Let this process and the processes that Dagster starts use freed memory again."""
    # Read when pyarrow is first imported. Its own allocator keeps 20 MB and more that planning has freed.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # glibc gives threads up to eight heaps per core, and each heap keeps 20 MB and more of freed pictures.
    if "MALLOC_ARENA_MAX" not in os.environ:
        os.environ["MALLOC_ARENA_MAX"] = str(HEAPS)
        # The variable counts for processes that start later; for this one there is a function, in glibc alone.
        with contextlib.suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


@click.group(
    cls=Group,
    params=log_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="kontext-pipeline", prog_name="kontext")
def main() -> None:
    """Augment image datasets with FLUX.1 Kontext [max]: a manifest goes in, a dataset comes out, and every
    image that was paid for is kept, once.

    Settings come from options, then the environment, then a .env file; the README lists them. `kontext run
    --backend sandbox MANIFEST` tries everything at no cost.
    """
    _limit_memory()


@main.command(settings=(*PLANNING, *GENERATION))
def plan(**options: Any) -> None:
    """Show what a manifest asks for and what it will cost. Sends nothing."""
    from kontext_pipeline import console

    with _pipeline(options) as pipeline:
        planned = pipeline.plan()
        console.show_plan(pipeline.settings, planned, pipeline.estimate(planned), pipeline.warnings(planned))


@main.command(settings=(*PLANNING, *GENERATION))
@click.option("--budget", type=float, metavar="USD", help="The most that this run may spend.")
@click.option("--retry-failed", is_flag=True, help="Try rows again that failed for good.")
@click.option("--retry-unknown", is_flag=True, help="Try rows once more whose answers were lost too often.")
@click.option("--yes", is_flag=True, help="Don't ask before money is spent, or when the balance is too small.")
@click.pass_context
def run(
    context: click.Context,
    /,
    *,
    budget: float | None,
    retry_failed: bool,
    retry_unknown: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Generate the pictures of a manifest that don't exist yet.

    Exit status: 0 every row has its picture; 1 some rows failed for good; 2 nothing was sent, because the
    manifest, the settings or the key was wrong; 3 stopped early, start again to go on.
    """
    from kontext_pipeline.commands.run import RunCommand

    # A termination is handled as Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _pipeline(options) as pipeline:
        context.meta[POSTS] = lambda: pipeline.posts
        command = RunCommand(pipeline, budget=budget, retry_failed=retry_failed, retry_unknown=retry_unknown, yes=yes)
        sys.exit(command.run())


@main.command(settings=("data_dir", "backend"))
@click.option("--csv", "csv_path", metavar="FILE", type=click.Path(dir_okay=False), help="Write every row as CSV too.")
def failures(*, csv_path: str | None, **options: Any) -> None:
    """List the rows without a picture by cause, with the server's words, what to do and what that costs.

    Exit status: 0 there are none; 1 some are listed; 2 there is no plan, or the file can't be written.
    """
    from kontext_pipeline import console
    from kontext_pipeline.data_directory import data_dir_of
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.plan import load_plan
    from kontext_pipeline.settings import load_settings

    settings = load_settings(**options)
    # The plan first: where there is none, no ledger is made.
    planned = load_plan(data_dir_of(settings), backend=settings.backend)
    with Pipeline(settings) as pipeline:
        found = pipeline.failures(planned)
        console.show_failures(found)
        if csv_path is not None:
            found.write_csv(Path(csv_path))
    if not found.rows:
        console.say("No row has failed, and no answer is lost.")
    sys.exit(Exit.SOME_FAILED if found.rows else Exit.DONE)


@main.command(settings=PLANNING)
def inputs(**options: Any) -> None:
    """Fetch, check and keep every input picture of a manifest. Costs nothing and sends nothing to the API.

    Exit status: 0 every input picture is there; 1 some can't be had and are listed; 2 the manifest or the settings
    are wrong; 3 stopped early, start again to go on.
    """
    from kontext_pipeline import console
    from kontext_pipeline.input_collection import collect, open_collector
    from kontext_pipeline.inputs.input_store import InputStoreFull

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _pipeline(options) as pipeline:
        planned = pipeline.plan()
        try:
            with open_collector(pipeline.settings, pipeline.data_dir) as collector, console.collecting() as watch:
                found = collect(planned, collector, watch=watch)
        except InputStoreFull as error:
            console.complain(f"Stopped: {error}")
            sys.exit(Exit.STOPPED)
        console.show_collection(pipeline, found)
        sys.exit(Exit.SOME_FAILED if found.missing_count else Exit.DONE)


@main.command()
@click.argument("recipe")
@click.option("--out", required=True, metavar="FILE", help="The table: .csv, .jsonl or .parquet.")
def expand(*, recipe: str, out: str) -> None:
    """Write the manifest that a recipe stands for. Planning either gives the same pictures.

    KONTEXT_INPUT_ROOTS, KONTEXT_PRIVATE_INPUTS and KONTEXT_MAX_ROWS count as they do for `kontext plan`.
    """
    from kontext_pipeline import console
    from kontext_pipeline.planning.expanded_file import write_expanded
    from kontext_pipeline.planning.manifest_options import ManifestOptions
    from kontext_pipeline.settings import load_settings

    written = write_expanded(recipe, out, ManifestOptions.from_settings(load_settings()))
    console.say(f"{written.rows:,} rows written to {out}")
    if written.input_roots:
        roots = shlex.quote(shlex.join(written.input_roots))
        console.warn(f"pictures are outside the folder of {out}; to plan it, set KONTEXT_INPUT_ROOTS={roots}")


@main.command(settings=("data_dir",))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def status(*, as_json: bool, data_dir: str | None) -> None:
    """Show the ledger: pictures, money spent and possibly charged, failures, unfinished jobs."""
    from kontext_pipeline import console
    from kontext_pipeline.generation.ledger.database import Database
    from kontext_pipeline.generation.ledger.report import read_books
    from kontext_pipeline.settings import load_settings

    url = load_settings(data_dir=data_dir).resolved_ledger_url
    with contextlib.closing(Database(url, make=False)) as database:
        console.show_books(read_books(database), as_json=as_json)


@main.command(settings=("data_dir", "backend"))
@click.option("--usage", metavar="FILE", help="Settle attempts by this file, CSV or JSON: docs/money.md.")
def reconcile(*, usage: str | None, **options: Any) -> None:
    """Show attempts whose cost is not known, and settle them by the account's balance or by a usage export.

    Without --usage the API is asked for the balance, which is free; attempts are settled only where no doubt is left.

    Exit status: 0 every cost is known; 1 some are not, and are listed; 2 the file or the settings are wrong.
    """
    from kontext_pipeline.commands import reconcile as command
    from kontext_pipeline.settings import load_settings

    sys.exit(command.run(load_settings(**options), None if usage is None else Path(usage)))


@main.command(settings=("data_dir",))
@click.option(
    "--format",
    "layout",
    required=True,
    type=click.Choice(["imagefolder", "parquet", "webdataset", "pairs"]),
    help="The layout: what reads the export decides.",
)
@click.option("--out", required=True, metavar="DIR", help="Folder of the export: a path or an fsspec URL.")
@click.option("--validation", default=0.0, metavar="SHARE", help="Share of the input pictures for validation, 0 to 1.")
@click.option(
    "--direction",
    default="forward",
    show_default=True,
    type=click.Choice(["forward", "backward", "both"]),
    help="Which way samples edit; backward: from the generated picture, by the inverse instruction.",
)
@click.option(
    "--inverse-column", metavar="NAME", help="Column of inverse instructions; default: inverse_prompt, inverse."
)
@click.option("--include-rejected", is_flag=True, help="Export rejected pictures too.")
@click.option("--max-shard-mb", type=int, metavar="N", help="Most MB of a shard; default: 500, webdataset 1000.")
@click.option(
    "--image-format", type=click.Choice(["png", "jpg"]), help="Convert all pictures; default: keep their bytes."
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of the splits.")
@click.option("--push-to-hub", "repository", metavar="NAME", help="Upload the export to this dataset of the Hub, too.")
@click.option(
    "--private/--public", default=True, show_default=True, help="What a dataset of the Hub is when it is new."
)
def export(*, out: str, repository: str | None, private: bool, data_dir: str | None, **options: Any) -> None:
    """Write the dataset in a layout that trainers and libraries load: docs/exports.md. Costs nothing.

    Exit status: 0 every wanted row is exported; 1 pictures are missing, or a picture is in several splits, and they are
    listed; 2 nothing can be exported, or an option is wrong; 3 stopped early, start again to go on.
    """
    from kontext_pipeline.commands import export as command
    from kontext_pipeline.dataset.exports.export_options import ExportOptions
    from kontext_pipeline.settings import load_settings

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = load_settings(data_dir=data_dir)
    sys.exit(command.run(settings, out, ExportOptions(**options), repository=repository, private=private))


@main.command(settings=("data_dir",))
def lock(**options: Any) -> None:
    """Write kontext.lock.json: what each row was made from and gave, so that a change shows. Costs nothing.

    Exit status: 0 the lock is written; 2 there is no plan, or a batch has no table yet.
    """
    from kontext_pipeline.commands import lock as command
    from kontext_pipeline.settings import load_settings

    sys.exit(command.lock(load_settings(**options)))


@main.command(settings=("data_dir", "backend", *GENERATION))
@click.option(
    "--lock",
    "lock_path",
    metavar="FILE",
    help="Compare with this lock, of the dataset that this one was built again from: dates don't count.",
)
@click.option(
    "--resample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Then ask for N random rows again, for money, and say how far their pictures have drifted.",
)
@click.option("--resample-seed", type=int, metavar="SEED", help="Decides which rows; default: chance.")
@click.option("--budget", type=float, metavar="USD", help="The most that the resample may spend.")
@click.option("--yes", is_flag=True, help="Don't ask before money is spent, or when the balance is too small.")
@click.pass_context
def verify(
    context: click.Context,
    /,
    *,
    lock_path: str | None,
    resample: int | None,
    resample_seed: int | None,
    budget: float | None,
    yes: bool,
    **options: Any,
) -> None:
    """Compare pictures, input pictures and tables with the lock, byte by byte. Costs nothing without --resample.

    Exit status: 0 nothing differs; 1 something does, and is listed; 2 there is no lock, or nothing was sent; 3 stopped
    early, start again to go on.
    """
    from kontext_pipeline.commands import lock as command
    from kontext_pipeline.settings import load_settings

    if lock_path is not None and resample is not None:
        raise click.UsageError("--resample is for the data directory's own lock: leave --lock out.")
    settings = load_settings(**options)
    status = command.verify(settings, lock_path)
    if resample is not None:
        from kontext_pipeline.commands import resample as resample_command
        from kontext_pipeline.pipeline import Pipeline

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with Pipeline(settings) as pipeline:
            context.meta[POSTS] = lambda: pipeline.posts
            drift = resample_command.resample(pipeline, count=resample, seed=resample_seed, budget=budget, yes=yes)
        status = max(status, drift)
    sys.exit(status)


@main.command(settings=("data_dir",))
@click.option("--port", default=8770, show_default=True, metavar="N", help="Port on 127.0.0.1; 0: any free one.")
@click.option("--out", metavar="FILE.html", help="Write one file that needs no server instead, with smaller pictures.")
@click.option("--batch", metavar="KEY", help="Show this batch first; with --out: only this batch.")
@click.option("--reviewer", metavar="NAME", help="Who decides, for review.csv; default: the user of this system.")
def review(*, port: int, out: str | None, batch: str | None, reviewer: str | None, data_dir: str | None) -> None:
    """Look at inputs beside outputs in a browser, and keep or reject them: docs/review.md. Costs nothing.

    Exit status: 0 the page was closed by Ctrl-C, or the file is written; 2 there is nothing to review, or the port is
    taken.
    """
    from kontext_pipeline.commands import review as command
    from kontext_pipeline.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    if out is not None:
        command.write(settings, out, batch=batch)
    else:
        command.serve(settings, port=port, batch=batch, reviewer=reviewer)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, help="Port to listen on; 0: any free one.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Answer requests for this host name, too.")
@click.option("--profile", "profiles", multiple=True, metavar="NAME", help="Inject the faults of a named profile.")
@click.option(
    "--faults", "fault_files", multiple=True, metavar="FILE", help="Inject faults of a file: docs/sandbox.md."
)
@click.option("--speed", type=float, help="Factor by which the sandbox's time passes faster.")
@click.option("--latency", "latency_s", type=float, metavar="SECONDS", help="Median time of a generation.")
@click.option("--balance", type=float, metavar="USD", help="Credits on the account at the start.")
@click.option("--rpm", type=int, metavar="N", help="Requests a minute that the account allows.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Keys to accept; default: any of the right form.")
@click.option("--seed", type=int, metavar="N", help="Seed of latencies and faults.")
@click.option("--plain", is_flag=True, help="Serve plain pictures, which is faster than drawing them.")
@click.option(
    "--fetch-inputs/--no-fetch-inputs",
    default=True,
    show_default=True,
    help="Fetch public input pictures, or use drawn photographs in their stead.",
)
def sandbox(*, host: str, port: int, plain: bool, fetch_inputs: bool, **options: Any) -> None:
    """Serve a stand-in for the paid API, to develop, test and rehearse against."""
    from kontext_pipeline.sandbox.config import SandboxConfig
    from kontext_pipeline.sandbox.server import serve

    given = {name: value for name, value in options.items() if value is not None and value != ()}
    config = SandboxConfig.create(**given, draw=not plain, fetch_inputs=fetch_inputs)
    words = "The sandbox answers at {}; its page shows balance, jobs and pictures. Ctrl-C ends it."
    serve(host, port, config=config, announce=lambda url: click.echo(words.format(url)))


@main.command(settings=(*PLANNING, *GENERATION))
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
def ui(*, port: int, **options: Any) -> None:
    """Open the Dagster UI with these settings; start a sandbox too where that is the backend."""
    from kontext_pipeline import launcher
    from kontext_pipeline.settings import load_settings

    with launcher.sandbox_if_needed(load_settings(**options)) as settings:
        sys.exit(launcher.open_ui(settings, port=port))


def _pipeline(options: dict[str, Any]) -> "Pipeline":
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.settings import load_settings

    return Pipeline(load_settings(**options))


if __name__ == "__main__":
    main(prog_name=Path(sys.argv[0]).name)
