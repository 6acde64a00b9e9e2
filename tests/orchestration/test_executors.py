"""On every executor a termination, and the death of the run's process, stop the spending within a round of calls."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import DatabaseMaker
from tests.orchestration.deployment import DEPLOY, Deployment, deployment, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CONCURRENCY = 16
ALL = [f"photos-{number:05}" for number in range(20)]
CELERY_VARIABLE = "KONTEXT_TEST_CELERY"
MULTIPROCESS = """
from dagster import definitions, multiprocess_executor
from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions


@definitions
def defs():
    return kontext_definitions(executor=multiprocess_executor)
"""
# A generation takes 12 s, so that a step has time to stop before the next round of calls.
SPEED = 2.0


@contextlib.contextmanager
def with_celery(folder: Path, postgres: DatabaseMaker) -> Iterator[Deployment]:
    """Yield a deployment of the shipped files for Celery and PostgreSQL, with a queue and databases of its own."""
    broker = os.environ.get(CELERY_VARIABLE)
    if not broker:
        pytest.skip(f"{CELERY_VARIABLE} is not set: it names a broker, as pyamqp://guest:guest@127.0.0.1:5672//")
    storage, ledger = postgres(), postgres()
    queue = f"kontext_{storage.rpartition('_')[2]}"
    shutil.copytree(DEPLOY / "celery", folder / "celery")
    shipped = (folder / "celery" / "celery.yaml").read_text()
    (folder / "celery" / "celery.yaml").write_text(
        shipped.replace("pyamqp://guest:guest@127.0.0.1:5672//", broker).replace("queue: kontext", f"queue: {queue}")
    )
    with deployment(
        folder,
        config=(DEPLOY / "dagster.postgres.yaml").read_text(),
        speed=SPEED,
        DAGSTER_POSTGRES_URL=storage,
        KONTEXT_LEDGER_URL=ledger,
        KONTEXT_CONCURRENCY=str(CONCURRENCY),
    ) as dagster:
        dagster.file = folder / "celery" / "definitions.py"
        dagster.queue = queue
        yield dagster


@contextlib.contextmanager
def with_executor(folder: Path, module: str | None) -> Iterator[Deployment]:
    with deployment(folder, module=module, speed=SPEED, KONTEXT_CONCURRENCY=str(CONCURRENCY)) as dagster:
        yield dagster


@pytest.mark.parametrize("executor", ["in_process", "multiprocess", "celery"])
def test_a_click_or_a_kill_stops_the_spending(tmp_path: Path, executor: str, request: pytest.FixtureRequest) -> None:
    made: dict[str, Callable[[], contextlib.AbstractContextManager[Deployment]]] = {
        "in_process": lambda: with_executor(tmp_path, None),
        "multiprocess": lambda: with_executor(tmp_path, MULTIPROCESS),
        "celery": lambda: with_celery(tmp_path, request.getfixturevalue("postgres_maker")),
    }
    with made[executor]() as dagster:
        dagster.write_manifest("photos", 160)
        dagster.start(*(["worker"] if executor == "celery" else []), "code", "daemon", "webserver")
        dagster.plan()

        terminated = dagster.launch_range(ALL[0], ALL[-1])
        dagster.wait_for_posts(30)
        clicked = dagster.posts()
        dagster.terminate(terminated)
        assert dagster.end_of(terminated) == "CANCELED"
        after = dagster.sandbox.wait_idle()["totals"]["posts"]
        print(f"\n{executor}: {clicked} posts at the click, {after} in the end")
        assert after <= clicked + CONCURRENCY
        pictures = dagster.check_bill().pictures
        assert pictures == after == sum(dagster.succeeded(ALL))

        killed = dagster.launch_range(ALL[0], ALL[-1], tags={"dagster/max_retries": "0"})
        dagster.wait_for_posts(after + 30)
        at_kill = dagster.posts()
        for process in dagster.run_processes():
            process.kill()
        assert dagster.end_of(killed) == "FAILURE"
        wait_for(lambda: str(dagster.at_work()), {"0"}, dagster.said)
        last = dagster.sandbox.wait_idle()["totals"]["posts"]
        print(f"{executor}: {at_kill} posts at the kill, {last} in the end")
        assert last <= at_kill + CONCURRENCY
        if executor != "in_process":
            # The step outlived the run's process, and has collected what was in flight.
            assert dagster.check_bill().pictures == last


def test_a_run_whose_worker_died_is_ended(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with with_celery(tmp_path, request.getfixturevalue("postgres_maker")) as dagster:
        dagster.write_manifest("photos", 160)
        dagster.start("worker", "code", "daemon", "webserver")
        dagster.plan()
        run = dagster.launch_range(ALL[0], ALL[-1], tags={"dagster/max_retries": "0"})
        dagster.wait_for_posts(10)
        # Celery tells nobody, and the run's process waits for an answer.
        dagster.kill_service("worker")
        assert dagster.end_of(run) == "FAILURE"
        assert any(run in (tick["skipReason"] or "") for tick in dagster.ticks("dead_runs"))
