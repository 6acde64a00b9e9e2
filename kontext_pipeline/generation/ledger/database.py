"""The ledger's database: opening it, upgrading it, and writing to it.

In SQLite and in PostgreSQL alike, one transaction writes at a time. All writes of a process go through one thread, which
commits everything that has gathered while the last commit was on its way to the disk (group commit). So a transaction
never meets the half-done work of another one, and hundreds of threads need a few flushes of the disk a second instead of
hundreds.
"""

import contextlib
import functools
import logging
import queue
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeGuard, TypeVar

from sqlalchemy import URL, Connection, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.connecting import PAUSE_S, TIMEOUT_S, may_pass, open_engine
from kontext_pipeline.generation.ledger.migrations import SCHEMA_VERSION
from kontext_pipeline.threads import start_thread

T = TypeVar("T")

WRITE_LOCK: Final = 0x6B6F6E74
"""The key of the advisory lock that lets PostgreSQL run one ledger transaction at a time."""
GATHER_S: Final = 0.005
"""How long the first write of a group waits for others to share its commit, seconds: a commit costs as much CPU as
several writes, and several milliseconds of the disk."""
LARGEST_GROUP: Final = 512
"""Writes that share one commit, at the most."""
DISK_RESERVE: Final = 8 * 2**20
"""Free bytes that a SQLite ledger's disk must have; what is written between two requests is a small part of it."""

KEYS_IN_QUERY: Final = 450
"""Keys in one query: below the limit of parameters of every SQLite."""
_PARAMETER: Final = re.compile(r"(?<!:):(\w+)")

_log = logging.getLogger(__name__)


