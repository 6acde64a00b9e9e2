"""The ledger's versions: made once, upgraded, refused when they are newer than this release."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

import kontext_pipeline.generation.ledger
from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import Ledger, Reserved, Settlement
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.schema import SCHEMA_VERSION, metadata
from tests.generation.conftest import SpecMaker
from tests.generation.runs import BACKEND, RunSpec, running

MIGRATIONS = Path(kontext_pipeline.generation.ledger.__file__).with_name("migrations")


def config(connection: object = None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["connection"] = connection
    return made


def make_version(url: str, revision: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        command.upgrade(config(connection), revision)
    engine.dispose()


def version_of(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    engine.dispose()
    return str(found)


def differences(url: str) -> list[object]:
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))
    finally:
        database.close()


def test_the_newest_migration_is_the_version_of_the_schema() -> None:
    assert ScriptDirectory.from_config(config()).get_heads() == [SCHEMA_VERSION]


def test_migrations_make_the_schema(tmp_path: Path) -> None:
    assert differences(f"sqlite:///{tmp_path / 'ledger.db'}") == []


def test_a_new_file_that_another_writes_to_is_waited_for(tmp_path: Path) -> None:
    """Two processes make one ledger at the same moment: SQLite would fail one of them without waiting."""
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Database, f"sqlite:///{path}")
        with pytest.raises(TimeoutError):
            opening.result(0.3)
        other.close()
        database = opening.result(30)
    database.close()
    assert version_of(f"sqlite:///{path}") == SCHEMA_VERSION


def test_migrations_make_the_schema_on_postgresql(postgres: str) -> None:
    assert differences(postgres) == []


def check_upgrade(url: str) -> None:
    make_version(url, "0001")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO claimants (id, run_id, backend, host, pid, beat, started_at) "
                "VALUES ('old', 'run', 'sandbox', 'host', 1, 5, 0)"
            )
        )
    engine.dispose()
    ledger = Ledger(url, backend=BACKEND)
    with ledger.database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == SCHEMA_VERSION
        assert connection.execute(text("SELECT id, beat, lease_s FROM claimants")).all() == [("old", 5, 60.0)]
    ledger.register(run_id="new", lease_s=60)
    assert isinstance(ledger.reserve("a" * 64, "batch", api_version="v1", price=1).result(), Reserved)
    ledger.close()


def test_an_older_ledger_is_upgraded(tmp_path: Path) -> None:
    check_upgrade(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_an_older_ledger_is_upgraded_on_postgresql(postgres: str) -> None:
    check_upgrade(postgres)


def check_refusal(url: str) -> None:
    Database(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match=r"of version 9999.*newer release.*Nothing was changed"):
        Database(url)
    engine.dispose()
    assert version_of(url) == "9999"


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    check_refusal(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_newer_ledger_is_refused_on_postgresql(postgres: str) -> None:
    check_refusal(postgres)


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    with pytest.raises(LedgerError, match="can't be opened"):
        Database(f"sqlite:///{path}")


def check_made_by_four(one: RunSpec, folder: Path) -> None:
    with running(one, one, one, one, folder=folder) as runs:
        for run in runs:
            assert run.wait().stopped is None
    assert version_of(one.ledger) == SCHEMA_VERSION
    assert differences(one.ledger) == []


@pytest.mark.parametrize("version", [None, "0001"])
def test_four_processes_make_or_upgrade_one_ledger(
    spec: SpecMaker, tmp_path: Path, version: str | None
) -> None:
    one = spec([])
    if version is not None:
        make_version(one.ledger, version)
    check_made_by_four(one, tmp_path)


def test_four_processes_make_one_ledger_on_postgresql(spec: SpecMaker, tmp_path: Path, postgres: str) -> None:
    one = spec([], ledger=postgres)
    check_made_by_four(one, tmp_path)


def test_a_write_that_fails_does_not_spoil_those_beside_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    held_up, gate = threading.Event(), threading.Event()
    results: dict[int, object] = {}

    def hold(_transaction: object) -> None:
        held_up.set()
        gate.wait()

    def write(number: int) -> None:
        def work(transaction: object) -> int:
            if number == 3:
                raise ValueError("three")
            database_connection = transaction.connection  # type: ignore[attr-defined]
            database_connection.execute(
                text("INSERT INTO rates (backend, next_at, paused_until) VALUES (:b, 0, 0)"),
                {"b": str(number)},
            )
            return number

        try:
            results[number] = database.write(work)
        except ValueError as error:
            results[number] = error

    # The writer is held up, so that all of these gather into one commit.
    holder = threading.Thread(target=lambda: database.write(hold))
    holder.start()
    held_up.wait()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while database._queue.qsize() < 8:
        time.sleep(0.01)
    gate.set()
    for thread in [holder, *threads]:
        thread.join()
    assert isinstance(results.pop(3), ValueError)
    assert results == {number: number for number in (0, 1, 2, 4, 5, 6, 7)}
    with database.read() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM rates")).scalar() == 7
    database.close()
    with pytest.raises(LedgerError, match="closed"):
        database.write(lambda _transaction: None)


def test_a_commit_that_came_to_be_though_it_seemed_not_to_is_found_again(postgres: str) -> None:
    """The server ends the connection just after it has committed: the client sees an error."""
    ledger = Ledger(postgres, backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    broken = breaking_after_commit(ledger.database)
    opening = ledger.reserve("a" * 64, "batch", api_version="v1", price=100_000).result()
    assert isinstance(opening, Reserved)
    assert broken.is_set()
    assert attempts(ledger) == [(opening.attempt, "open")]

    broken = breaking_after_commit(ledger.database)
    closing = Settlement("charged", "succeeded", cost=100_000)
    ledger.settle(opening.attempt, closing, status="succeeded")
    assert broken.is_set()
    with ledger.database.read() as connection:
        assert connection.execute(text("SELECT charged, open FROM spending")).all() == [(100_000, 0)]
    ledger.close()


def test_orphans_are_found_again_after_such_a_commit(postgres: str) -> None:
    dead = Ledger(postgres, backend=BACKEND)
    dead.register(run_id="dead", lease_s=60)
    assert isinstance(dead.reserve("a" * 64, "batch", api_version="v1", price=100_000).result(), Reserved)
    dead.close()
    heir = Ledger(postgres, backend=BACKEND)
    heir.register(run_id="heir", lease_s=60)
    broken = breaking_after_commit(heir.database)
    assert [orphan.fingerprint for orphan in heir.reclaim_orphans()] == ["a" * 64]
    assert broken.is_set()
    heir.close()


def attempts(ledger: Ledger) -> list[tuple[int, str]]:
    with ledger.database.read() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT id, state FROM attempts"))]


def breaking_after_commit(database: Database) -> threading.Event:
    """Have the server end the writer's next connection between its commit and the answer to it."""
    from sqlalchemy import event

    broken = threading.Event()

    def end_it(connection: object) -> None:
        if broken.is_set() or threading.current_thread().name != "ledger-writer":
            return
        broken.set()
        raw = connection.connection.driver_connection  # type: ignore[attr-defined]
        raw.commit()
        other = create_engine(database.url, isolation_level="AUTOCOMMIT")
        with other.connect() as admin:
            admin.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": raw.info.backend_pid})
        other.dispose()

    event.listen(database.engine, "commit", end_it)
    return broken
