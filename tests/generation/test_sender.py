"""The sender: nothing is sent that the ledger doesn't hold, and a slot is free when its answer has had its effect."""

import base64
import threading

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation import reserver as reserver_module
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.ledger.sent_log import uptime_id
from kontext_pipeline.generation.work import Reservation
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from tests.generation.scripted_client import PNG
from tests.generation.stages import PRICE, Stages, StagesMaker, answer, job

pytestmark = pytest.mark.timeout(20)

DATA_URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
ACCEPTED = answer(Outcome.ACCEPTED, Call.SUBMIT, job=job(1), request_id="job-1")


def in_slots(s: Stages, *numbers: int) -> None:
    """Let reservations wait for a slot."""
    s.offer(*(s.item(number) for number in numbers))
    s.reserver.step()


def taken(s: Stages, number: int = 1) -> Reservation:
    """A reservation that has a slot."""
    in_slots(s, number)
    reservation = s.slots.take()
    assert reservation is not None
    return reservation


def sent_log(s: Stages) -> list[str]:
    (path,) = s.folder.glob("*.claims/*.sent")
    return path.read_text().splitlines()[1:]


def settle_all(s: Stages) -> None:
    """Settle the answers with images that wait."""
    s.settler.close(1)
    s.settler.work()


# --- what is sent -------------------------------------------------------------------------------


@pytest.mark.skipif(uptime_id() is None, reason="this system doesn't name its uptimes")
def test_an_attempt_is_in_the_ledger_and_in_the_sent_log_when_it_is_sent(stages: StagesMaker) -> None:
    s = stages()
    seen: list[tuple[list[str], list[str], int]] = []

    def post() -> Answer:
        seen.append((s.states(), sent_log(s), s.run.progress().attempts))
        return answer(Outcome.SUCCEEDED)

    s.client.on(Call.GENERATE, post)
    s.trace(s.ledger.lease, "sending")
    s.trace(s.client, "generate")
    s.trace(s.settler, "put")
    reservation = taken(s)
    assert sent_log(s) == []
    assert s.sender.send(reservation) is False
    assert seen == [(["open"], [str(reservation.attempt)], 1)]
    assert s.events == ["sending", "generate", "put"]
    settle_all(s)
    assert s.outcomes == [(1, "succeeded")]
    assert s.idle


@pytest.mark.parametrize("uri", [None, DATA_URI])
def test_the_body_is_the_request_s(stages: StagesMaker, uri: str | None) -> None:
    s = stages()
    s.client.on(Call.GENERATE, Outcome.SUCCEEDED)
    item = s.item(1, input_image=uri)
    request = s.resolver.resolve(item)
    assert request is not None
    assert s.reserver.offer(request)
    s.reserver.step()
    reservation = s.slots.take()
    assert reservation is not None
    s.sender.send(reservation)
    assert s.client.bodies == [item.request.body(uri)]
    assert s.client.calls == [(Call.GENERATE, item.fingerprint)]


def test_the_ledger_knows_when_a_request_was_sent(stages: StagesMaker) -> None:
    s = stages()
    s.client.on(Call.GENERATE, Outcome.REJECTED)
    reservation = taken(s)
    (before,) = s.attempts()
    s.sender.send(reservation)
    (after,) = s.attempts()
    assert after.started_at > before.started_at


def test_a_log_that_cannot_be_written_forbids_the_post(stages: StagesMaker) -> None:
    s = stages()
    in_slots(s, 1)
    s.ledger.lease.end_sending()
    s.sender.work()
    assert s.client.calls == []
    assert s.stop_cause == "ledger"
    assert s.slots.in_flight == 0
    assert s.idle
    assert s.run.progress().attempts == 0


