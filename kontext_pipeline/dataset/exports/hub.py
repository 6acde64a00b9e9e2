"""Uploads of exports to the Hugging Face Hub (extra `[hub]`). `HF_ENDPOINT` and `HF_TOKEN` count, as for all its tools."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from upath import UPath

from kontext_pipeline.dataset.exports.card import CARD
from kontext_pipeline.dataset.exports.export_lock import LOCK
from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.dataset.exports.export_record import RECORD, read_record
from kontext_pipeline.dataset.exports.staging import STAGING
from kontext_pipeline.escaping import one_line
from kontext_pipeline.files import is_local, local_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")
MOST_FILES: Final = 25_000
"""Most files that one commit to the Hub takes."""
_COMMIT: Final = "Update the export"


@dataclass(frozen=True, slots=True)
class HubTarget:
    """A dataset of the Hub that exists. `card` is its card, if it has one; `files` are those of the export before."""

    api: "HfApi"
    name: str
    folder: Path
    card: str | None
    files: frozenset[str]

    def upload(self) -> str:
        """Upload the export in the folder in one commit, and return the address of the dataset.

        Files of the export before that this one lacks are removed; files that no export has brought stay.

        Raises:
            ExportError: The Hub refuses, or can't be reached. The export in the folder is complete.
        """
        record = read_record(self.folder / RECORD)
        now = {entry.path for entry in record[1]} if record else set()
        if len(now) > MOST_FILES:
            raise ExportError(
                f"{self.folder} has {len(now):,} files, and the Hub takes {MOST_FILES:,} at once. Export with --format "
                "parquet or webdataset, which have few large files."
            )
        with _explained(self.name, f"The export in {self.folder} is complete; start again to upload it."):
            self.api.upload_folder(
                repo_id=self.name,
                repo_type="dataset",
                folder_path=self.folder,
                commit_message=_COMMIT,
                # Not a pattern for each of many thousand files.
                allow_patterns=sorted(
                    {f"{path.partition('/')[0]}/*" if "/" in path else path for path in now} | {RECORD}
                ),
                ignore_patterns=[LOCK, f"{STAGING}/*"],
                delete_patterns=sorted(self.files - now) or None,
            )
        return f"{self.api.endpoint}/datasets/{self.name}"


def open_target(name: str, folder: UPath, *, private: bool) -> HubTarget:
    """Make a dataset of the Hub if it doesn't exist yet, before an export takes its time.

    Args:
        name: `NAME`, or `OWNER/NAME`.
        folder: Where the export will be.
        private: Whether others see a new dataset.

    Raises:
        ExportError: The name is not allowed, `huggingface_hub` is not installed, the folder is not on this machine, or the
            Hub refuses.
    """
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"--push-to-hub is {name!r}; NAME or OWNER/NAME is allowed, of letters, digits, '-', '_' and '.'."
        )
    if not is_local(folder):
        raise ExportError(f"--push-to-hub needs an export on this machine, and --out is {folder}.")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ExportError(
            "--push-to-hub needs the package huggingface_hub. Install it with: pip install 'kontext-pipeline[hub]'"
        ) from None
    # The package reads the variable when it is imported, which may have been before.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with _explained(name, "Nothing was exported."), tempfile.TemporaryDirectory(prefix="kontext-hub-") as temporary:
        name = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True).repo_id
        found = {path: _download(api, name, path, temporary) for path in (CARD, RECORD)}
        text, its_record = found[CARD], found[RECORD]
        card = None if text is None else text.read_text(encoding="utf-8")
        record = None if its_record is None else read_record(its_record)
    files = frozenset(entry.path for entry in record[1]) if record else frozenset()
    return HubTarget(api, name, local_path(folder), card, files)


def _download(api: "HfApi", name: str, path: str, folder: str) -> Path | None:
    """Return the local copy of a file of the Hub; None where there is none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(api.hf_hub_download(name, path, repo_type="dataset", local_dir=folder))
    except LocalEntryNotFoundError:
        # No connection, so nobody knows.
        raise
    except EntryNotFoundError:
        return None


@contextlib.contextmanager
def _explained(name: str, consequence: str) -> Iterator[None]:
    """Turn what the Hub, or the way to it, refuses into an error for the user."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except Exception as error:
        # Its versions use several HTTP libraries, whose errors have no common class.
        if not isinstance(error, HfHubHTTPError | OSError) and not type(error).__module__.startswith(
            ("httpx", "httpcore")
        ):
            raise
        words = one_line(" ".join(str(error).split()))[:500]
        raise ExportError(
            f"the Hub refuses the dataset {name} or can't be reached: {words}. Log in with `hf auth login` or HF_TOKEN, "
            f"with the right to write. {consequence}"
        ) from None
