"""A disk that fills up: no more is bought, what was paid for is kept somewhere, and the next run goes on."""

import contextlib
import dataclasses
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext_pipeline.inputs.input_store import InputStore, InputStoreFull
from tests.generation.conftest import SpecMaker
from tests.generation.runs import Ledgerbook, Run, RunSpec, fingerprint_of, perform, running, wait_for_posts
from tests.inputs.collecting import picture
from tests.sandbox.running import Sandbox

pytestmark = pytest.mark.long

A_SECOND = {"speed": 24.0, "latency_spread": 0.0}
MIB = 2**20


@pytest.fixture(params=["tmpfs"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 64 MiB. Only root may mount one."""
    place, kind = tmp_path / "disk", request.param
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if kind != "tmpfs":
        image = tmp_path / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"there is no mkfs.{kind}")
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Fill what is free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(MIB)) > 0:
                pass
            while file.write(b"\0") > 0:
                pass
        except OSError:
            pass
    return filler


def filled_in_flight(run: Run, sandbox: Sandbox, disk: Path) -> Path:
    wait_for_posts(sandbox, 4)
    return fill(disk)


def everything_paid_once(one: RunSpec, sandbox: Sandbox) -> Ledgerbook:
    book = Ledgerbook(one.ledger, sandbox)
    book.check()
    assert book.pictures(one.data_dir) == {fingerprint_of(row) for row in one.rows}
    assert book.billed == len(one.rows) == book.count("charged") == len(book.billed_per_row())
    assert book.charged_micros == book.billed_micros
    return book


def test_a_disk_with_no_room_buys_nothing(spec: SpecMaker, kontext_sandbox: Sandbox, small_disk: Path) -> None:
    filler = fill(small_disk)
    one = spec(range(10), data_dir=str(small_disk / "data"))
    # Not even the folders can be made, or else there is no room for a picture.
    (small_disk / "data" / "images" / ".incoming").mkdir(parents=True)
    result = perform(one)
    assert result.stopped == "disk_full"
    assert "MiB left" in result.message
    assert kontext_sandbox.books()["totals"]["posts"] == 0
    filler.unlink()
    assert set(perform(dataclasses.replace(one, concurrency=4)).outcomes.values()) == {"succeeded"}


def test_an_input_picture_that_does_not_fit_is_kept_when_there_is_room(small_disk: Path) -> None:
    store = InputStore(small_disk)
    data = picture("BMP", (300, 300))
    first = store.keep(data)
    filler = fill(small_disk)
    other = picture("BMP", (300, 300), "red")
    with pytest.raises(InputStoreFull, match=r"can't be written: No space left on device\. Make room"):
        store.keep(other)
    assert list((small_disk / "inputs" / ".incoming").iterdir()) == []
    filler.unlink()
    assert store.read(store.keep(other)) == other
    assert store.read(first) == data


@contextlib.contextmanager
def filled_again_and_again(disk: Path) -> Iterator[None]:
    """Another program takes whatever room there is, all the time."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.002):
            fill(disk)

    thread = threading.Thread(target=work)
    fill(disk)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("kontext_sandbox", [A_SECOND], indirect=True)
@pytest.mark.parametrize(
    ("api_version", "small_disk"),
    [
        ("v1", "tmpfs"),
        pytest.param("v1", "ext4", marks=pytest.mark.long),
        pytest.param("v2", "ext4", marks=pytest.mark.long),
    ],
    indirect=["small_disk"],
)
def test_what_is_in_flight_when_the_only_disk_fills_up_is_kept(
    spec: SpecMaker, kontext_sandbox: Sandbox, small_disk: Path, tmp_path: Path, api_version: str
) -> None:
    """Data, ledger and rescue folder are on that disk, and no room comes free."""
    one = spec(
        range(12),
        api_version=api_version,
        concurrency=4,
        data_dir=str(small_disk / "data"),
        ledger=f"sqlite:///{small_disk / 'ledger.db'}",
        rescue=str(small_disk / "rescue"),
        drain_s=6.0,
    )
    with running(one, folder=tmp_path) as (run,):
        wait_for_posts(kontext_sandbox, 4)
        with filled_again_and_again(small_disk):
            result = run.wait()
    assert result.stopped in ("disk_full", "ledger")
    assert kontext_sandbox.wait_idle()["totals"]["posts"] == 4
    (small_disk / "filler").unlink()
    again = perform(dataclasses.replace(one, run_id="again"))
    assert again.stopped is None
    assert again.progress["attempts"] == 8
    everything_paid_once(one, kontext_sandbox)
    assert list((small_disk / "data" / "images" / ".incoming").iterdir()) == []


@pytest.mark.parametrize("kontext_sandbox", [A_SECOND], indirect=True)
@pytest.mark.parametrize("api_version", [pytest.param("v1", marks=pytest.mark.long), "v2"])
def test_a_ledger_that_can_not_be_written_stops_the_run_and_loses_nothing(
    spec: SpecMaker, kontext_sandbox: Sandbox, small_disk: Path, tmp_path: Path, api_version: str
) -> None:
    one = spec(range(12), api_version=api_version, concurrency=4, ledger=f"sqlite:///{small_disk / 'ledger.db'}")
    with running(one, folder=tmp_path) as (run,):
        filler = filled_in_flight(run, kontext_sandbox, small_disk)
        result = run.wait()
    assert result.stopped == "ledger"
    assert "could not be written" in result.message
    assert kontext_sandbox.wait_idle()["totals"]["posts"] == 4
    filler.unlink()
    again = perform(dataclasses.replace(one, run_id="again"))
    assert again.stopped is None
    assert again.progress["attempts"] == 8
    everything_paid_once(one, kontext_sandbox)
