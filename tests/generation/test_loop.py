"""The loop: its stages joined, started and ended."""

import itertools
import threading
from collections.abc import Callable
from typing import cast

import pytest

from kontext_pipeline.generation.loop import GenerationLoop
from kontext_pipeline.generation.options import Options
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Call, Outcome
from tests.generation.stages import StagesMaker, answer

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("started", range(7))
def test_an_interruption_while_the_threads_start_leaves_no_answer_unsettled(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    s = stages()
    posted = threading.Event()

    def post() -> Answer:
        posted.set()
        return answer(Outcome.SUCCEEDED)

    s.client.on(Call.GENERATE, *[post] * 3)
    loop = GenerationLoop(
        ledger=s.ledger,
        store=s.store,
        client=cast(SegmindClient, s.client),
        inputs=s.inputs,
        options=Options(concurrency=3, drain_s=2.0),
    )
    start_threads, calls = loop._start_threads, itertools.count()

    def interrupted(name: str, count: int, work: Callable[[], None]) -> None:
        start_threads(name, count, work)
        if next(calls) == started:
            # Time for the threads that run already to do what they can.
            posted.wait(0.05)
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_start_threads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run([s.item(number) for number in (1, 2, 3)])
    assert "open" not in s.states()
    assert loop.progress.succeeded == s.client.count(Call.GENERATE)
