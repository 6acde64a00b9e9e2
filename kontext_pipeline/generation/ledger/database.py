"""The ledger's database: opening it, bringing it up to date, and writing to it.

One writer at a time, in SQLite and in PostgreSQL alike, and every write of a process goes through one
thread that commits whatever has gathered while the last commit was on its way to the disk (group
commit). So a transaction needs no reasoning about what others do meanwhile, and four hundred workers
cost a few fsyncs a second instead of four hundred.
"""

import contextlib
import functools
import queue
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger.schema import SCHEMA_VERSION

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 60.0
BUSY_PAUSE_S: Final = 0.005
WRITE_LOCK: Final = 0x6B6F6E74
"""The advisory lock that makes PostgreSQL take one ledger transaction at a time."""
MOST_IN_ONE_COMMIT: Final = 512
PATIENCE_S: Final = 0.01
"""How long a write that nobody waits for may wait for others to share its commit, seconds."""
ROOM: Final = 8 * 2**20
"""Free bytes wanted on a SQLite ledger's disk; what is written between two requests is a small part of it."""
SERVER_PATIENCE_S: Final = 30.0
"""How long a PostgreSQL server that went away is waited for."""
SERVER_PAUSE_S: Final = 0.5


class Transaction:
    """One group of writes on its way to one commit. `memory` lasts as long as it does."""

    def __init__(self, connection: Connection) -> None:
        """Wrap the connection of a transaction that holds the write lock, or of one that only reads."""
        self.connection = connection
        self.memory: dict[Any, Any] = {}
        self.sqlite = connection.dialect.name == "sqlite"
        self._driver: Any = connection.connection.driver_connection
        self._before_commit: list[Callable[[], None]] = []

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> Any:
        """Run one statement, its parameters written `:name`, on the driver itself; return its cursor.

        A picture takes eight of them, and SQLAlchemy's way would cost as much as sending the request.
        Rows are read by column name.

        Raises:
            DBAPIError: what SQLAlchemy would raise.
        """
        try:
            if self.sqlite:
                cursor = self._driver.cursor()
                cursor.row_factory = sqlite3.Row
                return cursor.execute(sql, parameters)
            cursor = self._driver.cursor(cursor_factory=_named_rows())
            cursor.execute(_for_psycopg(sql), parameters)
        except Exception as error:
            known = self.connection.dialect.dbapi
            if known is None or not isinstance(error, known.Error):
                raise
            raise DBAPIError.instance(sql, parameters, error, known.Error) from error
        return cursor

    def before_commit(self, work: Callable[[], None]) -> None:
        """Run `work` as the last thing of this transaction."""
        self._before_commit.append(work)

    def finish(self) -> None:
        """Do what was left for the end."""
        for work in self._before_commit:
            work()

    def shared_clock(self) -> int:
        """Microseconds on the clock that all users of this ledger share.

        PostgreSQL's own, or for SQLite, whose users are all on one machine, the machine's monotonic one:
        no user's wall clock takes part.
        """
        if self.sqlite:
            return time.monotonic_ns() // 1000
        found = self.connection.execute(
            text("SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint")
        )
        return int(found.scalar_one())


@functools.cache
def _for_psycopg(sql: str) -> str:
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", sql)


def _use_wal(cursor: sqlite3.Cursor) -> None:
    # SQLite waits for every other lock by itself, but gives up at once where two processes that open a new
    # ledger make this change at the same moment.
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(BUSY_PAUSE_S)


def _named_rows() -> Any:
    # Imported here: it comes with an extra that a SQLite ledger does without.
    from psycopg2.extras import DictCursor

    return DictCursor


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[Transaction], Any]
    future: Future[Any]
    patient: bool


