"""Uploads of exports to the Hugging Face Hub (extra `[hub]`). `HF_ENDPOINT` and `HF_TOKEN` count, as for all its tools."""

import re
import tempfile
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
        from huggingface_hub.errors import HfHubHTTPError

        record = read_record(self.folder / RECORD)
        now = {entry.path for entry in record[1]} if record else set()
        try:
            self.api.upload_folder(
                repo_id=self.name,
                repo_type="dataset",
                folder_path=self.folder,
                commit_message=_COMMIT,
                # Not a pattern for each of a hundred thousand files.
                allow_patterns=sorted(
                    {f"{path.partition('/')[0]}/*" if "/" in path else path for path in now} | {RECORD}
                ),
                ignore_patterns=[LOCK, f"{STAGING}/*"],
                delete_patterns=sorted(self.files - now) or None,
            )
        except (HfHubHTTPError, OSError) as error:
            raise _refused(
                self.name, error, f"The export in {self.folder} is complete; start again to upload it."
            ) from None
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
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError:
        raise ExportError(
            "--push-to-hub needs the package huggingface_hub. Install it with: pip install 'kontext-pipeline[hub]'"
        ) from None
    api = HfApi()
    try:
        name = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory(prefix="kontext-hub-") as temporary:
            found = {}
            for path in (CARD, RECORD):
                try:
                    found[path] = Path(api.hf_hub_download(name, path, repo_type="dataset", local_dir=temporary))
                except EntryNotFoundError:
                    continue
            text = found[CARD].read_text(encoding="utf-8") if CARD in found else None
            record = read_record(found[RECORD]) if RECORD in found else None
    except (HfHubHTTPError, OSError) as error:
        raise _refused(name, error, "Nothing was exported.") from None
    files = frozenset(entry.path for entry in record[1]) if record else frozenset()
    return HubTarget(api, name, local_path(folder), text, files)


def _refused(name: str, error: Exception, consequence: str) -> ExportError:
    words = one_line(" ".join(str(error).split()))[:500]
    return ExportError(
        f"the Hub refuses the dataset {name} or can't be reached: {words}. Log in with `hf auth login` or HF_TOKEN, with "
        f"the right to write. {consequence}"
    )
