"""Pictures that can't be decoded: they are found before their batch counts as complete, and their money stays counted."""

import hashlib
import zlib
from pathlib import Path

import pytest

from kontext_pipeline.generation.ledger.report import read_books, spending_differs
from kontext_pipeline.generation.picture_check import GROUP, PictureCheck
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.outcomes import Outcome
from tests.generation.scripted_client import PNG, _chunk
from tests.generation.stages import PRICE, Stages, StagesMaker, answer, fingerprint

pytestmark = pytest.mark.timeout(20)
DAMAGED = PNG[:33] + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")
"""Its chunks are whole, and have no pixels in them."""


def stored(s: Stages, number: int, content: bytes) -> Path:
    """Settle a request with this picture. Return where it is stored."""
    spooled = s.store.spool / f"{number}.part"
    spooled.write_bytes(content)
    picture = Picture(spooled, None, hashlib.sha256(content).hexdigest(), len(content), "png", 2, 1)
    s.settler.settle(s.sent(s.item(number)), answer(Outcome.SUCCEEDED, picture=picture, cost_usd=0.08))
    s.slots.release()
    return s.folder / "data" / s.store.path_of(fingerprint(number), "png")


def test_a_damaged_picture_is_set_aside_charged_and_asked_for_again(
    stages: StagesMaker, caplog: pytest.LogCaptureFixture
) -> None:
    s = stages()
    good, bad = stored(s, 1, PNG), stored(s, 2, DAMAGED)
    check = PictureCheck(s.ledger, s.store)
    for number in (1, 2):
        check.add(s.item(number), "succeeded")
    check.add(s.item(3), "failed")
    check.finish("batch")
    assert good.read_bytes() == PNG
    assert not bad.exists()
    aside = s.folder / "data/images/.unusable" / f"{fingerprint(2)}.2"
    assert aside.read_bytes() == DAMAGED
    assert "can't be decoded" in caplog.text
    assert str(aside) in caplog.text
    # The money stays where it is, and one more try is left.
    first, second = s.attempts()
    assert (first.outcome, second.outcome, second.cause) == ("succeeded", "unusable", "damaged_picture")
    assert (second.state, second.cost) == ("charged", 80_000)
    assert s.held() == (160_000, 0, 0)
    assert spending_differs(s.ledger.database) == []
    assert read_books(s.ledger.database).backends[0].spent_without_picture_usd == 0.08
    assert s.generation(1)[0] == "succeeded"
    assert s.generation(2) == ("unknown", True, False)
    assert s.ledger.statuses([fingerprint(2)], unknown_retries=1)[fingerprint(2)] == ("unknown", True)
    assert s.ledger.statuses([fingerprint(2)], unknown_retries=0)[fingerprint(2)] == ("unknown", False)
    assert s.store.find(fingerprint(2)) is None
    check.close()


def test_another_run_may_have_replaced_the_picture(stages: StagesMaker) -> None:
    s = stages()
    path = stored(s, 1, DAMAGED)
    check = PictureCheck(s.ledger, s.store)
    path.write_bytes(PNG)
    check.add(s.item(1), "succeeded")
    check.finish("batch")
    path.unlink()
    check.add(s.item(1), "succeeded")
    check.finish("batch")
    assert s.generation(1)[0] == "succeeded"
    check.close()


def test_pictures_are_decoded_while_the_batch_goes_on(stages: StagesMaker) -> None:
    s = stages()
    check = PictureCheck(s.ledger, s.store)
    paths = [stored(s, number, DAMAGED) for number in range(1, GROUP + 1)]
    for number in range(1, GROUP + 1):
        check.add(s.item(number), "succeeded")
    # Their thread has begun with them, so this waits for it and adds nothing.
    check.finish("batch")
    assert not any(path.exists() for path in paths)
    assert s.held() == (GROUP * 80_000, 0, 0)
    assert PRICE > 80_000
    check.close()
