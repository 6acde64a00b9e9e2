"""The same promises with the ledger in PostgreSQL, where no lock file tells who is dead."""

import dataclasses
import signal
import time
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import text

from tests.generation.conftest import SpecMaker
from tests.generation.runs import Ledgerbook, fingerprint_of, perform, running, wait_for_posts
from tests.generation.test_kills import IN_FLIGHT, check_v1, check_v2, killed_and_restarted
from tests.sandbox.running import Sandbox

A_TENTH_OF_A_SECOND = {"speed": 240.0}
A_SECOND = {"speed": 24.0, "latency_spread": 0.0}


@pytest.mark.parametrize("kontext_sandbox", [A_TENTH_OF_A_SECOND], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_four_processes_share_a_manifest_and_fill_a_cap(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, postgres: str, api_version: str
) -> None:
    one = spec(range(60), ledger=postgres, api_version=api_version, concurrency=16, caps=[(3.70, "month")])
    four = [dataclasses.replace(one, run_id=f"process {number}") for number in range(4)]
    with running(*four, folder=tmp_path) as runs:
        assert [run.wait().stopped for run in runs] == ["budget"] * 4
    book = Ledgerbook(postgres, kontext_sandbox)
    book.check()
    assert book.billed == 37 == len(book.attempts)
    assert set(book.billed_per_row().values()) == {1}


@pytest.mark.parametrize("kontext_sandbox", [A_TENTH_OF_A_SECOND], indirect=True)
@pytest.mark.parametrize("api_version", [pytest.param("v1", marks=pytest.mark.long), "v2"])
def test_killed_runs_are_replaced_after_their_lease(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, postgres: str, api_version: str
) -> None:
    last = killed_and_restarted(
        spec,
        kontext_sandbox,
        tmp_path,
        kills=4,
        seed=3,
        rows=range(80),
        ledger=postgres,
        api_version=api_version,
        concurrency=IN_FLIGHT,
        unknown_retries=10,
        lease_s=1.0,
    )
    book = Ledgerbook(postgres, kontext_sandbox)
    if api_version == "v1":
        check_v1(book, last, 4)
    else:
        check_v2(book, last)


@pytest.mark.parametrize("kontext_sandbox", [A_SECOND], indirect=True)
def test_a_budget_that_the_dead_hold_is_freed_after_their_lease(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, postgres: str
) -> None:
    # The heir has rows of its own: nothing but the budget brings it to look for the dead.
    one = spec(range(4), ledger=postgres, api_version="v2", lease_s=1.0, caps=[(0.8, "all")])
    kontext_sandbox.set_faults({"kind": "failed", "prompt": "row 3"})
    with running(dataclasses.replace(one, run_id="dead"), folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 4)
        time.sleep(0.15)
        run.kill()
    result = perform(dataclasses.replace(one, rows=range(10, 20), run_id="heir"))
    assert result.stopped == "budget"
    book = Ledgerbook(postgres, kontext_sandbox)
    book.check()
    assert book.billed == 8


@pytest.mark.long
@pytest.mark.parametrize("kontext_sandbox", [A_SECOND], indirect=True)
def test_a_sleeper_is_replaced_and_stops_when_it_wakes(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, postgres: str
) -> None:
    one = spec(range(8), ledger=postgres, concurrency=4, lease_s=1.5)
    with running(dataclasses.replace(one, rows=range(40), run_id="sleeper"), folder=tmp_path) as (sleeper,):
        wait_for_posts(kontext_sandbox, 4)
        time.sleep(0.15)
        sleeper.signal(signal.SIGSTOP)
        with running(dataclasses.replace(one, run_id="heir"), folder=tmp_path) as (heir,):
            assert heir.wait().stopped is None
        sleeper.signal(signal.SIGCONT)
        assert sleeper.wait().stopped == "ledger"
    book = Ledgerbook(postgres, kontext_sandbox)
    book.check()
    assert book.pictures(one.data_dir) >= {fingerprint_of(row) for row in one.rows}
    assert book.charged_micros + 100_000 * book.count("unknown") == book.billed_micros


@pytest.mark.parametrize("kontext_sandbox", [A_TENTH_OF_A_SECOND], indirect=True)
def test_a_server_that_ends_every_connection_is_waited_for(
    spec: SpecMaker, kontext_sandbox: Sandbox, tmp_path: Path, postgres: str
) -> None:
    one = spec(range(200), ledger=postgres, concurrency=8)
    admin = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 20)
        # Often enough to meet connections at all that they do: opening, writing, committing, at rest.
        for number in range(25):
            time.sleep(0.03 * (number % 5))
            with admin.connect() as connection:
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                    {"name": sqlalchemy.make_url(postgres).database},
                )
        result = run.wait()
    admin.dispose()
    assert result.stopped is None
    assert set(result.outcomes.values()) == {"succeeded"}
    book = Ledgerbook(postgres, kontext_sandbox)
    book.check()
    assert book.billed == 200 == len(book.attempts)
