"""The loop: its stages joined, started and ended."""

import itertools
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from kontext_pipeline.generation.loop import GenerationLoop
from kontext_pipeline.generation.options import Options
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Call, Outcome
from kontext_pipeline.threads import start_thread
from tests.generation.stages import StagesMaker, answer

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("started", range(9))
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
    calls = itertools.count()

    def interrupted(work: Callable[[], object], name: str, **options: Any) -> threading.Thread:
        thread = start_thread(work, name, **options)
        if next(calls) == started:
            # Time for the threads that run already to do what they can.
            posted.wait(0.05)
            raise KeyboardInterrupt
        return thread

    monkeypatch.setattr("kontext_pipeline.generation.loop.start_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run([s.item(number) for number in (1, 2, 3)])
    assert "open" not in s.states()
    assert loop.progress.succeeded == s.client.count(Call.GENERATE)
