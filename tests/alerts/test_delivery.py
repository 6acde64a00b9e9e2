"""Alerts against receivers that take them, refuse them, break off, hang and redirect: each is told once."""

import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from kontext_pipeline.alerts import delivery as delivery_module
from kontext_pipeline.alerts.alert import AboutRun, Alert
from kontext_pipeline.alerts.delivery import AlertDelivery
from kontext_pipeline.generation.ledger import alert_book
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.settings import Settings
from tests.segmind.gateway import Gateway, Reply

PATH = "/services/T0123/B4567/89abcdefghij"
RUN = AboutRun("birds", "sandbox", "run-1")


def alert(key: str = "one", words: str = "hello") -> Alert:
    return RUN.alert(key, "stopped", words, {})


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield database
    database.close()


@pytest.fixture
def deliver(gateway: Gateway, database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AlertDelivery]:
    """Makes deliveries as different processes have them: nothing is shared but the ledger."""
    monkeypatch.setattr(delivery_module, "PAUSE_S", 0.01)
    return lambda: AlertDelivery(SecretStr(gateway.url + PATH), None, database)


def texts(gateway: Gateway) -> list[str]:
    return [json.loads(request.body)["text"] for request in gateway.seen(PATH)]


def test_an_alert_is_told_once_by_however_many(gateway: Gateway, deliver: Callable[[], AlertDelivery]) -> None:
    gateway.routes[PATH] = Reply(200, b"ok")
    deliver().tell([alert(), alert("two", "<!channel>")])
    again = deliver()
    again.tell([alert(), alert("two")])
    again.tell_waiting()
    assert texts(gateway) == ["birds: hello", "birds: &lt;!channel&gt;"]
    assert gateway.seen(PATH)[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("first", [Reply(503), Reply(429), Reply(reset=True), Reply(raw=b"not http at all")])
def test_what_may_pass_is_tried_again_at_once(
    first: Reply, gateway: Gateway, deliver: Callable[[], AlertDelivery]
) -> None:
    gateway.routes[PATH] = [first, Reply(200, b"ok")]
    deliver().tell([alert()])
    deliver().tell([alert()])
    assert len(texts(gateway)) == 2


@pytest.mark.parametrize(
    ("answer", "tries"),
    [(Reply(500), 3), (Reply(reset=True), 3), (Reply(404), 1), (Reply(302, headers={"Location": "/elsewhere"}), 1)],
)
def test_what_does_not_pass_is_left_to_a_later_run(
    answer: Reply, tries: int, gateway: Gateway, deliver: Callable[[], AlertDelivery], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.routes[PATH] = answer
    gateway.routes["/elsewhere"] = Reply(200)
    deliver().tell([alert()])
    assert len(texts(gateway)) == tries
    assert "a later run tries again" in caplog.text
    # Told already, as far as who tells it is concerned: a later run takes it over as it is.
    deliver().tell([alert()])
    assert len(texts(gateway)) == tries
    gateway.routes[PATH] = Reply(200)
    deliver().tell_waiting()
    deliver().tell_waiting()
    assert texts(gateway)[tries:] == ["birds: hello"]
    assert gateway.seen("/elsewhere") == []
    assert not any(part in caplog.text for part in (gateway.url, PATH, str(gateway.port)))


def test_a_receiver_that_never_takes_one_is_given_up(gateway: Gateway, deliver: Callable[[], AlertDelivery]) -> None:
    gateway.routes[PATH] = Reply(410)
    deliver().tell([alert()])
    for _ in range(10):
        deliver().tell_waiting()
    assert len(texts(gateway)) == alert_book.MOST_TRIES


def test_old_alerts_and_those_of_a_living_process_are_left_alone(
    gateway: Gateway, database: Database, deliver: Callable[[], AlertDelivery]
) -> None:
    gateway.routes[PATH] = Reply(404)
    deliver().tell([alert("old"), alert("claimed"), alert("abandoned")])
    gateway.routes[PATH] = Reply(200)
    now = time.time_ns() // 1000
    changes = {
        "old": ("made_at", now - round(alert_book.WAITING_S * 1e6)),
        "claimed": ("claimed_at", now),
        "abandoned": ("claimed_at", now - round(alert_book.CLAIM_S * 1e6) - 1),
    }
    for key, (column, value) in changes.items():
        statement, parameters = f"UPDATE alerts SET {column} = :value WHERE key = :key", {"value": value, "key": key}
        database.write(partial(Transaction.execute, statement=statement, parameters=parameters))
    before = len(texts(gateway))
    deliver().tell_waiting()
    with database.read() as connection:
        told = connection.execute(text("SELECT key FROM alerts WHERE told_at IS NOT NULL")).scalars().all()
    assert (len(texts(gateway)) - before, told) == (1, ["abandoned"])


@pytest.mark.parametrize("hanging", [Reply(hang=True), Reply(200, b"ok" * 100, trickle_head=0.05)])
def test_a_receiver_that_hangs_is_waited_for_within_bounds_and_told_once(
    hanging: Reply,
    gateway: Gateway,
    deliver: Callable[[], AlertDelivery],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(delivery_module, "ANSWER_S", 0.3)
    gateway.routes[PATH] = hanging
    deliver().tell([alert()])
    gateway.routes[PATH] = Reply(200)
    deliver().tell([alert()])
    deliver().tell_waiting()
    assert len(texts(gateway)) == 1
    assert "counts as sent" in caplog.text


def test_no_receiver_at_all(database: Database, gateway: Gateway, deliver: Callable[[], AlertDelivery]) -> None:
    nowhere = AlertDelivery(SecretStr("http://127.0.0.1:9" + PATH), None, database)
    nowhere.tell([alert()])
    gateway.routes[PATH] = Reply(200)
    deliver().tell_waiting()
    assert texts(gateway) == ["birds: hello"]


def test_no_try_begins_after_the_end(gateway: Gateway, deliver: Callable[[], AlertDelivery]) -> None:
    gateway.routes[PATH] = Reply(200)
    late = deliver()
    late.end_by(time.monotonic())
    late.tell([alert()])
    assert texts(gateway) == []
    deliver().tell_waiting()
    assert texts(gateway) == ["birds: hello"]


def test_the_template_is_the_users(gateway: Gateway, database: Database) -> None:
    gateway.routes[PATH] = Reply(202)
    settings = Settings(
        alert_url=SecretStr(gateway.url + PATH),
        alert_template=SecretStr('{"summary": "$text", "kind": "$event", "left": $left, "key": "pager-key"}'),
    )
    made = AlertDelivery.of(settings, database)
    assert made is not None
    made.tell([replace(alert(), numbers={"left": 7})])
    [request] = gateway.seen(PATH)
    told = json.loads(request.body)
    assert told == {"summary": "birds: hello", "kind": "stopped", "left": 7, "key": "pager-key"}


def test_an_open_network_is_warned_of_without_the_address(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    AlertDelivery(SecretStr("http://hooks.example.com/secret-path"), None, database)
    assert "KONTEXT_ALERT_URL is not encrypted" in caplog.text
    assert "hooks" not in caplog.text
    assert "secret-path" not in caplog.text


def _tell(url: str, ledger: str, start: float) -> None:
    database = Database(ledger)
    time.sleep(max(0.0, start - time.time()))
    made = AlertDelivery(SecretStr(url), None, database)
    for number in range(10):
        made.tell([alert(str(number), str(number)), alert(str(number + 1), str(number + 1))])
    made.tell_waiting()
    database.close()


def check_four_processes(gateway: Gateway, ledger: str) -> None:
    gateway.routes[PATH] = Reply(200)
    Database(ledger).close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.alerts.test_delivery"])
    arguments = (gateway.url + PATH, ledger, time.time() + 1)
    processes = [context.Process(target=_tell, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(texts(gateway)) == sorted(f"birds: {number}" for number in range(11))


def test_four_processes_at_once_tell_once(gateway: Gateway, tmp_path: Path) -> None:
    check_four_processes(gateway, f"sqlite:///{tmp_path / 'ledger.db'}")


def test_four_processes_at_once_tell_once_on_postgresql(gateway: Gateway, postgres: str) -> None:
    check_four_processes(gateway, postgres)
