"""`kontext review`: the review page, served on this machine or written as one file."""

import getpass
import os
from urllib.parse import urlencode

from rich.markup import escape
from upath import UPath

from kontext_pipeline import console
from kontext_pipeline.data_directory import data_dir_of
from kontext_pipeline.dataset.review.decisions import ReviewError
from kontext_pipeline.dataset.storage import written_batches
from kontext_pipeline.settings import Settings


def serve(settings: Settings, *, port: int, batch: str | None, reviewer: str | None) -> None:
    """Serve the review of the settings' data directory until it is interrupted, and print the address.

    Raises:
        KontextError: There is nothing to review, or the port is not available.
    """
    from kontext_pipeline.dataset.review import page_server

    data_dir = data_dir_of(settings)
    _check(batch, written_batches(data_dir))
    more = f"&{urlencode({'batch': batch})}" if batch else ""

    def announce(url: str) -> None:
        console.say(f"Review {data_dir} at")
        # A long address must stay on one line.
        console.out.print(escape(url + more), soft_wrap=True)
        console.say("Decisions are saved at once. Ctrl-C ends the page.")

    page_server.serve(data_dir, port=port, reviewer=reviewer or _user(), announce=announce)


def write(settings: Settings, out: str, *, batch: str | None) -> None:
    """Write the review as one offline file, and print what is in it.

    Raises:
        KontextError: There is nothing to review.
        OSError: The file can't be written.
    """
    from kontext_pipeline.dataset.review.offline_page import write_offline_page

    data_dir = data_dir_of(settings)
    _check(batch, written_batches(data_dir))
    made = write_offline_page(data_dir, UPath(out), batch=batch or "")
    console.say(f"{out} holds {made.rows:,} of {made.of:,} rows in {made.bytes / 10**6:,.1f} MB. Open it in a browser.")
    if made.rows < made.of:
        console.warn("more rows would make the file too large to open; choose a batch with --batch, or serve the page")


def _check(batch: str | None, known: list[str]) -> None:
    if batch is not None and batch not in known:
        listed = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
        raise ReviewError(f"There is no table of batch {batch!r}. Batches with a table: {listed or 'none'}.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # Some users of containers have no name.
        return os.environ.get("USER", "")
