"""The ledger's versions: made once, upgraded, refused when they are newer than this release."""

import contextlib
import dataclasses
import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect, text

import kontext_pipeline.generation.ledger
from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import (
    AlreadySettled,
    ClaimedElsewhere,
    DatasetLink,
    Ledger,
    OverBudget,
    ReservationTerms,
    Reserved,
    Settlement,
)
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.migrations import HEARTBEAT, SCHEMA_VERSION
from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.generation.ledger.report import read_books, spending_differs
from tests.generation.conftest import SpecMaker
from tests.generation.runs import BACKEND, RunSpec, running

LEDGERS = Path(__file__).with_name("ledgers")
TERMS = ReservationTerms("v1", 100_000)
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


def columns(url: str) -> dict[str, object]:
    """The names, nullability and keys of all columns, and the indexes, as a new ledger at `url` has them."""
    database = Database(url)
    try:
        seen = inspect(database.engine)
        return {
            table: (
                [(column["name"], column["nullable"]) for column in seen.get_columns(table)],
                seen.get_pk_constraint(table)["constrained_columns"],
                sorted((index["name"], index["column_names"]) for index in seen.get_indexes(table)),
            )
            for table in seen.get_table_names()
        }
    finally:
        database.close()


def schema(path: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master WHERE sql <> '' ORDER BY name").fetchall()


def test_the_newest_migration_is_the_version_of_the_schema() -> None:
    assert ScriptDirectory.from_config(config()).get_heads() == [SCHEMA_VERSION]


def test_a_ledger_of_the_release_before_gets_the_tables_of_a_new_one(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'ledger.db'}").close()
    Database(restored(tmp_path / "before.db")).close()
    assert schema(tmp_path / "ledger.db") == schema(tmp_path / "before.db")


def test_migrations_make_the_same_tables_on_postgresql(tmp_path: Path, postgres: str) -> None:
    assert columns(postgres) == columns(f"sqlite:///{tmp_path / 'ledger.db'}")


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


def restored(path: Path) -> str:
    """Restore the ledger that the release before made, with requests in every state; return its URL.

    `ledgers/0002.json` is what that release said of it.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((LEDGERS / "0002.sql").read_text())
    return f"sqlite:///{path}"


def content(path: Path, tables: Mapping[str, str]) -> dict[str, list[Any]]:
    """The rows of some tables, in those of their columns that are named."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            name: connection.execute(f"SELECT {columns} FROM {name}").fetchall() for name, columns in tables.items()
        }


