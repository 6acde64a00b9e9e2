"""The image store: whole pictures only, paid pictures are never thrown away, a damaged file is replaced."""

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.files import make_private
from kontext_pipeline.generation.image_store import ABANDONED_AFTER_S, ImageStore, StoreFull
from kontext_pipeline.generation.rescue_folder import digest_of
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.images import inspect
from tests.descriptors import no_descriptors
from tests.generation.scripted_client import PNG
from tests.sandbox.running import Sandbox

NAME = "ab" + "0" * 62


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(UPath(tmp_path / "data"), rescue=tmp_path / "rescue")


def a_picture(sandbox: Sandbox, folder: Path, *, seed: int = 1) -> Picture:
    with SegmindClient(api_key=sandbox.api_key, base_url=sandbox.url) as client:
        picture = client.generate({"prompt": "a fox", "seed": seed}, folder, NAME).picture
    assert picture is not None
    assert picture.path is not None
    return picture


def test_a_picture_is_kept_and_found(store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path) -> None:
    assert store.find(NAME) is None
    picture = a_picture(kontext_sandbox, store.spool)
    stored = store.keep(NAME, picture)
    assert stored.path == f"images/ab/{NAME}.png"
    assert store.find(NAME) == stored
    assert list(store.spool.iterdir()) == []


def test_a_second_picture_does_not_replace_the_first(store: ImageStore, kontext_sandbox: Sandbox) -> None:
    first = store.keep(NAME, a_picture(kontext_sandbox, store.spool, seed=1))
    store.keep(NAME, a_picture(kontext_sandbox, store.spool, seed=2))
    assert store.find(NAME) == first
    assert list(store.spool.iterdir()) == []


