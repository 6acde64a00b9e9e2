"""Collecting: each picture once, retried politely, kept for good, and no host holds up another."""

import base64
import hashlib
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_collector import DEAD_HOST, TRIES
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.inputs.input_store import InputStore, InputStoreFull
from kontext_pipeline.inputs.pictures import InputLimits
from kontext_pipeline.inputs.spooling import Fetched, Spool
from kontext_pipeline.segmind.outcomes import Cause
from tests.generation.clock import FakeClock
from tests.inputs.collecting import collector, picture

pytestmark = pytest.mark.timeout(30)
DOWN = InputProblem(Cause.INPUT_UNREACHABLE, "its server answered 503", transient=True, retry_after_s=0.0001)
GONE = InputProblem(Cause.INPUT_MISSING, "its server answered 404")


class Web:
    """Serves what a test says; counts what is asked for, and with which version."""

    def __init__(self, pages: dict[str, bytes | Exception | Callable[[], bytes]]) -> None:
        self.pages = pages
        self.asked: Counter[str] = Counter()
        self.conditions: list[str | None] = []
        self._lock = threading.Lock()

    def fetch(self, url: str, spool: Spool, *, etag: str | None = None, last_modified: str | None = None) -> Fetched:
        with self._lock:
            self.asked[url] += 1
            self.conditions.append(etag)
        page = self.pages[url]
        if isinstance(page, Exception):
            raise page
        data = page() if callable(page) else page
        version = hashlib.sha256(data).hexdigest()
        return Fetched(None) if etag == version else Fetched(spool.write([data]), version)

    def close(self) -> None: ...


def url(name: str, host: str = "pictures") -> InputAddress:
    return InputAddress(f"https://{host}.example/{name}")


