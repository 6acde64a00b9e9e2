"""`kontext export`: an export with its progress, its figures, and the upload to the Hub."""

import contextlib
import time
from collections.abc import Iterator

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from kontext_pipeline import console
from kontext_pipeline.data_directory import data_dir_of
from kontext_pipeline.dataset.exports import hub
from kontext_pipeline.dataset.exports.export_options import ExportOptions
from kontext_pipeline.dataset.exports.exporting import Export, Progress, export_dataset, folder_of
from kontext_pipeline.dataset.exports.selection import NOT_KEPT, REASONS, WRONG
from kontext_pipeline.exits import Exit
from kontext_pipeline.settings import Settings


def run(settings: Settings, out: str, options: ExportOptions, *, repository: str | None, private: bool) -> Exit:
    """Export the dataset of the settings' data directory to `out`, upload it to `repository`, and print the figures.

    Raises:
        KontextError: An option is wrong, nothing can be exported, or the Hub refuses.
        OSError: Something can't be read or written.
    """
    folder = folder_of(out)
    target = None if repository is None else hub.open_target(repository, folder, private=private)
    with _progress() as progress:
        made = export_dataset(
            data_dir_of(settings),
            folder,
            options,
            progress=progress,
            published_card=None if target is None else target.card,
        )
    show(made)
    if target is not None:
        console.say(f"Uploaded to {target.upload()}")
    return Exit.DONE if made.sound else Exit.SOME_FAILED


def show(made: Export) -> None:
    """Print what an export has, and what it lacks."""
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=True)
    for style in ("dim", "", "dim"):
        table.add_column(style=style, overflow="fold")
    for part in made.parts:
        name = part.split if part.config == "default" else f"{part.split}, {part.config}"
        table.add_row(escape(name), console.many(part.rows, "sample"), f"{part.bytes / 10**6:,.1f} MB of pictures")
    written = f"{made.written:,} written" if made.changed else "nothing has changed"
    table.add_row("files", f"{made.files:,}", f"{made.bytes / 10**6:,.1f} MB, {written}")
    table.add_row("export", escape(made.out))
    console.out.print(table)
    for reason, count in made.left_out.counts.most_common():
        if reason not in WRONG:
            console.say(f"Left out: {console.many(count, 'row')}: {REASONS[reason]}")
    for reason in sorted(WRONG):
        if count := made.left_out.counts[reason]:
            ids = made.left_out.examples[reason]
            more = ", ..." if count > len(ids) else ""
            console.complain(f"Left out: {console.many(count, 'row')}: {REASONS[reason]}: {', '.join(ids)}{more}")
    if made.left_out.counts["input_not_kept"]:
        console.complain(f"  {NOT_KEPT}")
    if made.leaks:
        console.complain(
            f"The manifest's column split puts {console.many(made.leaks, 'group')} of input pictures into several splits:"
        )
        for line in made.leaks_shown:
            console.complain(f"  {line}")


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    bar = Bar(
        TextColumn("exporting"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console.out,
        disable=not console.out.is_terminal,
        redirect_stderr=console.err.is_terminal,
    )
    task = bar.add_task("exporting", total=None)
    said = time.monotonic()

    def show_progress(done: int, total: int) -> None:
        nonlocal said
        bar.update(task, completed=done, total=total)
        if not console.out.is_terminal and time.monotonic() - said > console.LINE_EVERY_S:
            said = time.monotonic()
            console.say(f"{done:,}/{total:,} samples exported")

    with bar:
        yield show_progress
