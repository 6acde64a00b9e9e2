"""The resolver: what is there already needs no request, and an input picture gets its URI."""

import base64
import hashlib
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Settlement, Stored
from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.generation.ledger.uploads import UPLOAD_LIFE_S, RememberedUploads
from kontext_pipeline.generation.work import ResolvedRequest, SentRequest, WorkItem
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Call, Outcome
from tests.generation.scripted_client import PNG, picture_in
from tests.generation.stages import BACKEND, PRICE, UPLOADS, Stages, StagesMaker, answer, fingerprint

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


def test_a_data_uri_is_kept_and_passed_on_as_it_is(stages: StagesMaker) -> None:
    s = stages()
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    request = s.resolver.resolve(s.item(1, input_image=uri))
    assert request is not None
    assert (request.input_uri, request.kept) == (uri, s.collector.keeper.store.keep(PNG))
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
    ("met", "status"),
    [(Outcome.REJECTED, "failed"), (Outcome.STOPPED, "pending")],
)
def test_a_request_without_its_upload_is_settled_without_slot_price_and_post(
    stages: StagesMaker, met: Outcome, status: str
) -> None:
    # The cap has no room for a picture, and nothing is held against it.
    s = stages(caps=[Cap(0, "run")])
    s.client.on(Call.UPLOAD, answer(met, Call.UPLOAD, cause="too_large", error="too large"))
    held: list[object] = []
    settle = s.settler.settle

    def watched(sent: SentRequest, answer: Answer) -> None:
        held.append(s.held())
        settle(sent, answer)

    s.settler.settle = watched  # type: ignore[method-assign]
    assert s.resolver.resolve(with_input(s, 1)) is None
    assert held == [(0, 0, 0)]
    assert s.client.calls == [(Call.UPLOAD, "image/png")]
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.cause, attempt.cost, attempt.error) == ("released", "too_large", 0, "too large")
    # Another run tries again.
    assert s.generation(1) == (status, True, False)
    assert s.run.progress().attempts == 0
    assert s.idle


def test_an_upload_whose_answer_was_lost_is_made_again_after_a_pause(stages: StagesMaker) -> None:
    s = stages()
    # It costs nothing, so a lost answer is like a server's error.
    s.client.on(Call.UPLOAD, answer(Outcome.LOST, Call.UPLOAD, status_code=503), Outcome.SUCCEEDED)
    item = with_input(s, 1)
    assert s.resolver.resolve(item) is None
    assert s.generation(1) == ("pending", True, True)
    assert s.queue.waiting() == {"503": 1}
    s.clock.forward(1.0)
    assert s.queue.take() is item
    assert s.resolver.resolve(item) is not None


def test_a_file_that_is_gone_fails_its_row_in_plain_words(stages: StagesMaker) -> None:
    s = stages()
    item = with_input(s, 1)
    Path(str(item.request.input_image)).unlink()
    assert s.resolver.resolve(item) is None
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.cause) == ("released", "input_missing")
    assert attempt.error == f"input picture {item.request.input_image}: it can't be read: No such file or directory"
    assert s.outcomes == [(1, "failed")]
    assert s.client.calls == []


def test_a_request_that_another_run_has_claimed_is_asked_about_again(stages: StagesMaker) -> None:
    s = stages()
    other = s.open_ledger("other")
    s.other_attempt(other, 1)
    item = with_input(s, 1)
    Path(str(item.request.input_image)).unlink()
    assert s.resolver.resolve(item) is None
    assert s.queue.waiting() == {"claimed by another run": 1}
    assert s.outcomes == []


def test_an_upload_is_remembered_over_runs_until_it_expires(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages()
    s.client.on(Call.UPLOAD, Outcome.SUCCEEDED, Outcome.SUCCEEDED)
    first = s.resolver.resolve(with_input(s, 1))

    def of_another_run() -> str | None:
        remembered = RememberedUploads(s.ledger.database, UPLOADS)
        images = InputImages(cast(SegmindClient, s.client), s.collector, remembered=remembered)
        return images.resolve(with_input(s, 2).request).uri

    assert first is not None
    assert of_another_run() == first.input_uri
    assert s.client.count(Call.UPLOAD) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + UPLOAD_LIFE_S + 60)
    of_another_run()
    assert s.client.count(Call.UPLOAD) == 2
    of_another_run()
    assert s.client.count(Call.UPLOAD) == 2


def test_the_ledger_knows_the_input_before_the_post(stages: StagesMaker) -> None:
    s = stages()
    s.client.on(Call.UPLOAD, Outcome.SUCCEEDED)
    request = s.resolver.resolve(with_input(s, 1))
    assert request is not None
    assert request.kept is not None
    assert s.reserver.offer(request)
    s.reserver.step()
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.input_sha256) == ("open", request.kept.sha256)
    (row,) = s.ledger.generations([fingerprint(1)]).to_pylist()
    assert (row["input_kept_sha256"], row["input_path"]) == (request.kept.sha256, request.kept.path)
    assert (row["input_width"], row["input_height"]) == (2, 1)


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