class Transaction:
    """A transaction that holds the write lock, or that only reads, as the ledger's statements see it.

    Its methods use the driver itself. A picture takes eight statements, and SQLAlchemy's overhead would cost as much as
    sending the request. They raise SQLAlchemy's errors.
    """

    def __init__(self, connection: Connection) -> None:
        """Wrap the connection of the transaction."""
        self.connection = connection
        self.sqlite = connection.dialect.name == "sqlite"
        self._driver: Any = connection.connection.driver_connection
        self._revision: int | None = None

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Run a statement and return the number of rows that it changed."""
        return int(self._run(statement, parameters, fetch=False))

    def rows(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a query. Their values are read by column name."""
        found: list[Any] = self._run(statement, parameters, fetch=True)
        return found

    def rows_of(
        self, statement: str, keys: Sequence[str], parameters: Mapping[str, Any] = MappingProxyType({})
    ) -> list[Any]:
        """Return the rows of a query with `IN :keys`. Queries with many keys are run in parts."""
        found: list[Any] = []
        for start in range(0, len(keys), KEYS_IN_QUERY):
            some = {f"key_{number}": key for number, key in enumerate(keys[start : start + KEYS_IN_QUERY])}
            names = ", ".join(f":{name}" for name in some)
            found += self.rows(statement.replace(":keys", f"({names})"), {**parameters, **some})
        return found

    def insert(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Insert rows by one statement, which is written for one row. Return the rows that it returns."""
        if not rows:
            return []
        values = {f"{name}_{number}": value for number, row in enumerate(rows) for name, value in row.items()}
        returning = "RETURNING" in statement
        found: list[Any] = self._run(_for_rows(statement, len(rows)), values, fetch=returning)
        return found if returning else []

    def row(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Return the first row of a query, or None."""
        found = self._run(statement, parameters, fetch=True)
        return found[0] if found else None

    def _run(self, statement: str, parameters: Mapping[str, Any], *, fetch: bool) -> Any:
        try:
            if self.sqlite:
                cursor = self._driver.cursor()
                cursor.row_factory = sqlite3.Row
                cursor.execute(statement, parameters)
            else:
                # Imported here: a SQLite ledger does not need the extra that it comes with.
                from psycopg2.extras import DictCursor

                cursor = self._driver.cursor(cursor_factory=DictCursor)
                cursor.execute(_for_psycopg(statement), parameters)
            return cursor.fetchall() if fetch else cursor.rowcount
        except Exception as error:
            driver = self.connection.dialect.dbapi
            if driver is None or not isinstance(error, driver.Error):
                raise
            raise DBAPIError.instance(statement, parameters, error, driver.Error) from error

    @property
    def revision(self) -> int:
        """The number of this transaction among those that changed requests: higher than that of every earlier one."""
        if self._revision is None:
            self._revision = int(self.row(statements.NEXT_REVISION, {})["revision"])
        return self._revision

    def shared_clock(self) -> int:
        """Return microseconds on the clock that all users of this ledger share.

        For PostgreSQL it is the server's clock; for SQLite, whose users are on one machine, the monotonic clock of the
        machine. No wall clock of a user takes part.
        """
        if self.sqlite:
            return time.monotonic_ns() // 1000
        return int(self.row(statements.SERVER_CLOCK, {})["now"])


@functools.cache
def _for_rows(statement: str, count: int) -> str:
    """Return an INSERT of one row as one of `count` rows, with the number of its row after each parameter's name."""
    head, row, tail = re.split(r"(?<=VALUES )(\([^)]*\))", statement)
    return head + ", ".join(_PARAMETER.sub(rf":\1_{number}", row) for number in range(count)) + tail


@functools.cache
def _for_psycopg(statement: str) -> str:
    return _PARAMETER.sub(r"%(\1)s", statement)


_Write = tuple[Callable[[Transaction], Any], Future[Any]]


class Database:
    """A ledger's database, of the newest version and ready to be written to. Any number of threads may use it.

    Raises:
        LedgerError: It can't be opened, or a newer release made it.
    """

    def __init__(self, url: str | URL, *, make: bool = True) -> None:
        """Open `url` (in SQLAlchemy's form), and create or upgrade the tables where needed.

        With `make` False, a SQLite file that does not exist is an error.
        """
        self.url = make_url(url)
        self.path = self._sqlite_path()
        if self.path is not None and not make and not self.path.exists():
            raise LedgerError(f"there is no ledger at {self.path}: nothing was ever asked for from here")
        self.engine = open_engine(self.url, self.path)
        try:
            self._bring_up_to_date()
        except (OperationalError, DBAPIError) as error:
            self.engine.dispose()
            raise LedgerError(f"the ledger {self} can't be opened: {error.orig}") from None
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._urgent = threading.Event()
        self._closed = False
        self._closing = threading.Lock()
        self._writer = start_thread(self._write_groups, "ledger-writer")

    def __str__(self) -> str:
        """Return the name of the database, without a password."""
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    def write(self, work: Callable[[Transaction], T], *, urgent: bool = False) -> T:
        """Run `work` in a transaction. Return its result when the transaction is on the disk.

        An `urgent` write doesn't wait for others to share its commit.

        `work` runs in the writer's thread, and may run again: where another write of the same commit failed, or where
        the connection broke. In the latter case the earlier transaction may have been committed, so `work` must
        recognize its own changes.

        Raises:
            LedgerError: The transaction was not committed.
        """
        done: Future[T] = Future()
        # Under the lock, so that nothing is queued behind the end, where no thread would take it.
        with self._closing:
            if self._closed:
                raise LedgerError(f"the ledger {self} is closed")
            self._queue.put((work, done))
            if urgent:
                self._urgent.set()
        return done.result()

    def check_room(self) -> None:
        """Make sure that what is about to be paid for can be written down.

        Raises:
            LedgerError: The disk has no room for the next writes.
        """
        if self.path is not None and (free := shutil.disk_usage(self.path.parent).free) < DISK_RESERVE:
            raise LedgerError(
                f"the ledger {self} could not be written: its disk has {free / 2**20:.1f} MiB left. Nothing more is "
                "bought. Make room and start again: what is done stays done."
            )

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection that reads one consistent state. It does not hold up writers.

        Raises:
            LedgerError: The database can't be read.
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
        """Commit what is waiting and close the database."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
            self._urgent.set()
        self._writer.join()
        self.engine.dispose()

    def _sqlite_path(self) -> Path | None:
        if self.url.get_backend_name() != "sqlite":
            return None
        if not self.url.database or self.url.database == ":memory:":
            raise LedgerError("a ledger in memory would forget what was paid: name a file")
        return Path(self.url.database).expanduser().absolute()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            connection = connection.execution_options(writing=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text(statements.TAKE_WRITE_LOCK), {"key": WRITE_LOCK})
                yield connection

    def _bring_up_to_date(self) -> None:
        with self.engine.connect() as connection, connection.begin():
            if self._version(connection) == SCHEMA_VERSION:
                return
        with self._writing() as connection:
            # Read again: another process may have upgraded while this one waited for the lock.
            found = self._version(connection)
            if found != SCHEMA_VERSION:
                self._upgrade(connection, found)

    @staticmethod
    def _version(connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text(statements.VERSION)).scalar()
        return str(found) if found is not None else None

    def _upgrade(self, connection: Connection, found: str | None) -> None:
        # Imported here: alembic takes half a second, and most ledgers need no migration.
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
        while (write := self._queue.get()) is not None:
            group = [write]
            self._urgent.wait(GATHER_S)
            self._urgent.clear()
            with contextlib.suppress(queue.Empty):
                while len(group) < LARGEST_GROUP:
                    following = self._queue.get_nowait()
                    if following is None:
                        # Nothing is queued behind the end: leave it for the outer loop.
                        self._queue.put(None)
                        break
                    group.append(following)
            self._commit(group)

    def _commit(self, group: list[_Write]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        waiting = False
        while True:
            try:
                with self._writing() as connection:
                    transaction = Transaction(connection)
                    results = [work(transaction) for work, _ in group]
            except Exception as error:  # noqa: BLE001  whatever it is, the threads that wait must hear of it
                if self._is_database_failure(error):
                    if (self.path is None or may_pass(error)) and time.monotonic() < deadline:
                        if not waiting:
                            _log.warning("the ledger %s does not answer; waiting: %s", self, error.orig)
                        waiting = True
                        time.sleep(PAUSE_S)
                        continue
                elif len(group) > 1:
                    # One write failed: each gets a transaction of its own.
                    for write in group:
                        self._commit([write])
                    return
                for _, done in group:
                    done.set_exception(self._failed("written", error))
            else:
                for (_, done), result in zip(group, results, strict=True):
                    done.set_result(result)
            return

    def _is_database_failure(self, error: Exception) -> TypeGuard[DBAPIError]:
        """Return whether a write failed for a reason that is not its own."""
        if isinstance(error, OperationalError):
            return True
        # SQLAlchemy's error when it rolls back on a lost connection to a server.
        return self.path is None and isinstance(error, InterfaceError)

    def _failed(self, to_be: str, error: Exception) -> Exception:
        """Return the ledger's error for one of the database; any other error stays as it is."""
        if not isinstance(error, SQLAlchemyError):
            return error
        cause = error.orig if isinstance(error, DBAPIError) else error
        return LedgerError(f"the ledger {self} could not be {to_be}: {cause}")