# --- what is not sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["price", "day", "lease", "stop"])
def test_what_is_no_longer_valid_is_released_and_reserved_again(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    s = stages()
    reservation = taken(s)
    match why:
        case "price":
            s.reserver.raise_price(PRICE + 1)
        case "day":
            monkeypatch.setattr(reserver_module, "today", lambda: reservation.day + 1)
        case "lease":
            monkeypatch.setattr(s.ledger.lease, "is_fresh", lambda: False)
        case "stop":
            s.run.stop(Cause.INTERRUPTED, "stopped on request")
    assert s.sender.send(reservation) is False
    assert s.client.calls == []
    assert s.states() == ["not_sent"]
    assert s.held() == (0, 0, 0)
    if why == "stop":
        assert s.idle
    else:
        assert not s.idle
        assert s.take_due() == [1]


def test_a_pause_that_the_ledger_tells_holds_a_reservation_back(stages: StagesMaker) -> None:
    s = stages(concurrency=1, ahead=1)
    in_slots(s, 1, 2)
    first = s.slots.take()
    assert first is not None
    s.open_ledger("another run").pause(80.0)
    s.clock.forward(0.51)
    assert s.sender.send(first) is False
    assert s.client.calls == []
    assert s.slots.pause_state[0] > s.clock.now + 50
    # The reservation is still held, and is the next one to be sent.
    assert s.states() == ["open", "open"]
    s.slots.release()
    s.clock.forward(80.0)
    assert s.slots.take() == first
    # The clock of the ledger is the machine's.
    s.ledger.paused_for = lambda: 0.0  # type: ignore[method-assign]
    s.client.on(Call.GENERATE, Outcome.SUCCEEDED)
    s.sender.send(first)
    assert s.client.count(Call.GENERATE) == 1


def test_a_reservation_that_meets_a_pause_after_the_end_is_released(stages: StagesMaker) -> None:
    s = stages()
    reservation = taken(s)
    s.pause.note(8.0)
    s.slots.close()
    s.queue.close()
    assert s.sender.send(reservation) is False
    assert s.states() == ["not_sent"]
    assert s.idle


@pytest.mark.parametrize("full", ["the store", "the ledger"])
def test_without_room_nothing_is_sent_and_the_reservation_is_released(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    s = stages()
    rooms: list[object] = []

    def check_room(*values: object) -> None:
        rooms.extend(values)
        raise StoreFull("no room") if full == "the store" else LedgerError("no room")

    in_slots(s, 1, 2)
    owner = s.store if full == "the store" else s.ledger.database
    monkeypatch.setattr(owner, "check_room", check_room)
    s.sender.work()
    assert rooms == ([1] if full == "the store" else [])
    assert s.client.calls == []
    assert s.stop_cause == ("disk_full" if full == "the store" else "ledger")
    s.reserver.work()
    assert s.states() == ["not_sent"] * 2
    assert s.held() == (0, 0, 0)
    assert s.idle
    assert s.slots.in_flight == 0


# --- slots --------------------------------------------------------------------------------------


def test_only_a_job_that_was_accepted_keeps_its_slot(stages: StagesMaker) -> None:
    s = stages(api_version="v2")
    s.client.on(Call.SUBMIT, ACCEPTED)
    s.trace(s.slots, "release")
    assert s.sender.send(taken(s)) is True
    assert s.slots.in_flight == 1
    assert s.events == []
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.job) == ("open", job(1).to_json())


@pytest.mark.parametrize(
    "other",
    [
        answer(Outcome.REJECTED, Call.SUBMIT, status_code=400),
        answer(Outcome.LOST, Call.SUBMIT),
        answer(Outcome.UNUSABLE, Call.SUBMIT),
        answer(Outcome.RATE_LIMITED, Call.SUBMIT, retry_after_s=3.0),
        # A job that was not accepted is no job.
        answer(Outcome.LOST, Call.SUBMIT, job=job(1)),
    ],
    ids=lambda one: one.outcome.value,
)
def test_any_other_answer_to_a_submission_frees_the_slot(stages: StagesMaker, other: Answer) -> None:
    s = stages(api_version="v2")
    s.client.on(Call.SUBMIT, other)
    assert s.sender.send(taken(s)) is False
    assert s.next_ask_s is None
    assert s.states() != ["open"]


def test_an_answer_without_an_image_is_settled_before_its_slot_is_free(stages: StagesMaker) -> None:
    """A 401 stops the run before the next reservation is sent."""
    s = stages(concurrency=1, ahead=2)
    in_slots(s, 1, 2, 3)
    s.client.on(Call.GENERATE, answer(Outcome.STOPPED, cause="bad_key", status_code=401))
    s.trace(s.ledger, "settle")
    s.trace(s.run, "stop")
    s.trace(s.slots, "release")
    s.sender.work()
    assert s.events == ["settle", "stop", "release"]
    assert s.client.count(Call.GENERATE) == 1
    assert s.stop_cause == "bad_key"
    s.reserver.work()
    assert s.states() == ["released", "not_sent", "not_sent"]
    assert s.idle


def test_a_429_pauses_the_slots_before_its_own_is_free(stages: StagesMaker) -> None:
    s = stages(concurrency=1)
    s.client.on(Call.GENERATE, answer(Outcome.RATE_LIMITED, status_code=429, retry_after_s=20.0))
    reservation = taken(s)
    s.sender.send(reservation)
    assert s.slots.in_flight == 1
    assert s.slots.pause_state == (s.clock.now + 20.0, "rate limit")


def test_an_image_is_left_to_the_settler(stages: StagesMaker) -> None:
    s = stages()
    s.client.on(Call.GENERATE, answer(Outcome.SUCCEEDED, cost_usd=0.13))
    s.sender.send(taken(s))
    assert s.states() == ["open"]
    assert s.outcomes == []
    # Its price is known at once, as other requests may be sent before it is settled.
    assert s.reservation(s.item(2)).price == 130_000


def test_a_defect_of_the_client_stops_the_run_and_leaves_the_attempt_open(stages: StagesMaker) -> None:
    s = stages()

    def post() -> Answer:
        raise ZeroDivisionError

    s.client.on(Call.GENERATE, post)
    in_slots(s, 1)
    s.sender.work()
    assert s.stop_cause == "fault"
    assert s.states() == ["open"]
    assert s.slots.in_flight == 0
    assert s.idle


def test_a_job_that_cannot_be_recorded_stops_the_run_and_keeps_its_slot(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages(api_version="v2")

    def fail(*_: object) -> None:
        raise LedgerError("the ledger can't be written")

    monkeypatch.setattr(s.ledger, "record_job", fail)
    s.client.on(Call.SUBMIT, ACCEPTED)
    in_slots(s, 1)
    s.sender.work()
    assert s.stop_cause == "ledger"
    # Only this process knows the job: it is collected, and the run waits for it.
    assert s.slots.in_flight == 1
    assert not s.idle
    s.poll(Outcome.COMPLETED)
    s.fetch(Outcome.SUCCEEDED)
    assert s.outcomes == [(1, "succeeded")]
    assert s.slots.in_flight == 0
    assert s.idle


def test_senders_make_their_posts_at_the_same_time(stages: StagesMaker) -> None:
    s = stages(concurrency=3)
    together = threading.Barrier(3)

    def post() -> Answer:
        together.wait(5)
        return answer(Outcome.REJECTED)

    s.client.on(Call.GENERATE, post, post, post)
    in_slots(s, 1, 2, 3)
    threads = [threading.Thread(target=s.sender.work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert s.run.wait_until_idle(5)
    s.slots.close()
    for thread in threads:
        thread.join(5)
    assert s.states() == ["released"] * 3
    assert s.slots.in_flight == 0
