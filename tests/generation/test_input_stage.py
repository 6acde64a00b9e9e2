"""The input stage: items pass in the order in which their pictures are there, and none is lost at the end."""

import threading
from pathlib import Path

import pytest

from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.input_stage import ITEM_BYTES, InputStage
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.spooling import Fetched, Spool
from kontext_pipeline.segmind.outcomes import Cause
from tests.generation.scripted_client import PNG
from tests.generation.stages import Stages, StagesMaker
from tests.inputs.collecting import collector

pytestmark = pytest.mark.timeout(20)


class Web:
    """Gives a picture when the test opens its gate."""

    def __init__(self) -> None:
        self.gates = {host: threading.Event() for host in ("slow", "quick", "dead")}

    def fetch(self, url: str, spool: Spool, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        host = url.split("/")[2].removesuffix(".example")
        self.gates[host].wait(10)
        if host == "dead":
            raise InputProblem(Cause.INPUT_MISSING, "its server answered 404")
        return Fetched(spool.write([PNG]))

    def close(self) -> None:
        for gate in self.gates.values():
            gate.set()


def stage_of(s: Stages, web: Web, **options: int) -> InputStage:
    inputs = s.exits.enter_context(collector(Path(s.folder) / "data", web=web))
    stage = InputStage(run=s.run, queue=s.queue, inputs=InputImages(s.client, inputs), **options)  # type: ignore[arg-type]
    threading.Thread(target=stage.work, daemon=True).start()
    return stage


def taken(s: Stages) -> int:
    item = s.queue.take()
    assert item is not None
    return item.request.seed


def test_a_slow_picture_holds_up_its_own_rows_alone(stages: StagesMaker) -> None:
    s, web = stages(), Web()
    stage = stage_of(s, web)
    for number, uri in enumerate(["https://slow.example/a", "https://quick.example/a", "https://slow.example/a", None]):
        assert stage.put(s.item(number, input_image=uri))
    assert taken(s) == 3
    assert stage.fetching() == 3
    web.gates["quick"].set()
    assert taken(s) == 1
    web.gates["slow"].set()
    assert {taken(s), taken(s)} == {0, 2}


def test_a_row_without_its_picture_passes_too_and_fails_in_the_resolver(stages: StagesMaker) -> None:
    s, web = stages(), Web()
    web.gates["dead"].set()
    stage = stage_of(s, web)
    assert stage.put(s.item(1, input_image="https://dead.example/a"))
    assert taken(s) == 1


def test_the_source_waits_for_room_and_the_end_lets_it_go(stages: StagesMaker) -> None:
    s, web = stages(), Web()
    stage = stage_of(s, web, capacity_bytes=2 * ITEM_BYTES)
    for number in (1, 2):
        assert stage.put(s.item(number, input_image="https://slow.example/a"))
    refused = threading.Event()

    def put_third() -> None:
        if not stage.put(s.item(3)):
            s.run.let_go()
            refused.set()

    thread = threading.Thread(target=put_third)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    s.run.let_go(stage.close())
    assert refused.wait(10)
    assert stage.close() == 0
    web.gates["slow"].set()
    assert s.idle
    assert s.queue.close() == 0
