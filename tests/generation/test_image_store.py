"""The image store: whole pictures only, paid pictures are never thrown away, a damaged file is replaced."""

import shutil
import tempfile
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.generation.image_store import ImageStore, StoreFull
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.images import inspect
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