def test_a_picture_is_fetched_once_however_many_want_it(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow() -> bytes:
        gate.wait(10)
        return picture()

    web = Web({url("a").uri: slow})
    with collector(tmp_path, web=web) as inputs:
        ready = threading.Semaphore(0)
        for _ in range(50):
            inputs.want(url("a"), ready.release)
        gate.set()
        for _ in range(50):
            assert ready.acquire(timeout=10)
        found = inputs.get(url("a"))
    assert web.asked == {url("a").uri: 1}
    assert (found.upload, found.dead) == (False, False)
    assert (tmp_path / found.kept.path).read_bytes() == picture()


def test_a_later_run_asks_for_changes_only_and_not_at_all_while_it_is_fresh(tmp_path: Path) -> None:
    web = Web({url("a").uri: picture()})
    for max_age_s, asked in ((0.0, 1), (3600.0, 1), (0.0, 2)):
        with collector(tmp_path, web=web, max_age_s=max_age_s) as inputs:
            assert inputs.get(url("a")).kept.width == 3
        assert web.asked[url("a").uri] == asked
    assert web.conditions == [None, hashlib.sha256(picture()).hexdigest()]
    assert pq.read_table(tmp_path / "inputs.parquet").num_rows == 1


def test_a_dead_link_is_made_good_by_the_kept_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    web = Web({url("a").uri: picture()})
    with collector(tmp_path, web=web) as inputs:
        kept = inputs.get(url("a")).kept
    for death in (GONE, DOWN, b"<html>This domain is for sale</html>"):
        web.pages[url("a").uri] = death
        with collector(tmp_path, web=web) as inputs:
            found = inputs.get(url("a"))
        assert (found.kept, found.upload, found.dead) == (kept, True, True)
    assert "can't be fetched any more: the kept ones are used (1): https://pictures.example/a" in caplog.text
    # The index says both, until the link lives again.
    rows = pq.read_table(tmp_path / "inputs.parquet").to_pylist()
    assert [(row["sha256"], bool(row["problem"])) for row in rows] == [(kept.sha256, False), (None, True)]
    web.pages[url("a").uri] = picture()
    with collector(tmp_path, web=web) as inputs:
        assert not inputs.get(url("a")).dead
    assert pq.read_table(tmp_path / "inputs.parquet")["problem"].to_pylist() == [None]


def test_changed_content_is_said_and_both_pictures_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    web = Web({url("a").uri: picture()})
    with collector(tmp_path, web=web) as inputs:
        before = inputs.get(url("a")).kept
    web.pages[url("a").uri] = picture(colour="red")
    with collector(tmp_path, web=web) as inputs:
        after = inputs.get(url("a")).kept
        assert inputs.keeper.changed == [url("a").uri]
    assert before.sha256 != after.sha256
    assert (tmp_path / before.path).exists()
    assert (tmp_path / after.path).exists()
    assert "changed since they were kept" in caplog.text


def test_a_kept_picture_that_was_deleted_is_fetched_again(tmp_path: Path) -> None:
    web = Web({url("a").uri: picture()})
    with collector(tmp_path, web=web) as inputs:
        kept = inputs.get(url("a")).kept
    (tmp_path / kept.path).unlink()
    with collector(tmp_path, web=web, max_age_s=3600) as inputs:
        assert inputs.get(url("a")).kept == kept
    assert (tmp_path / kept.path).exists()
    assert web.conditions == [None, None]


def test_transient_problems_are_retried_and_others_are_not(tmp_path: Path) -> None:
    web = Web({url("busy").uri: DOWN, url("gone").uri: GONE})
    with collector(tmp_path, web=web) as inputs:
        for name in ("busy", "gone"):
            with pytest.raises(InputProblem, match="its server answered"):
                inputs.get(url(name))
            with pytest.raises(InputProblem):
                inputs.get(url(name))
    assert web.asked == {url("busy").uri: TRIES, url("gone").uri: 1}


def test_a_retry_waits_for_its_pause(tmp_path: Path) -> None:
    clock = FakeClock()
    pages: dict[str, bytes | Exception | Callable[[], bytes]] = {
        url("busy").uri: InputProblem(Cause.INPUT_UNREACHABLE, "busy", transient=True, retry_after_s=7.0),
        url("a").uri: picture(),
        url("b").uri: picture(),
        url("c").uri: picture(),
    }
    web = Web(pages)
    with collector(tmp_path, web=web, clock=clock, threads=1) as inputs:
        ready = threading.Event()
        inputs.want(url("busy"), ready.set)
        # One of the same host passes meanwhile.
        inputs.get(url("a"))
        assert web.asked[url("busy").uri] == 1
        pages[url("busy").uri] = picture()
        clock.forward(6.9)
        inputs.get(url("b"))
        assert not ready.is_set()
        clock.forward(0.2)
        # Whoever comes next wakes the queue, whose clock only the test turns.
        inputs.want(url("c"), lambda: None)
        assert ready.wait(10)
    assert web.asked[url("busy").uri] == 2


def test_a_slow_host_holds_up_its_own_pictures_alone(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow() -> bytes:
        gate.wait(20)
        return picture()

    slow_ones = [url(str(number), "slow") for number in range(20)]
    quick_ones = [url(str(number), "quick") for number in range(20)]
    web = Web({**{one.uri: slow for one in slow_ones}, **{one.uri: picture() for one in quick_ones}})
    with collector(tmp_path, web=web, threads=4, per_host=2) as inputs:
        ready = threading.Semaphore(0)
        for one in slow_ones:
            inputs.want(one, lambda: None)
        for one in quick_ones:
            inputs.want(one, ready.release)
        for _ in quick_ones:
            assert ready.acquire(timeout=10)
        assert sum(web.asked[one.uri] for one in slow_ones) == 2
        gate.set()
        for one in slow_ones:
            inputs.get(one)


def test_a_dead_host_is_given_up(tmp_path: Path) -> None:
    pages = [url(str(number), "dead") for number in range(40)]
    web = Web({one.uri: DOWN for one in pages})
    with collector(tmp_path, web=web, threads=1) as inputs:
        problems = set()
        for one in pages:
            with pytest.raises(InputProblem) as raised:
                inputs.get(one)
            problems.add(str(raised.value))
    assert web.asked.total() == DEAD_HOST * TRIES
    assert (
        f"https://dead.example did not answer for {DEAD_HOST} pictures in a row and is not asked any more" in problems
    )


def test_local_files_and_data_uris_are_kept_and_known_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(picture())
    sha256 = hashlib.sha256(picture()).hexdigest()
    local = InputAddress(str(path), sha256)
    uri = InputAddress(f"data:image/jpeg;base64,{base64.b64encode(picture('JPEG')).decode()}")
    with collector(tmp_path / "data", web=Web({})) as inputs:
        assert inputs.get(local).upload
        assert not inputs.get(uri).upload
    rows = pq.read_table(tmp_path / "data" / "inputs.parquet").to_pylist()
    assert [row["type"] for row in rows] == ["image/png", "image/jpeg"]
    assert max(len(row["uri"]) for row in rows) < 300, "the index has no pictures in it"
    # What was planned is what is kept: the file may be edited or deleted.
    path.write_bytes(picture(colour="red"))
    with collector(tmp_path / "data", web=Web({})) as inputs:
        assert inputs.get(local).kept.sha256 == sha256
        with pytest.raises(InputProblem, match="it was changed since it was planned"):
            inputs.get(InputAddress(str(path), "0" * 64))


def test_an_unsuitable_picture_is_refused(tmp_path: Path) -> None:
    web = Web({url("a").uri: picture(size=(300, 200)), url("b").uri: b"<html>"})
    with collector(tmp_path, web=web, limits=InputLimits()) as inputs:
        with pytest.raises(InputProblem, match="300 x 200 pixels; at least 256") as raised:
            inputs.get(url("a"))
        assert raised.value.cause is Cause.INPUT_UNSUITABLE
        with pytest.raises(InputProblem, match="it is a web page") as raised:
            inputs.get(url("b"))
        assert raised.value.cause is Cause.INPUT_NOT_A_PICTURE
    assert not list(tmp_path.glob("inputs/??/*"))


def test_a_full_disk_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    web = Web({url("a").uri: picture()})
    inputs = collector(tmp_path, web=web)
    inputs.keeper.store = InputStore(tmp_path, reserve_bytes=shutil.disk_usage(tmp_path).total)
    with pytest.raises(InputStoreFull, match=r"can't be written: its disk has \d+ MiB left.*Make room"):
        inputs.get(url("a"))
    inputs.close()
    with collector(tmp_path, web=web) as inputs:
        assert inputs.get(url("a")).kept.width == 3


def test_an_error_of_ours_reaches_who_asked(tmp_path: Path) -> None:
    web = Web({url("a").uri: ZeroDivisionError("ours")})
    with collector(tmp_path, web=web) as inputs, pytest.raises(ZeroDivisionError):
        inputs.get(url("a"))


def test_nobody_waits_for_a_collector_that_is_closed(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow() -> bytes:
        gate.wait(20)
        return picture()

    web = Web({url("a").uri: slow})
    inputs = collector(tmp_path, web=web)
    inputs.want(url("a"), lambda: None)
    inputs.close()
    with pytest.raises(InputProblem, match="the run ended"):
        inputs.get(url("a"))
    gate.set()


def test_warnings_name_a_few(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pages = [url(str(number)) for number in range(9)]
    web = Web({one.uri: picture() for one in pages})
    with collector(tmp_path, web=web) as inputs:
        for one in pages:
            inputs.get(one)
    web.pages = {one.uri: GONE for one in pages}
    with caplog.at_level(logging.WARNING), collector(tmp_path, web=web) as inputs:
        for one in pages:
            inputs.get(one)
    (record,) = caplog.records
    assert "(9)" in record.getMessage()
    assert "and 6 more" in record.getMessage()
