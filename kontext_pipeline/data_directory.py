"""The data directory, and the ledger that it belongs to: each has the same id, so that neither is used with a stranger.

The file `dataset.id` in the data directory has the id in its first line. The second line says where the ledger was when
the id was given; that tells a new ledger in the place of a lost one from another ledger. The id is given at first use.
"""

import logging
import os
import secrets
import uuid
from pathlib import Path
from typing import Final

from sqlalchemy import URL
from upath import UPath

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.files import is_local, write_atomically
from kontext_pipeline.generation.ledger import DatasetLink, Ledger
from kontext_pipeline.settings import Settings

log: Final = logging.getLogger(__name__)

ID_FILE: Final = "dataset.id"


class StrangersError(SettingsError):
    """The ledger and the data directory don't belong together. Nothing was sent."""


def data_dir_of(settings: Settings) -> UPath:
    """Return the data directory of these settings. A local path is absolute."""
    folder = UPath(settings.data_dir)
    if folder.protocol in ("", "file", "local"):
        folder = UPath(folder.path).expanduser().absolute()
    return folder


def bind(data_dir: UPath, ledger: Ledger) -> str:
    """Make sure that a ledger and a data directory belong together. Both get their id where both have none. Return it.

    Raises:
        StrangersError: One of them belongs to another partner.
        SettingsError: The data directory can't be read or written.
        LedgerError: The ledger can't be read or written.
    """
    link, path, place = DatasetLink(ledger.database), data_dir / ID_FILE, _place_of(ledger, data_dir)
    try:
        known = link.dataset_id()
        found, partner = _read(path)
        if found is None and (known is None or place == _INSIDE):
            # A ledger inside the directory has moved along with it, whatever became of the file.
            found, partner = _create(path, known or uuid.uuid4().hex, place)
        if known is None and found is not None and partner in (place, ""):
            known = link.bind(found)
    except OSError as error:
        raise SettingsError(
            f"KONTEXT_DATA_DIR is {data_dir}: {ID_FILE} there can't be read or written ({error.strerror or error}). Nothing "
            "was sent."
        ) from None
    if known is not None and known == found:
        return known
    if found is None:
        raise StrangersError(
            f"the ledger {ledger.database} belongs to another data directory than {data_dir}. A ledger has one: set "
            "KONTEXT_DATA_DIR to that directory, or use another ledger. If this is that directory and it has lost its "
            f"{ID_FILE}, write the file again, with the one line {known}. Nothing was sent."
        )
    if known is None:
        raise StrangersError(
            f"the data directory {data_dir} belongs to the ledger {partner}, not to {place}. Set KONTEXT_LEDGER_URL to that "
            f"ledger. If that ledger is lost, remove {path}: the pictures are kept and not paid for again, but what they "
            "cost is lost with the ledger. Nothing was sent."
        )
    raise StrangersError(
        f"the ledger {ledger.database} and the data directory {data_dir} don't belong together: the ledger's pictures "
        f"are in the directory whose {ID_FILE} says {known}, and here it says {found}. Set KONTEXT_DATA_DIR or "
        "KONTEXT_LEDGER_URL to the other one. Nothing was sent."
    )


_INSIDE: Final = "ledger.db"


def _place_of(ledger: Ledger, data_dir: UPath) -> str:
    """Return where a ledger is, without a password: `ledger.db` is the one in the data directory itself."""
    file = ledger.database.path
    if file is None:
        url = ledger.database.url
        return URL.create(url.drivername, host=url.host, port=url.port, database=url.database).render_as_string()
    inside = is_local(data_dir) and file.resolve() == (Path(data_dir.path) / _INSIDE).resolve()
    return _INSIDE if inside else str(file)


def _read(path: UPath) -> tuple[str | None, str]:
    """Return the id in a file and the place of the ledger; None where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None, ""
    first, second = [*lines, "", ""][:2]
    return first.strip(), second.strip()


def _create(path: UPath, dataset_id: str, place: str) -> tuple[str | None, str]:
    """Write the file unless there is one. Return what is in it then: the first of several processes decides."""

    def write(temporary: Path) -> None:
        temporary.write_text(f"{dataset_id}\n{place}\n", encoding="utf-8")

    if is_local(path):
        # A link is made by one process only, of a file that is complete.
        aside = Path(path.path).with_name(f".{ID_FILE}.{secrets.token_hex(8)}")
        write_atomically(aside, write)
        try:
            os.link(aside, path.path)
        except FileExistsError:
            pass
        except OSError:
            # Some file systems have no links.
            if not path.exists():
                aside.replace(path.path)
        finally:
            aside.unlink(missing_ok=True)
    else:
        write_atomically(path, write)
    log.info("The data directory %s has the id %s.", path.parent, dataset_id)
    return _read(path)
