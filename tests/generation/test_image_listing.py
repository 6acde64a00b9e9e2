"""Pictures that should be in the store and are not: on a local disk and on any fsspec file system."""

from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.generation.image_listing import ListingError, absent_pictures

NAMES = [f"{number:02x}".ljust(64, "0") for number in (1, 2, 3)] + ["02" + "f" * 62]


@pytest.fixture(params=["local", "memory"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) if request.param == "local" else UPath(f"memory://{tmp_path.name}")


def stored(data_dir: UPath, name: str, content: bytes) -> UPath:
    path = data_dir / "images" / name[:2] / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_is_not_in_the_store_is_absent(data_dir: UPath) -> None:
    assert absent_pictures(data_dir, NAMES) == set(NAMES)
    paths = [stored(data_dir, name, b"1234") for name in NAMES]
    stored(data_dir, "02" + "e" * 62, b"of nobody")
    assert absent_pictures(data_dir, NAMES) == set()
    paths[3].unlink()
    assert absent_pictures(data_dir, NAMES) == {NAMES[3]}
    paths[0].unlink()
    assert absent_pictures(data_dir, NAMES) == {NAMES[0], NAMES[3]}
    assert absent_pictures(data_dir, []) == set()


def test_a_picture_of_another_size_is_absent_where_sizes_are_known(data_dir: UPath) -> None:
    for name in NAMES:
        stored(data_dir, name, b"1234")
    stored(data_dir, NAMES[1], b"12")
    assert absent_pictures(data_dir, NAMES, dict.fromkeys(NAMES, 4)) == {NAMES[1]}
    assert absent_pictures(data_dir, NAMES) == set()


def test_a_store_that_cannot_be_listed_has_no_absent_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "01").write_text("a file where a folder must be")
    with pytest.raises(ListingError, match=r"can't be listed .*Nothing was sent"):
        absent_pictures(UPath(tmp_path), NAMES)
