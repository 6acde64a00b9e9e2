"""What the command line prints: plans, progress, summaries, books."""

import contextlib
import json
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from kontext_pipeline.generation.ledger.money import usd

if TYPE_CHECKING:
    from kontext_pipeline.dataset.summary import BatchSummary
    from kontext_pipeline.generation.ledger.report import BackendBooks, Books
    from kontext_pipeline.generation.progress import Progress
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.estimate import Estimate
    from kontext_pipeline.planning.plan import Plan
    from kontext_pipeline.settings import Settings

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

LINE_EVERY_S = 10.0
"""Where there is no terminal: seconds between two lines of progress."""


def say(text: str) -> None:
    """Print a line."""
    out.print(escape(text))


def warn(text: str) -> None:
    """Print a line that deserves a look."""
    err.print(f"[yellow]Warning:[/yellow] {escape(text)}")


def complain(text: str) -> None:
    """Print what went wrong."""
    err.print(f"[red]{escape(text)}[/red]")


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """Say what takes a few seconds, on a terminal; warnings of the libraries behind it are not the user's."""
    with warnings.catch_warnings(), out.status(what) if out.is_terminal else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        yield


def show_plan(settings: "Settings", plan: "Plan", estimate: "Estimate") -> None:
    """Print rows, pictures, already there, to generate, estimated cost and time, and the warnings."""
    table = _table()
    table.add_row("rows", f"{estimate.rows:,}", f"in {_many(len(plan.manifests), 'manifest')}")
    shared = estimate.requested - estimate.pictures
    table.add_row(
        "pictures", f"{estimate.pictures:,}", f"{shared:,} more share one of them" if shared else ""
    )
    table.add_row("batches", f"{len(plan.batches):,}", "")
    table.add_row("already there", f"{estimate.already_there:,}", "")
    if estimate.failed_for_good:
        table.add_row(
            "given up", f"{estimate.failed_for_good:,}", "failed for good (--retry-failed) or unknown"
        )
    table.add_row("to generate", f"{estimate.to_generate:,}", "")
    free = "" if settings.paid else "sandbox: nothing is spent"
    table.add_row("estimated cost", f"{estimate.cost_usd:,.2f} USD", free)
    pace = f"{settings.concurrency} in flight" + (
        f", {settings.rpm:g} requests a minute" if settings.rpm else ""
    )
    table.add_row("estimated time", _duration(estimate.seconds), pace if settings.paid else "of the paid API")
    out.print(table)
    for warning in plan.warnings:
        warn(warning)


class Show:
    """Holds the progress of the run that is being shown."""

    def __init__(self) -> None:
        """Nothing to show yet."""
        self.progress: Progress | None = None

    def watch(self, progress: "Progress") -> None:
        """Take what a run keeps up to date."""
        self.progress = progress


