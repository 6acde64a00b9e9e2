"""Connections to the ledger's database: how they are set up, and what is waited for while none can be had."""

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.files import lacks_descriptor

TIMEOUT_S: Final = 30.0
"""How long a server that restarts, or a descriptor, is waited for."""
PAUSE_S: Final = 0.5

_BUSY_TIMEOUT_S: Final = 60.0
_BUSY_PAUSE_S: Final = 0.005
_RESTARTING: Final = ("starting up", "shutting down", "terminating connection", "onnection refused", "unexpectedly")
"""Words of a connection's failure that pass when a server has restarted. PostgreSQL gives such failures no code."""

_log = logging.getLogger(__name__)


def open_engine(url: URL, path: Path | None) -> Engine:
    """Return the engine of a ledger at `url`, in the SQLite file `path` or, where that is None, on a server.

    A connection that can't be made is tried again for `TIMEOUT_S` if the reason may pass.

    Raises:
        LedgerError: The folder of the file can't be made.
    """
    if path is None:
        engine = create_engine(url, pool_pre_ping=True)
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"the ledger {path} can't be made: {error.strerror}") from None
        engine = create_engine(
            url.set(database=str(path)),
            connect_args={"timeout": _BUSY_TIMEOUT_S, "isolation_level": None, "check_same_thread": False},
        )

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            writing = connection.get_execution_options().get("writing", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        deadline = time.monotonic() + TIMEOUT_S
        waiting = False
        while True:
            try:
                connection = dialect.connect(*arguments, **parameters)
                if path is not None:
                    _set_up(connection)
            except dialect.dbapi.OperationalError as error:
                if not may_pass(error) or time.monotonic() >= deadline:
                    raise
                if not waiting:
                    name = path or url.render_as_string(hide_password=True)
                    _log.warning("the ledger %s can't be reached; waiting: %s", name, error)
                waiting = True
                time.sleep(PAUSE_S)
            else:
                return connection

    return engine


def may_pass(error: Exception) -> bool:
    """Return whether a failure passes by itself: a server restarts, or too many files are open."""
    return any(words in str(error) for words in _RESTARTING) or _no_descriptor_is_free()


def _no_descriptor_is_free() -> bool:
    # SQLite does not say why it can't open a file.
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return lacks_descriptor(error)
    return False


def _set_up(connection: sqlite3.Connection) -> None:
    try:
        cursor = connection.cursor()
        # WAL: readers and the writer don't wait for each other. FULL: a commit is on the disk, whatever happens to
        # the power, before the POST that it allows.
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()
    except sqlite3.Error:
        connection.close()
        raise


def _use_wal(cursor: sqlite3.Cursor) -> None:
    # SQLite waits for every other lock, but fails at once where two processes make this change to a new file.
    until = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_BUSY_PAUSE_S)
