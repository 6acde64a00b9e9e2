"""The output of the command line: plans, progress, summaries, the ledger's figures."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kontext_pipeline.escaping import displayable
from kontext_pipeline.generation.ledger.money import usd
from kontext_pipeline.progress_line import Watcher, delays, details
from kontext_pipeline.segmind.model import LIST_PRICE_USD

if TYPE_CHECKING:
    from kontext_pipeline.dataset.summary import BatchSummary
    from kontext_pipeline.failures import Failures
    from kontext_pipeline.generation.ledger.reconciliation import Questionable, Reconciled
    from kontext_pipeline.generation.ledger.report import BackendBooks, Books, ResampledRequests
    from kontext_pipeline.generation.progress import Progress
    from kontext_pipeline.input_collection import Collection
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.estimate import Estimate
    from kontext_pipeline.planning.plan import Plan
    from kontext_pipeline.quality_run import QualityRun
    from kontext_pipeline.settings import Settings


class _Console(Console):
    """A console on which text from files and answers can't steer the terminal: all text passes `displayable`."""

    def render_str(self, text: str, **options: Any) -> Text:
        # Before the layout, which measures it.
        return super().render_str(displayable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(displayable(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Print nothing more, where the reader of the output has ended (`| head`). The command goes on."""
        self.quiet = True
        # What is left in the stream's buffer is written when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)

MISSING_SHOWN = 5
"""Input pictures that can't be had and are named, for each cause."""
LINE_EVERY_S = 10.0
"""Time between two lines of progress where there is no terminal, seconds."""
QUESTIONS_SHOWN = 100
"""Attempts of unknown cost that are listed."""


def say(text: str) -> None:
    """Print a line."""
    out.print(escape(text))


def warn(text: str) -> None:
    """Print a warning."""
    err.print(f"[yellow]Warning:[/yellow] {escape(text)}")


def complain(text: str) -> None:
    """Print an error."""
    err.print(f"[red]{escape(text)}[/red]")


def show_plan(settings: "Settings", plan: "Plan", estimate: "Estimate", warnings: Sequence[str]) -> None:
    """Print a plan's counts, estimated cost and time, and what the user should know before paying."""
    table = _table()
    table.add_row("rows", f"{estimate.rows:,}", f"in {many(len(plan.manifests), 'manifest')}")
    if plan.mapped_columns:
        table.add_row("columns", ", ".join(f"{ours} is {theirs}" for ours, theirs in plan.mapped_columns.items()))
    shared = estimate.requested - estimate.pictures
    more = f"{shared:,} more rows share one of them" if shared else ""
    table.add_row("pictures", f"{estimate.pictures:,}", more)
    table.add_row("batches", f"{len(plan.batches):,}")
    table.add_row("already there", f"{estimate.already_there:,}")
    if estimate.failed_for_good:
        reasons = "failed for good (--retry-failed) or unknown (--retry-unknown)"
        table.add_row("given up", f"{estimate.failed_for_good:,}", reasons)
    table.add_row("to generate", f"{estimate.to_generate:,}")
    free = "" if settings.paid else "sandbox: nothing is spent"
    table.add_row("estimated cost", f"{estimate.cost_usd:,.2f} USD", free)
    pace = f"{settings.concurrency} in flight" + (f", {settings.rpm:g} requests a minute" if settings.rpm else "")
    table.add_row("estimated time", _duration(estimate.seconds), pace if settings.paid else "of the paid API")
    out.print(table)
    for warning in warnings:
        warn(warning)
    if estimate.gone:
        are = "picture is" if estimate.gone == 1 else "pictures are"
        cost = f"{estimate.gone * LIST_PRICE_USD:,.2f} USD"
        warn(f"{estimate.gone:,} {are} gone from the data directory and will be generated again for {cost}")


class _Bar(Bar):
    """A progress bar with a second line that says why requests wait, if they do."""

    waits = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.waits:
            yield Text(self.waits, style="yellow")


@contextlib.contextmanager
def progress(total: int) -> Iterator["Watcher[Progress]"]:
    """Show a run's progress while the block runs: a bar on a terminal, otherwise a line every `LINE_EVERY_S`."""
    bar = _Bar(
        TextColumn("generating"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
        # The watcher refreshes it: a thread of its own is one more that the system may not have.
        auto_refresh=False,
        # Log lines go above the bar where they share the terminal; a redirected standard error stays redirected.
        redirect_stderr=err.is_terminal,
    )
    task = bar.add_task("generating", total=total, details="")

    def show(progress: "Progress") -> None:
        done = progress.succeeded + progress.found + progress.failed + progress.unknown
        bar.waits = delays(progress, time.monotonic())
        bar.update(task, completed=done, details=details(progress), refresh=True)
        if not out.is_terminal:
            say(f"{done:,}/{total:,} done, {details(progress)}" + (f"; {bar.waits}" if bar.waits else ""))

    with bar, Watcher(show, repeat(0.2 if out.is_terminal else LINE_EVERY_S)) as watcher:
        yield watcher


@contextlib.contextmanager
def collecting() -> Iterator[Callable[[Callable[[], "Collection"]], None]]:
    """Show the progress of a collection of input pictures while the block runs, whose reader the block is given."""
    bar = Bar(
        TextColumn("input pictures"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}"),
        console=out,
        disable=not out.is_terminal,
        redirect_stderr=err.is_terminal,
    )
    task = bar.add_task("inputs", total=None, details="")

    def show(found: "Collection") -> None:
        done = found.kept + found.missing_count
        words = f"{found.bytes / 2**20:,.1f} MB, {found.missing_count:,} can't be had"
        bar.update(task, completed=done, total=found.wanted, details=words)
        if not out.is_terminal:
            say(f"{done:,}/{found.wanted:,} input pictures, {words}")

    with bar, Watcher(show, repeat(0.2 if out.is_terminal else LINE_EVERY_S)) as watcher:
        yield watcher.watch


@contextlib.contextmanager
def measuring() -> Iterator[Callable[["QualityRun"], None]]:
    """Show how far measuring is. The block is given the function that shows it, and calls the function often."""
    bar = Bar(
        TextColumn("measuring"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("batches, {task.fields[pictures]:,} pictures"),
        console=out,
        disable=not out.is_terminal,
        auto_refresh=False,
        transient=True,
        redirect_stderr=err.is_terminal,
    )
    task = bar.add_task("measuring", total=None, pictures=0)
    shown = time.monotonic()

    def show(run: "QualityRun") -> None:
        nonlocal shown
        done = run.measured
        bar.update(task, completed=done.batches, total=run.wanted, pictures=done.pictures, refresh=True)
        if not out.is_terminal and time.monotonic() - shown > LINE_EVERY_S:
            shown = time.monotonic()
            say(f"{done.batches:,}/{run.wanted:,} batches measured, {done.pictures:,} pictures")

    with bar:
        yield show


def show_collection(pipeline: "Pipeline", found: "Collection") -> None:
    """Print what was collected, and what can't be had: by cause, the first few of each."""
    table = _table()
    table.add_row("input pictures", f"{found.kept:,} of {found.wanted:,}", f"{found.bytes / 2**20:,.1f} MB")
    table.add_row("kept in", _shown(pipeline, "inputs"))
    if found.changed:
        table.add_row("changed", f"{found.changed:,}", "since they were kept; both are kept")
    if found.dead:
        table.add_row("dead", f"{found.dead:,}", "addresses without a picture by now; the kept ones are used")
    out.print(table)
    for cause, listed in found.missing.items():
        count = found.missing_by_cause[cause]
        complain(f"{many(count, 'input picture')} can't be had: {cause.replace('_', ' ')}")
        for one in listed[:MISSING_SHOWN]:
            complain(f"  {one.row}: {one.address}: {one.reason}")
        if count > MISSING_SHOWN:
            complain(f"  ... and {count - MISSING_SHOWN:,} more")


def show_summary(pipeline: "Pipeline", plan: "Plan", progress: "Progress | None") -> "BatchSummary":
    """Print pictures, paths and cost after a run (`progress` None: nothing was run). Return the plan's figures."""
    from kontext_pipeline.dataset.quality.quality_tables import count_issues

    totals = pipeline.summary(plan)
    table = _table()
    if progress is not None:
        possibly = usd(progress.possibly_charged)
        more = f"and possibly charged {possibly:,.2f} USD, for lost answers" if possibly else ""
        table.add_row("this run", many(progress.succeeded, "picture"))
        table.add_row("this run spent", f"{usd(progress.spent):,.2f} USD", more)
    for name, count in totals.by_status.items():
        if count or name == "succeeded":
            table.add_row(name, f"{count:,} of {many(totals.rows, 'row')}")
    possibly = totals.possibly_charged_usd
    more = f"and possibly charged {possibly:,.2f} USD" if possibly else ""
    table.add_row("cost of all", f"{totals.cost_usd:,.2f} USD", more)
    table.add_row("pictures", _shown(pipeline, "images"), f"{totals.bytes / 2**20:,.1f} MiB")
    table.add_row("metadata", _shown(pipeline, "metadata"), "hive-partitioned Parquet")
    measured, with_issues, issues = count_issues(pipeline.data_dir, plan.batch_keys)
    if measured:
        named = ", ".join(f"{count:,} {issue}" for issue, count in issues.most_common())
        table.add_row("with issues", f"{with_issues:,} of {many(measured, 'measured picture')}", named)
    out.print()
    out.print(table)
    return totals


def show_failures(failures: "Failures") -> None:
    """Print the rows without a picture, by cause."""
    for line in failures.lines():
        say(line)


def show_books(books: "Books", *, as_json: bool) -> None:
    """Print the ledger's figures, as tables or as JSON."""
    if as_json:
        json.dump(books.to_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    say(f"ledger {books.ledger}")
    if not books.backends:
        say("The ledger has no requests.")
    for backend in books.backends:
        _show_backend(backend, [one for one in books.resamples if one.backend == backend.backend])


def _show_backend(books: "BackendBooks", resamples: "list[ResampledRequests]") -> None:
    out.print(f"\n[bold]{escape(books.backend)}[/bold]")
    table = _table()
    table.add_row("pictures", f"{books.pictures:,}")
    without = books.spent_without_picture_usd
    more = f"{without:,.2f} USD of it for answers without a picture" if without else ""
    table.add_row("spent", f"{books.spent_usd:,.2f} USD", more)
    for again in resamples:
        lacking = f"; {again.without_picture:,} without a picture" if again.without_picture else ""
        table.add_row("resampled", f"{again.pictures:,}", f"{again.spent_usd:,.2f} USD of what was spent{lacking}")
    if books.possibly_charged_attempts:
        answers = many(books.possibly_charged_attempts, "lost answer")
        table.add_row("possibly charged", f"{books.possibly_charged_usd:,.2f} USD", f"for {answers}")
    if books.in_flight:
        jobs = len(books.jobs_out_there)
        unfinished = f"; {many(jobs, 'unfinished job')}" if jobs else ""
        what = f"{books.in_flight:,} in flight or about to be sent{unfinished}"
        table.add_row("reserved", f"{books.reserved_usd:,.2f} USD", what)
    causes = ", ".join(f"{count:,} {cause}" for cause, count in books.failed_by_cause.items())
    table.add_row("failed", f"{books.failed:,}", causes)
    if books.unknown:
        table.add_row("unknown", f"{books.unknown:,}", "the answer was lost: no picture, possibly charged")
    if books.pending:
        table.add_row("pending", f"{books.pending:,}", "without an outcome")
    table.add_row("attempts", f"{books.attempts:,}")
    out.print(table)
    days = Table("day (UTC)", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("spent", "possibly charged", "reserved"):
        days.add_column(name, justify="right")
    for day in books.days:
        days.add_row(day.day, f"{day.spent_usd:,.2f}", f"{day.possibly_charged_usd:,.2f}", f"{day.reserved_usd:,.2f}")
    out.print(days)
    for job in books.jobs_out_there[:20]:
        say(f"unfinished job {job.request_id}, since {job.started_at}, picture {job.fingerprint[:12]}")


def show_reconciliation(done: "Reconciled | None", left: "list[Questionable]") -> None:
    """Print what a reconciliation changed (None: nothing was to change), and the attempts whose cost is not known."""
    if done is not None:
        say(f"{many(done.charged, 'attempt')} charged {done.charged_usd:,.2f} USD, {done.released:,} not billed")
        if done.unused:
            say(
                f"{many(done.unused, 'row')} of the usage file not needed: their cost is known, or the attempt is not here"
            )
    if not left:
        say("The cost of every attempt is known.")
        return
    for one in left[:QUESTIONS_SHOWN]:
        why = (
            "a cost that is not believed" if one.state == "charged" else f"possibly charged, {one.cause or 'no answer'}"
        )
        request = f", request {one.request_id}" if one.request_id else ""
        what = "resample" if one.is_resample else "picture"
        say(
            f"attempt {one.attempt} ({one.backend}, {one.started_at}, {what} {one.fingerprint[:12]}{request}): {why}, "
            f"{one.usd:,.2f} USD"
        )
    if len(left) > QUESTIONS_SHOWN:
        say(f"... and {len(left) - QUESTIONS_SHOWN:,} more")
    say(
        f"The cost of {many(len(left), 'attempt')} is not known. Ask the provider, and settle them with --usage FILE: "
        "a CSV file with the columns attempt (or request_id) and cost, 0 for what was not billed."
    )


def _table() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=True)
    for style in ("dim", "", "dim"):
        table.add_column(style=style, overflow="fold")
    return table


def _shown(pipeline: "Pipeline", part: str) -> str:
    path = str(pipeline.data_dir / part)
    with contextlib.suppress(ValueError):
        path = str(Path(path).relative_to(Path.cwd()))
    return escape(path)


def many(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"
