"""The resolver: what is there already needs no request, and an input picture gets its URI."""

import hashlib
import threading
from pathlib import Path

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Settlement, Stored
from kontext_pipeline.generation.work import ResolvedRequest, WorkItem
from kontext_pipeline.segmind.outcomes import Call, Outcome
from tests.generation.scripted_client import PNG, picture_in
from tests.generation.stages import BACKEND, PRICE, Stages, StagesMaker, answer, fingerprint

pytestmark = pytest.mark.timeout(20)


def rescued(s: Stages, number: int) -> None:
    """Put an image into the rescue folder."""
    s.store.rescue.mkdir(parents=True)
    (s.store.rescue / f"{fingerprint(number)}.png").write_bytes(PNG)


def with_input(s: Stages, number: int) -> WorkItem:
    """An item with a local input picture, the same one for all."""
    path = s.folder / "input.png"
    path.write_bytes(PNG)
    return s.item(number, input_image=str(path), input_sha256=hashlib.sha256(PNG).hexdigest())


def test_a_new_request_is_passed_on(stages: StagesMaker) -> None:
    s = stages()
    item = s.item(1)
    assert s.resolver.resolve(item) == ResolvedRequest(item, None)
    assert not s.idle
    assert s.outcomes == []


def test_a_uri_is_passed_on_as_it_is(stages: StagesMaker) -> None:
    s = stages()
    item = s.item(1, input_image="https://pictures.example/fox.png")
    assert s.resolver.resolve(item) == ResolvedRequest(item, "https://pictures.example/fox.png")
    assert s.client.calls == []


@pytest.mark.parametrize("where", ["the store", "the rescue folder"])
def test_an_image_that_exists_costs_nothing(stages: StagesMaker, where: str) -> None:
    s = stages()
    if where == "the store":
        s.store.keep(fingerprint(1), picture_in(s.store.spool, fingerprint(1)))
    else:
        rescued(s, 1)
    assert s.resolver.resolve(s.item(1)) is None
    assert s.outcomes == [(1, "succeeded")]
    assert s.run.progress().found == 1
    assert s.idle
    assert s.generation(1) == ("succeeded", False, False)
    assert s.attempts() == []
    assert s.row(1).image_path == f"images/00/{fingerprint(1)}.png"
    assert s.store.find(fingerprint(1)) is not None


def test_an_image_that_the_store_still_cannot_take_stops_the_run(stages: StagesMaker) -> None:
    s = stages()
    rescued(s, 1)
    (s.folder / "data/images/00").write_text("a file where the folder must be")
    with pytest.raises(StoreFull, match="kept as"):
        s.resolver.resolve(s.item(1))
    s.queue.put(s.item(1))
    # The stop closes the queue, which ends the stage.
    s.resolver.work()
    assert s.stop_cause == "disk_full"
    assert (s.store.rescue / f"{fingerprint(1)}.png").exists()


def test_an_item_whose_job_is_overdue_is_parked(stages: StagesMaker) -> None:
    s = stages()
    s.overdue.add(fingerprint(1), 100_000)
    item = s.item(1)
    assert s.resolver.resolve(item) is None
    assert s.idle
    assert s.outcomes == []
    assert s.overdue.remove(fingerprint(1)) == [item]


def test_an_input_picture_is_uploaded_once(stages: StagesMaker) -> None:
    s = stages()
    s.client.on(Call.UPLOAD, Outcome.SUCCEEDED)
    first, second = (s.resolver.resolve(with_input(s, number)) for number in (1, 2))
    assert first is not None
    assert second is not None
    assert first.input_uri == second.input_uri
    assert str(first.input_uri).startswith("https://uploads.example/")
    assert s.client.calls == [(Call.UPLOAD, "image/png")]


def test_without_uploads_the_picture_travels_in_the_request(stages: StagesMaker) -> None:
    s = stages()
    s.client.on(Call.UPLOAD, Outcome.UNSUPPORTED)
    request = s.resolver.resolve(with_input(s, 1))
    assert request is not None
    assert str(request.input_uri).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("met", "passed_on"),
    [
        (Outcome.REJECTED, Outcome.REJECTED),
        (Outcome.STOPPED, Outcome.STOPPED),
        # An upload costs nothing, so one whose answer was lost is simply made again.
        (Outcome.LOST, Outcome.SERVER_ERROR),
    ],
)
def test_a_failed_upload_is_passed_on_with_the_request(stages: StagesMaker, met: Outcome, passed_on: Outcome) -> None:
    s = stages()
    s.client.on(Call.UPLOAD, answer(met, Call.UPLOAD, error="too large"))
    request = s.resolver.resolve(with_input(s, 1))
    assert request is not None
    assert request.input_uri is None
    assert request.unavailable == answer(passed_on, Call.UPLOAD, error="too large")


def test_a_file_that_is_gone_is_passed_on_as_unavailable(stages: StagesMaker) -> None:
    s = stages()
    item = with_input(s, 1)
    Path(str(item.request.input_image)).unlink()
    request = s.resolver.resolve(item)
    assert request is not None
    assert request.unavailable is not None
    assert (request.unavailable.outcome, request.unavailable.cause) == (Outcome.REJECTED, "input_missing")
    assert s.client.calls == []


def test_the_stage_passes_items_on_until_the_queue_is_closed(stages: StagesMaker) -> None:
    s = stages()
    for number in (1, 2, 3):
        s.queue.put(s.item(number))
    thread = threading.Thread(target=s.resolver.work, daemon=True)
    thread.start()
    while len(s.reserver._resolved) < 3:
        thread.join(0.001)
    s.queue.close()
    thread.join(5)
    assert not thread.is_alive()
    assert [request.item.request.seed for request in s.reserver._resolved] == [1, 2, 3]
    assert not s.idle


def test_what_the_reserver_no_longer_takes_is_let_go(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()
    s.reserver.close()
    s.queue.put(s.item(1))
    find = s.store.find

    def find_and_close(fingerprint: str) -> Stored | None:
        s.queue.close()
        return find(fingerprint)

    monkeypatch.setattr(s.store, "find", find_and_close)
    s.resolver.work()
    assert s.idle


def test_an_error_stops_the_run_and_lets_the_item_go(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()
    s.queue.put(s.item(1))
    s.queue.put(s.item(2))

    def fail(*_: object) -> None:
        raise LedgerError("the ledger can't be written")

    s.store.keep(fingerprint(1), picture_in(s.store.spool, fingerprint(1)))
    monkeypatch.setattr(s.ledger, "adopt_picture", fail)
    s.resolver.work()
    assert s.stop_cause == "ledger"
    assert s.idle
    assert s.outcomes == []


def test_an_image_that_another_run_has_yet_to_settle_is_waited_for(stages: StagesMaker) -> None:
    s = stages()
    other = Ledger(str(s.ledger.database.url), backend=BACKEND)
    other.register(run_id="another", lease_s=60)
    (reserved,) = other.reserve([(fingerprint(1), "batch")], ReservationTerms("v1", PRICE))
    assert isinstance(reserved, Reserved)
    picture = s.store.keep(fingerprint(1), picture_in(s.store.spool, fingerprint(1)))
    assert s.resolver.resolve(s.item(1)) is None
    assert s.queue.waiting() == {"claimed by another run": 1}
    assert s.outcomes == []
    assert not s.idle
    settlement = Settlement("charged", "succeeded", cost=PRICE)
    other.settle(reserved.attempt, settlement, status="succeeded", picture=picture)
    other.close()
    assert s.resolver.resolve(s.item(1)) is None
    assert s.outcomes == [(1, "succeeded")]