def tables_of(path: Path) -> dict[str, str]:
    """The columns of all tables but the one of the version."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))
            for name in names
            if name != "alembic_version"
        }


def test_a_ledger_of_the_release_before_says_the_same_and_stays_as_it_is(tmp_path: Path) -> None:
    said = json.loads((LEDGERS / "0002.json").read_text())
    url = restored(tmp_path / "ledger.db")
    tables = tables_of(tmp_path / "ledger.db")
    before = content(tmp_path / "ledger.db", tables)
    ledger = Ledger(url, backend=BACKEND)
    names = list(said["statuses"])
    books = read_books(ledger.database).to_dict()
    assert books["backends"] == said["books"]["backends"]
    assert {name: list(status) for name, status in ledger.statuses(names).items()} == said["statuses"]
    assert [sorted(part) for part in ledger.settled()] == said["settled"]
    rows = sorted(ledger.generations(names).to_pylist(), key=lambda row: row["fingerprint"])
    new = dict.fromkeys(("input_path", "input_kept_sha256", "input_width", "input_height"))
    assert json.loads(json.dumps(rows, default=datetime.isoformat)) == [{**row, **new} for row in said["generations"]]
    assert (ledger.highest_charge(), ledger.size()) == (said["highest_charge"], said["size"])
    assert spending_differs(ledger.database) == []
    link = DatasetLink(ledger.database)
    assert (link.dataset_id(), link.latest_revision(names)) == (None, 0)
    ledger.close()
    assert content(tmp_path / "ledger.db", tables) == before


def test_a_ledger_of_the_release_before_costs_nothing(tmp_path: Path) -> None:
    """What is settled is not reserved again, and what is open is collected."""
    ledger = Ledger(restored(tmp_path / "ledger.db"), backend=BACKEND)
    ledger.register(run_id="new", lease_s=60)
    claims = [(name * 64, "batch") for name in "0123456789abcd"]
    terms = dataclasses.replace(TERMS, unknown_retries=0, caps=[Cap(0, "run")])
    results = dict(zip("0123456789abcd", ledger.reserve(claims, terms), strict=True))
    assert {name for name in results if results[name] == AlreadySettled("succeeded")} == set("0168")
    assert {name for name in results if results[name] == AlreadySettled("failed")} == set("2")
    assert {name for name in results if results[name] == AlreadySettled("unknown")} == set("459")
    assert {name for name in results if results[name] == ClaimedElsewhere()} == set("abd")
    # Only these would be bought, if there were money: their attempts cost nothing.
    assert {name for name in results if isinstance(results[name], OverBudget)} == set("37c")

    # One of the three has not ended: the heartbeats of its process stand still for its whole lease of half a second.
    assert [orphan.fingerprint[0] for orphan in ledger.reclaim_orphans()] == ["a", "b"]
    deadline = time.monotonic() + 10
    while not (last := ledger.reclaim_orphans()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [orphan.fingerprint[0] for orphan in last] == ["d"]
    assert len(attempts(ledger)) == 16
    assert spending_differs(ledger.database) == []
    ledger.close()


def check_upgrade(url: str) -> None:
    make_version(url, "0001")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                f"INSERT INTO claimants (id, run_id, backend, host, pid, {HEARTBEAT}, started_at) "
                "VALUES ('old', 'run', 'sandbox', 'host', 1, 5, 0)"
            )
        )
    engine.dispose()
    ledger = Ledger(url, backend=BACKEND)
    with ledger.database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == SCHEMA_VERSION
        rows = connection.execute(text(f"SELECT id, {HEARTBEAT}, lease_s FROM claimants")).all()
        assert rows == [("old", 5, 60.0)]
    ledger.register(run_id="new", lease_s=60)
    assert isinstance(ledger.reserve([("a" * 64, "batch")], TERMS)[0], Reserved)
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
    assert columns(one.ledger).keys() == {
        "alembic_version",
        "alerts",
        "attempts",
        "balances",
        "claimants",
        "generations",
        "inputs",
        "ledger_facts",
        "rates",
        "spending",
        "uploads",
    }


@pytest.mark.parametrize("version", [None, "0001"])
def test_four_processes_make_or_upgrade_one_ledger(spec: SpecMaker, tmp_path: Path, version: str | None) -> None:
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


def test_a_commit_that_came_to_be_though_it_seemed_not_to_is_found_again(
    postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server ends the connection just after it has committed: the client sees an error."""
    ledger = Ledger(postgres, backend=BACKEND)
    ledger.register(run_id="run", lease_s=60)
    broken = breaking_after_commit(ledger.database)
    claims = [(name * 64, "batch") for name in "aab"]
    first, twin, second = ledger.reserve(claims, dataclasses.replace(TERMS, caps=[Cap(200_000, "all")]))
    assert isinstance(first, Reserved)
    assert isinstance(second, Reserved)
    assert twin == ClaimedElsewhere()
    assert broken.is_set()
    assert attempts(ledger) == [(first.attempt, "open"), (second.attempt, "open")]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not answer; waiting" in caplog.text
    assert "kontext_" in caplog.text

    broken = breaking_after_commit(ledger.database)
    ledger.settle(first.attempt, Settlement("charged", "succeeded", cost=100_000), status="succeeded")
    assert broken.is_set()
    broken = breaking_after_commit(ledger.database)
    ledger.release([second.attempt])
    assert broken.is_set()
    with ledger.database.read() as connection:
        assert connection.execute(text("SELECT charged, open FROM spending")).all() == [(100_000, 0)]
    ledger.close()


def test_orphans_are_found_again_after_such_a_commit(postgres: str) -> None:
    dead = Ledger(postgres, backend=BACKEND)
    dead.register(run_id="dead", lease_s=60)
    assert isinstance(dead.reserve([("a" * 64, "batch")], TERMS)[0], Reserved)
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
    broken = threading.Event()

    def end_it(connection: Connection) -> None:
        if broken.is_set() or threading.current_thread().name != "ledger-writer":
            return
        broken.set()
        raw: Any = connection.connection.driver_connection
        raw.commit()
        other = create_engine(database.url, isolation_level="AUTOCOMMIT")
        with other.connect() as admin:
            admin.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": raw.info.backend_pid})
        other.dispose()
        # The commit that follows would do nothing, as there is no transaction any more.
        connection.execute(text("SELECT 1"))

    event.listen(database.engine, "commit", end_it)
    return broken