def test_a_damaged_file_is_replaced_by_a_whole_one(store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path) -> None:
    stored = store.keep(NAME, a_picture(kontext_sandbox, store.spool))
    path = tmp_path / "data" / stored.path
    path.write_bytes(path.read_bytes()[: stored.bytes // 2])
    assert store.find(NAME) is None
    assert store.keep(NAME, a_picture(kontext_sandbox, store.spool)) == stored
    assert store.find(NAME) == stored


def test_what_had_arrived_when_a_run_died_is_recovered(store: ImageStore, kontext_sandbox: Sandbox) -> None:
    picture = a_picture(kontext_sandbox, store.spool)
    (store.spool / f"{NAME}.half.part").write_bytes(picture.path.read_bytes()[:100])  # type: ignore[union-attr]
    assert store.find(NAME) is None
    recovered = store.recover(NAME)
    assert recovered is not None
    assert (recovered.sha256, recovered.bytes) == (picture.sha256, picture.bytes)
    assert store.find(NAME) == recovered


def test_half_a_picture_is_none(store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path) -> None:
    picture = a_picture(kontext_sandbox, tmp_path)
    assert picture.path is not None
    (store.spool / f"{NAME}.half.part").write_bytes(picture.path.read_bytes()[:-1])
    assert store.recover(NAME) is None


def test_a_store_that_is_no_folder_gives_the_picture_to_the_rescue_folder(
    store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    picture = a_picture(kontext_sandbox, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("a file where the store's folder was")
    with pytest.raises(StoreFull, match=rf"kept as .*rescue/{NAME}\.png"):
        store.keep(NAME, picture)
    assert inspect(tmp_path / "rescue" / f"{NAME}.png").format == "png"
    with pytest.raises(StoreFull, match="still can't be written"):
        store.find(NAME)
    (tmp_path / "data").unlink()
    assert ImageStore(UPath(tmp_path / "data"), rescue=tmp_path / "rescue").find(NAME) is not None
    assert list((tmp_path / "rescue").iterdir()) == []


def test_a_picture_in_memory_is_kept_too(store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path) -> None:
    picture = a_picture(kontext_sandbox, tmp_path)
    assert picture.path is not None
    data = picture.path.read_bytes()
    in_memory = Picture(None, data, picture.sha256, picture.bytes, picture.format, 8, 8)
    store.keep(NAME, in_memory)
    assert (tmp_path / "data" / "images" / "ab" / f"{NAME}.png").read_bytes() == data


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second disk is known here")
def test_a_picture_on_another_disk_is_copied(store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("the temporary folder is on the same disk")
        picture = a_picture(kontext_sandbox, Path(other))
        stored = store.keep(NAME, picture)
        assert list(Path(other).iterdir()) == []
    assert store.find(NAME) == stored
    assert list(store.spool.iterdir()) == []


def test_a_picture_that_was_stored_just_before_a_kill_is_found(
    store: ImageStore, kontext_sandbox: Sandbox, tmp_path: Path
) -> None:
    """The file is in the store, and still has its name in the spool."""
    picture = a_picture(kontext_sandbox, store.spool)
    assert picture.path is not None
    target = tmp_path / "data" / store.path_of(NAME, "png")
    target.parent.mkdir()
    target.hardlink_to(picture.path)
    stored = store.recover(NAME)
    assert stored is not None
    assert store.keep(NAME, picture) == stored
    assert list(store.spool.iterdir()) == []


def test_a_store_elsewhere_keeps_whole_pictures(kontext_sandbox: Sandbox, tmp_path: Path) -> None:
    store = ImageStore(UPath("memory://kontext-test"), rescue=tmp_path / "rescue")
    try:
        stored = store.keep(NAME, a_picture(kontext_sandbox, store.spool))
        assert store.find(NAME) == stored
        target = UPath("memory://kontext-test") / stored.path
        target.write_bytes(target.read_bytes()[:50])
        assert store.find(NAME) is None
        assert store.keep(NAME, a_picture(kontext_sandbox, store.spool)) == stored
        assert store.find(NAME) == stored
    finally:
        shutil.rmtree(store.spool)


def test_sweeping_removes_what_is_old_and_half(store: ImageStore) -> None:
    (store.spool / f"{NAME}.half.part").write_bytes(b"half")
    (store.spool / f"{NAME}.older.part").write_bytes(b"half")
    store.sweep(3600)
    assert len(list(store.spool.iterdir())) == 2
    store.sweep(-1)
    assert list(store.spool.iterdir()) == []


def in_memory(data: bytes = PNG) -> Picture:
    return Picture(None, data, hashlib.sha256(data).hexdigest(), len(data), "png", 2, 1)


def test_a_picture_is_kept_as_soon_as_files_can_be_opened(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ExitStack() as full:
        # Other files are closed while the store waits.
        monkeypatch.setattr("kontext_pipeline.files.time.sleep", lambda _seconds: full.close())
        full.enter_context(no_descriptors())
        stored = store.keep(NAME, in_memory())
    assert (tmp_path / "data" / stored.path).read_bytes() == PNG
    with ExitStack() as full:
        monkeypatch.setattr("kontext_pipeline.files.time.sleep", lambda _seconds: full.close())
        full.enter_context(no_descriptors())
        assert store.find(NAME) == stored


def test_a_picture_that_only_memory_has_waits_for_room(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("data", "rescue"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
        (tmp_path / folder).write_text("a file where a folder was")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "data").unlink()
            store.spool.mkdir(parents=True)

    monkeypatch.setattr("kontext_pipeline.generation.image_store.time.sleep", wait)
    stored = store.keep(NAME, in_memory())
    assert len(waits) == 3
    assert (tmp_path / "data" / stored.path).read_bytes() == PNG


def test_a_picture_that_nothing_takes_stays_in_the_spool_and_is_found(store: ImageStore, tmp_path: Path) -> None:
    (store.root / "images" / "ab").write_text("a file where the folder of this picture should be")
    (tmp_path / "rescue").write_text("a file where the rescue folder should be")
    path = store.spool / f"{NAME}.token.part"
    path.write_bytes(PNG)
    with pytest.raises(StoreFull, match=rf"left as .*{NAME}\.png"):
        store.keep(NAME, Picture(path, None, hashlib.sha256(PNG).hexdigest(), len(PNG), "png", 2, 1))
    with pytest.raises(StoreFull, match="still can't be written"):
        store.find(NAME)
    store.sweep(-1)
    (store.root / "images" / "ab").unlink()
    assert store.find(NAME) is not None
    assert list(store.spool.iterdir()) == []


def test_room_that_a_dead_process_held_is_swept_at_once(store: ImageStore) -> None:
    held = store.hold(NAME)
    abandoned = store.spool / f"{NAME}.dead.part"
    abandoned.touch()
    paths = list(store.spool.iterdir())
    assert len(paths) == 2
    for path in paths:
        os.utime(path, (0, time.time() - 2 * ABANDONED_AFTER_S))
    store.sweep(3600)
    assert abandoned not in store.spool.iterdir()
    assert len(list(store.spool.iterdir())) == 1
    held.discard()


class TestRescueFolderOfEarlierReleases:
    """`kontext-rescue` in the temporary folder, which every user may write to."""

    @pytest.fixture
    def earlier(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        own = tmp_path / "tmp" / "kontext-rescue" / digest_of(UPath(tmp_path / "data"))
        own.mkdir(parents=True)
        return own

    def test_its_pictures_are_found(self, earlier: Path, tmp_path: Path) -> None:
        (earlier / f"{NAME}.png").write_bytes(PNG)
        store = ImageStore(UPath(tmp_path / "data"))
        assert list(earlier.iterdir()) == []
        assert store.rescue.stat().st_mode & 0o777 == 0o700
        assert store.rescue.is_relative_to(tmp_path / "state")
        assert store.find(NAME) is not None

    def test_links_are_not_followed(self, earlier: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / f"{NAME}.png").write_bytes(PNG)
        earlier.rmdir()
        earlier.symlink_to(elsewhere)
        assert ImageStore(UPath(tmp_path / "data")).find(NAME) is None
        earlier.unlink()
        earlier.mkdir()
        (earlier / f"{NAME}.png").symlink_to(elsewhere / f"{NAME}.png")
        assert ImageStore(UPath(tmp_path / "data")).find(NAME) is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
    def test_what_another_user_planted_is_not_used(self, earlier: Path, tmp_path: Path) -> None:
        planted = earlier / f"{NAME}.png"
        planted.write_bytes(PNG)
        os.chown(planted, 12345, 12345)
        assert ImageStore(UPath(tmp_path / "data")).find(NAME) is None
        os.chown(planted, 0, 0)
        os.chown(earlier, 12345, 12345)
        store = ImageStore(UPath(tmp_path / "data"))
        assert store.find(NAME) is None
        store.rescue.mkdir(parents=True)
        (store.rescue / f"{NAME}.png").write_bytes(PNG)
        os.chown(store.rescue, 12345, 12345)
        assert store.find(NAME) is None
        with pytest.raises(PermissionError):
            make_private(store.rescue)