class Database:
    """A ledger's database, up to date and ready to be written to.

    Raises:
        LedgerError: it can't be opened, or a newer release made it.
    """

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Open `url` (SQLAlchemy's form), making or upgrading the tables where needed.

        With `make` False a SQLite file that isn't there is not made, but missed.
        """
        self.url = make_url(url)
        self.path = self._sqlite_path()
        if self.path is not None and not make and not self.path.exists():
            raise LedgerError(f"there is no ledger at {self.path}: nothing was ever asked for from here")
        self.engine = self._engine()
        try:
            self._bring_up_to_date()
        except (OperationalError, DBAPIError) as error:
            self.engine.dispose()
            raise LedgerError(f"the ledger {self} can't be opened: {error.orig}") from None
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._writer = threading.Thread(target=self._write_groups, name="ledger-writer", daemon=True)
        self._writer.start()

    def __str__(self) -> str:
        """Name the database without its password."""
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    def write(self, work: Callable[[Transaction], T], *, patient: bool = False) -> T:
        """Run `work` in a transaction and return its result once that is on the disk.

        `work` may run again: when something beside it failed, or the connection broke. In the latter case
        the commit may have come to be all the same, so a second run must find that out for itself.
        With `patient` it may wait a moment for others to share its commit.

        Raises:
            LedgerError: the transaction did not come to be.
        """
        return self.submit(work, patient=patient).result()

    def submit(self, work: Callable[[Transaction], T], *, patient: bool = True) -> Future[T]:
        """Do what `write` does without waiting for it.

        What is done with the future's end by way of `add_done_callback` holds up all other writes, and must
        not wait for one itself. The future raises what `write` does.
        """
        future: Future[T] = Future()
        with self._closing:
            # Together, so that nothing is put behind the end, where nobody would ever take it.
            closed = self._closed
            if not closed:
                self._queue.put(_Write(work, future, patient))
        if closed:
            future.set_exception(LedgerError(f"the ledger {self} is closed"))
        return future

    def check_room(self) -> None:
        """Make sure that what is about to be paid for can be written down.

        Raises:
            LedgerError: the disk has no room for the next writes.
        """
        if self.path is not None and (free := shutil.disk_usage(self.path.parent).free) < ROOM:
            raise LedgerError(
                f"the ledger {self} could not be written: its disk has {free / 2**20:.1f} MiB left. Nothing more is "
                "bought. Make room and start again: what is done stays done."
            )

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading one consistent state; writers are not held up by it.

        Raises:
            LedgerError: it can't be read.
        """
        try:
            with self.engine.connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execution_options(isolation_level="REPEATABLE READ")
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise self._failed("read", error) from None

    def close(self) -> None:
        """Commit what is waiting and let the database go."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self.engine.dispose()

    def _sqlite_path(self) -> Path | None:
        if self.url.get_backend_name() != "sqlite":
            return None
        if not self.url.database or self.url.database == ":memory:":
            raise LedgerError("a ledger in memory would forget what was paid: name a file")
        return Path(self.url.database).expanduser().absolute()

    def _engine(self) -> Engine:
        if self.path is None:
            return create_engine(self.url, pool_pre_ping=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} can't be made: {error.strerror}") from None
        engine = create_engine(
            self.url.set(database=str(self.path)),
            connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            # WAL: readers and the writer don't wait for each other. FULL: a commit is on the disk
            # before the POST that it allows, whatever happens to the power.
            _use_wal(cursor)
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            writing = connection.get_execution_options().get("writing", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

        return engine

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            connection = connection.execution_options(writing=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITE_LOCK})
                yield connection

    def _bring_up_to_date(self) -> None:
        with self.engine.connect() as connection, connection.begin():
            if self._version(connection) == SCHEMA_VERSION:
                return
        with self._writing() as connection:
            # Asked again: another process may have upgraded while this one waited for the lock.
            found = self._version(connection)
            if found == SCHEMA_VERSION:
                return
            self._upgrade(connection, found)

    @staticmethod
    def _version(connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return str(found) if found is not None else None

    def _upgrade(self, connection: Connection, found: str | None) -> None:
        # Imported here: alembic takes half a second, and most openings need no migration.
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        config.attributes["connection"] = connection
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise LedgerError(
                f"the ledger {self} is of version {found}; this release knows none newer than {SCHEMA_VERSION}. "
                "A newer release of kontext_pipeline made it: use that one. Nothing was changed."
            )
        command.upgrade(config, "head")

    def _write_groups(self) -> None:
        last = False
        while not last:
            group: list[_Write] = []
            until = float("inf")
            item = self._queue.get()
            with contextlib.suppress(queue.Empty):
                while item is not None:
                    group.append(item)
                    if len(group) == MOST_IN_ONE_COMMIT:
                        break
                    until = min(until, time.monotonic() + PATIENCE_S) if item.patient else 0.0
                    left = until - time.monotonic()
                    item = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            last = item is None
            if group:
                self._commit(group)

    def _commit(self, group: list[_Write]) -> None:
        patience = time.monotonic() + (SERVER_PATIENCE_S if self.path is None else 0)
        while True:
            try:
                with self._writing() as connection:
                    transaction = Transaction(connection)
                    results = [item.work(transaction) for item in group]
                    transaction.finish()
            except Exception as error:  # noqa: BLE001  whatever it is belongs to whoever asked for the write
                if self._is_the_databases(error):
                    # A server that was restarted is waited for, a full disk is not.
                    if time.monotonic() < patience:
                        time.sleep(SERVER_PAUSE_S)
                        continue
                    for item in group:
                        item.future.set_exception(self._failed("written", error))
                elif len(group) > 1:
                    # One of them spoiled it: each gets a transaction of its own.
                    for item in group:
                        self._commit([item])
                else:
                    group[0].future.set_exception(
                        self._failed("written", error) if isinstance(error, SQLAlchemyError) else error
                    )
            else:
                for item, result in zip(group, results, strict=True):
                    item.future.set_result(result)
            return

    def _is_the_databases(self, error: Exception) -> TypeGuard[DBAPIError]:
        """Say whether a write failed for a reason that is no write's own."""
        if isinstance(error, OperationalError):
            return True
        # What a lost connection to a server says when it is told to roll back.
        return self.path is None and isinstance(error, InterfaceError)

    def _failed(self, to_be: str, error: SQLAlchemyError) -> LedgerError:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return LedgerError(f"the ledger {self} could not be {to_be}: {cause}")