@contextlib.contextmanager
def progress(total: int) -> Iterator[Show]:
    """Show a run live: a bar on a terminal, else a line now and then."""
    show = Show()
    over = threading.Event()
    bar = Bar(
        TextColumn("generating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
    )
    task = bar.add_task("generating", total=total, details="")

    def tick() -> None:
        said = time.monotonic()
        while not over.wait(0.2):
            if show.progress is None:
                continue
            bar.update(task, completed=_done(show.progress), details=_details(show.progress))
            if not out.is_terminal and time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                say(f"{_done(show.progress):,}/{total:,} done, {_details(show.progress)}")

    ticker = threading.Thread(target=tick, daemon=True)
    with bar:
        ticker.start()
        try:
            yield show
        finally:
            over.set()
            ticker.join()
            if show.progress is not None:
                bar.update(task, completed=_done(show.progress), details=_details(show.progress))


def _done(progress: "Progress") -> int:
    return progress.succeeded + progress.found + progress.failed + progress.unknown


def _details(progress: "Progress") -> str:
    unknown = f", {progress.unknown} unknown" if progress.unknown else ""
    possibly = f" (+{usd(progress.possibly_charged):.2f} possibly)" if progress.possibly_charged else ""
    spent = f"{usd(progress.spent):.2f} USD spent{possibly}"
    return f"{progress.failed} failed{unknown}, {progress.in_flight} in flight, {spent}"


def show_summary(pipeline: "Pipeline", plan: "Plan", progress: "Progress | None") -> "BatchSummary":
    """Print what there is now, where it is and what it cost. Return the figures of the planned batches."""
    totals = pipeline.summary(plan)
    table = _table()
    if progress is not None:
        possibly = usd(progress.possibly_charged)
        more = f"and possibly charged {possibly:.2f} USD, for answers that never came" if possibly else ""
        table.add_row("this run", f"{_many(progress.succeeded, 'picture')}", "")
        table.add_row("this run spent", f"{usd(progress.spent):,.2f} USD", more)
    for name, count in totals.by_status.items():
        if count or name == "succeeded":
            table.add_row(name, f"{count:,} of {_many(totals.rows, 'row')}", "")
    possibly = totals.possibly_charged_usd
    table.add_row(
        "cost of all",
        f"{totals.cost_usd:,.2f} USD",
        f"and possibly charged {possibly:,.2f} USD" if possibly else "",
    )
    table.add_row("pictures", f"{_shown(pipeline, 'images')}", f"{totals.bytes / 2**20:,.1f} MiB")
    table.add_row("metadata", f"{_shown(pipeline, 'metadata')}", "hive-partitioned Parquet")
    out.print()
    out.print(table)
    return totals


def show_books(books: "Books", *, as_json: bool) -> None:
    """Print the books, as tables or as JSON."""
    if as_json:
        json.dump(books.to_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    say(f"ledger {books.ledger}")
    if not books.backends:
        say("Nothing was ever asked for.")
    for backend in books.backends:
        _show_backend(backend)


def _show_backend(books: "BackendBooks") -> None:
    out.print(f"\n[bold]{escape(books.backend)}[/bold]")
    table = _table()
    table.add_row("pictures", f"{books.pictures:,}", "")
    in_vain = books.spent_without_picture_usd
    table.add_row(
        "spent",
        f"{books.spent_usd:,.2f} USD",
        f"{in_vain:,.2f} USD of it brought no picture" if in_vain else "",
    )
    if books.possibly_charged_attempts:
        attempts = _many(books.possibly_charged_attempts, "answer")
        table.add_row("possibly charged", f"{books.possibly_charged_usd:,.2f} USD", f"{attempts} never came")
    if books.in_flight:
        jobs = len(books.jobs_out_there)
        out_there = f"{_many(jobs, 'job')} still out there" if jobs else ""
        table.add_row(
            "reserved",
            f"{books.reserved_usd:,.2f} USD",
            f"{books.in_flight:,} in flight or next in line; {out_there}",
        )
    causes = ", ".join(f"{count:,} {cause}" for cause, count in books.failed_by_cause.items())
    table.add_row("failed", f"{books.failed:,}", causes)
    if books.unknown:
        table.add_row("unknown", f"{books.unknown:,}", "no picture, possibly charged")
    if books.pending:
        table.add_row("pending", f"{books.pending:,}", "asked for and without an outcome")
    table.add_row("attempts", f"{books.attempts:,}", "")
    out.print(table)
    days = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("day (UTC)", "spent", "possibly charged", "reserved"):
        days.add_column(name, justify="left" if "day" in name else "right")
    for day in books.days:
        days.add_row(
            day.day, f"{day.spent_usd:,.2f}", f"{day.possibly_charged_usd:,.2f}", f"{day.reserved_usd:,.2f}"
        )
    out.print(days)
    for job in books.jobs_out_there[:20]:
        say(f"out there: job {job.request_id}, since {job.started_at}, picture {job.fingerprint[:12]}")


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_column(style="dim")
    return table


def _shown(pipeline: "Pipeline", part: str) -> str:
    from pathlib import Path

    path = str(pipeline.data_dir / part)
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"
