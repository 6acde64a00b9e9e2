"""How SQLite runs the ledger's statements: none reads a whole table that grows with every request, but those named here."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database

POSTGRESQL_ONLY = {"TAKE_WRITE_LOCK", "SERVER_CLOCK"}
WHOLE_TABLES = {
    "HIGHEST_CHARGE": "once a run",
    "COUNT_GENERATIONS": "once a run",
    "ALL_STATUSES": "once a run, for a plan as large as the ledger",
    "BACKENDS": "kontext status",
    "COUNT_BY_STATUS": "kontext status",
    "RESAMPLES": "kontext status",
    "AMOUNTS_BY_DAY": "kontext status",
    "ADD_BALANCE": "its last row alone",
    "SPENDING_BY_BATCH": "once a run in Dagster",
    "FIGURES_OF_RUNS": "once a backfill",
    "FAILED_BY_CAUSE": "kontext status",
    "WITHOUT_PICTURE": "kontext failures, and a run with failures",
    "OPEN_JOBS": "kontext status",
    "SPENDING_DIFFERENCES": "the check of the sums",
    "QUESTIONABLE": "kontext reconcile",
    "SPENDING_OF_ATTEMPTS": "kontext reconcile",
}
INDEXES = {
    "FIND_GENERATIONS": {"sqlite_autoindex_generations_1", "attempts_fingerprint"},
    "SETTLE_GENERATION": {"sqlite_autoindex_generations_1", "attempts_fingerprint"},
    "COUNT_WASTED": {"attempts_fingerprint"},
    "EXPIRED_ATTEMPT": {"attempts_fingerprint"},
    "LATEST_REVISION": {"sqlite_autoindex_generations_1"},
    "GENERATIONS": {"sqlite_autoindex_generations_1", "attempts_fingerprint"},
    "FIND_PICTURES_ATTEMPT": {"attempts_fingerprint"},
    "WITHDRAW_PICTURE": {"sqlite_autoindex_generations_1"},
    "OPEN_ATTEMPTS_OF": {"attempts_unsettled"},
    "ORPHANS": {"attempts_unsettled", "attempts_fingerprint"},
    "ADOPTED_ORPHAN": {"attempts_fingerprint"},
    "OTHER_CLAIMANTS": {"claimants_living"},
    "RUN_PROCESSES": {"claimants_living"},
}


def all_statements() -> dict[str, str]:
    found = {}
    for name, value in vars(statements).items():
        if name.isupper() and not name.startswith("_") and name not in {"HEARTBEAT", *POSTGRESQL_ONLY}:
            found.update(
                {f"{name} {key}": text for key, text in value.items()} if isinstance(value, dict) else {name: value}
            )
    return found


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("plans") / "ledger.db"
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def plan_of(connection: sqlite3.Connection, statement: str) -> list[str]:
    statement = statement.replace("IN :keys", "IN (:first_key, :second_key)")
    parameters = dict.fromkeys(re.findall(r":(\w+)", statement), "")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


def reads_whole_table(plan: list[str]) -> bool:
    """Whether a plan scans attempts or generations, by their names or aliases. A partial index is short."""
    return any(
        re.match(r"SCAN (attempts|generations|[ago])\b(?! USING INDEX attempts_unsettled)", step)
        or re.fullmatch(r"SEARCH (attempts|generations|[ago])", step)
        for step in plan
    )


def test_statements_are_found() -> None:
    assert len(all_statements()) > 30
    assert {*WHOLE_TABLES, *INDEXES} <= set(all_statements())
    assert {name for name, text in all_statements().items() if "IN ('open', 'unknown')" in text} == {
        name for name, indexes in INDEXES.items() if "attempts_unsettled" in indexes
    }


@pytest.mark.parametrize("name", all_statements())
def test_only_the_named_statements_read_whole_tables(connection: sqlite3.Connection, name: str) -> None:
    plan = plan_of(connection, all_statements()[name])
    assert reads_whole_table(plan) == (name in WHOLE_TABLES), plan


@pytest.mark.parametrize(("name", "indexes"), INDEXES.items())
def test_statements_use_their_indexes(connection: sqlite3.Connection, name: str, indexes: set[str]) -> None:
    plan = plan_of(connection, all_statements()[name])
    assert set(re.findall(r"USING (?:COVERING )?INDEX (\w+)", "\n".join(plan))) >= indexes, plan


def test_a_condition_in_other_words_is_noticed(connection: sqlite3.Connection) -> None:
    for words in ("state = 'open'", "state IN ('unknown', 'open') AND state = 'open'"):
        plan = plan_of(connection, f"SELECT id FROM attempts WHERE {words} AND claimant = :claimant")
        assert reads_whole_table(plan), plan


def test_every_statement_of_the_ledger_is_in_statements() -> None:
    """No other module writes SQL, but the migrations and SQLite's settings."""
    folder = Path(statements.__file__).parent
    for path in folder.glob("*.py"):
        if path.name != "statements.py":
            found = re.findall(r"\"(?:SELECT|INSERT|UPDATE|DELETE|WITH|CREATE)\b[^\"]*", path.read_text())
            assert found == [], path.name
