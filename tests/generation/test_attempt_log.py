"""The log of attempts: one record at DEBUG for every transition, and no line for a request at INFO."""

import logging
from typing import Any

import pytest

from kontext_pipeline.generation.attempt_log import log_transition
from kontext_pipeline.generation.work import SentRequest
from kontext_pipeline.segmind.outcomes import Call, Outcome
from tests.generation.stages import PRICE, Stages, StagesMaker, answer, fingerprint, job

pytestmark = pytest.mark.timeout(20)

FIELDS = {"attempt", "fingerprint", "batch", "state", "cause", "status_code", "seconds", "cost_usd"}
ATTEMPTS = "kontext_pipeline.generation.attempts"
DIGITS = fingerprint(1)[:12]


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kontext_pipeline")


def extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name in FIELDS}


def transitions(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each record of an attempt, without those that are the same in all."""
    found = []
    for record in caplog.records:
        if record.name == ATTEMPTS:
            assert record.levelno == logging.DEBUG
            fields = extra(record)
            assert (fields.pop("fingerprint"), fields.pop("batch")) in {
                (DIGITS, "batch"),
                (DIGITS, "other batch"),
            }
            assert record.getMessage() == f"attempt {fields['attempt']} is {fields['state']}"
            found.append(fields)
    return found


def for_users(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def send(s: Stages, call: Call, told: Any) -> None:
    """Let one request be reserved, sent and settled."""
    s.client.on(call, told)
    s.offer(s.item(1))
    s.reserver.step()
    reservation = s.slots.take()
    assert reservation is not None
    if not s.sender.send(reservation):
        s.slots.release()
    s.settler.close(1)
    s.settler.work()


def test_a_record_has_the_fields_that_are_known(caplog: pytest.LogCaptureFixture) -> None:
    log_transition(
        "charged", SentRequest(7, "ab" * 32, "batch-3", None, 80_000), status_code=200, seconds=2.5, cost=80_000
    )
    log_transition("reserved", SentRequest(8, "cd" * 32, "batch-3", None, 80_000))
    assert [extra(record) for record in caplog.records] == [
        {
            "attempt": 7,
            "fingerprint": "abababababab",
            "batch": "batch-3",
            "state": "charged",
            "status_code": 200,
            "seconds": 2.5,
            "cost_usd": 0.08,
        },
        {"attempt": 8, "fingerprint": "cdcdcdcdcdcd", "batch": "batch-3", "state": "reserved"},
    ]


def test_above_debug_nothing_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kontext_pipeline")
    log_transition("reserved", SentRequest(8, "cd" * 32, "batch-3", None, 80_000))
    assert caplog.records == []


def test_an_image_of_v1(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    send(s, Call.GENERATE, answer(Outcome.SUCCEEDED, status_code=200, latency_s=2.4, cost_usd=0.09))
    assert transitions(caplog) == [
        {"attempt": 1, "state": "reserved"},
        {"attempt": 1, "state": "sent"},
        {"attempt": 1, "state": "answered", "status_code": 200, "seconds": 2.4},
        {"attempt": 1, "state": "charged", "status_code": 200, "cost_usd": 0.09},
    ]
    assert for_users(caplog) == []


def test_an_image_of_v2(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages(api_version="v2")
    send(s, Call.SUBMIT, answer(Outcome.ACCEPTED, Call.SUBMIT, job=job(1)))
    s.poll(Outcome.PENDING, Outcome.SERVER_ERROR, Outcome.COMPLETED)
    s.fetch(Outcome.LOST, answer(Outcome.SUCCEEDED, Call.FETCH, status_code=200, latency_s=0.2))
    assert transitions(caplog) == [
        {"attempt": 1, "state": "reserved"},
        {"attempt": 1, "state": "sent"},
        {"attempt": 1, "state": "submitted"},
        {"attempt": 1, "state": "answered", "status_code": 200, "seconds": 0.2},
        {"attempt": 1, "state": "charged", "status_code": 200, "cost_usd": 0.1},
    ]
    assert for_users(caplog) == []


def test_a_server_error_and_the_attempt_after_it(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    told = answer(Outcome.SERVER_ERROR, cause="unavailable", status_code=503, latency_s=0.1, error="busy")
    send(s, Call.GENERATE, told)
    send(s, Call.GENERATE, answer(Outcome.REJECTED, cause="bad_parameters", status_code=400))
    assert transitions(caplog) == [
        {"attempt": 1, "state": "reserved"},
        {"attempt": 1, "state": "sent"},
        {"attempt": 1, "state": "answered", "cause": "unavailable", "status_code": 503, "seconds": 0.1},
        {"attempt": 1, "state": "released", "cause": "unavailable", "status_code": 503, "cost_usd": 0.0},
        {"attempt": 2, "state": "reserved"},
        {"attempt": 2, "state": "sent"},
        {"attempt": 2, "state": "answered", "cause": "bad_parameters", "status_code": 400, "seconds": 0.0},
        {"attempt": 2, "state": "released", "cause": "bad_parameters", "status_code": 400, "cost_usd": 0.0},
    ]
    assert for_users(caplog) == []


def test_a_lost_answer(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    send(s, Call.GENERATE, answer(Outcome.LOST, cause="connection_lost", error="cut"))
    assert [(fields["state"], fields.get("cause")) for fields in transitions(caplog)] == [
        ("reserved", None),
        ("sent", None),
        ("answered", "connection_lost"),
        ("unknown", "connection_lost"),
    ]
    assert for_users(caplog) == ["an answer was lost: attempt 1 may have been charged (cut)"]


def test_an_attempt_that_was_not_sent(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    s.offer(s.item(1))
    s.reserver.step()
    s.reserver.close()
    s.reserver.work()
    assert transitions(caplog) == [
        {"attempt": 1, "state": "reserved"},
        {"attempt": 1, "state": "released", "cause": "not_sent"},
    ]
    assert for_users(caplog) == []


def test_an_attempt_that_was_given_back(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    s.reserver.give_back(s.reservation(s.item(1)))
    assert [fields["state"] for fields in transitions(caplog)] == ["reserved", "released"]


def test_an_image_that_the_store_could_not_take(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    (s.folder / "data/images/00").write_text("a file where the folder must be")
    send(s, Call.GENERATE, answer(Outcome.SUCCEEDED, status_code=200, cost_usd=0.09))
    assert [fields["state"] for fields in transitions(caplog)] == ["reserved", "sent", "answered", "charged"]
    (line,) = for_users(caplog)
    assert line.startswith("the run stops: ")


@pytest.mark.parametrize("left", ["an image", "nothing"])
def test_an_attempt_of_a_dead_run(stages: StagesMaker, caplog: pytest.LogCaptureFixture, left: str) -> None:
    s = stages()
    other = s.open_ledger("earlier run")
    s.other_attempt(other, 1)
    other.deregister()
    if left == "an image":
        send_picture(s)
    s.reaper.step()
    (fields,) = transitions(caplog)
    if left == "an image":
        assert fields == {"attempt": 1, "state": "charged", "cost_usd": PRICE / 1e6}
    else:
        assert fields == {"attempt": 1, "state": "unknown", "cause": "run_died", "cost_usd": 0.0}
    assert for_users(caplog) == ["took over 1 attempts of runs that had ended, and released 0 that were never sent"]


def send_picture(s: Stages) -> None:
    """Let the image of a request be in the store."""
    s.client.on(Call.GENERATE, Outcome.SUCCEEDED)
    picture = s.client.generate({}, s.store.spool, fingerprint(1)).picture
    assert picture is not None
    s.store.keep(fingerprint(1), picture)


def test_a_burst_of_429_is_one_line(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages(concurrency=20)
    burst = [s.sent(s.item(number)) for number in range(1, 11)]
    for sent in burst:
        # They were sent together. Their answers come one after the other, so each pause ends a little later.
        s.settler.settle(sent, answer(Outcome.RATE_LIMITED, retry_after_s=12.0))
        s.clock.forward(0.004)
    assert for_users(caplog) == ["paused 12.0 s: the account's rate limit"]


def test_a_pause_that_becomes_much_longer_is_told_again(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    s.pause.note(5.0)
    s.pause.note(60.0)
    assert for_users(caplog) == [
        "paused 5.0 s: the account's rate limit",
        "paused 60.0 s: the account's rate limit",
    ]
