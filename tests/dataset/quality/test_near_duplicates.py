"""Near-duplicates are found through the index, as comparing every pair would find them."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from kontext_pipeline.dataset.quality.near_duplicates import RADIUS, groups, near_pairs
from kontext_pipeline.dataset.quality.perceptual_hash import (
    Hashes,
    distance,
    distances,
    hashes_of,
    hex_of,
    perceptual_hash,
)
from tests.dataset.quality.folders import PHOTOS, photo


def clustered(count: int, seed: int = 1) -> Hashes:
    """Return random hashes, half of which differ by 0 to 9 bits from another one."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, np.uint64)
    for index in range(count // 2, count):
        value = int(hashes[random.integers(0, count // 2)])
        for bit in random.choice(64, random.integers(0, 10), replace=False):
            value ^= 1 << int(bit)
        hashes[index] = value
    return hashes


def test_the_hash_hardly_changes_when_a_picture_is_scaled_compressed_or_toned() -> None:
    pictures = [photo(path.stem, (600, 400)) for path in sorted(PHOTOS.glob("*.jpg"))]
    for picture in pictures:
        own = perceptual_hash(picture)
        assert distance(own, perceptual_hash(picture.resize((301, 187)))) <= 4
        assert distance(own, perceptual_hash(ImageEnhance.Brightness(picture).enhance(0.8))) <= 4
        assert [distance(own, perceptual_hash(one)) > 14 for one in pictures].count(False) == 1
    assert len(hex_of(perceptual_hash(Image.new("RGB", (1, 1))))) == 16


def test_hex_digits_keep_the_hash() -> None:
    hashes = clustered(100)
    assert (hashes_of([hex_of(int(one)) for one in hashes]) == hashes).all()
    assert distances(hashes[:50], hashes[50:]).tolist() == [
        distance(int(one), int(other)) for one, other in zip(hashes[:50], hashes[50:], strict=True)
    ]


@pytest.mark.parametrize("radius", [0, 2, RADIUS])
def test_the_index_finds_exactly_the_pairs_within_the_radius(radius: int) -> None:
    hashes = clustered(1000)
    one, other = np.triu_indices(len(hashes), 1)
    near = distances(hashes[one], hashes[other]) <= radius
    found = near_pairs(hashes, radius=radius)
    assert near.any()
    assert list(zip(found.one.tolist(), found.other.tolist(), strict=True)) == list(
        zip(one[near].tolist(), other[near].tolist(), strict=True)
    )
    assert found.distance.tolist() == distances(hashes[one[near]], hashes[other[near]]).tolist()


def test_the_index_of_30_000_pictures_finds_what_was_planted() -> None:
    random = np.random.default_rng(3)
    hashes = random.integers(0, 2**64, 30_000, np.uint64)
    for index in range(100):
        hashes[index + 100] = int(hashes[index]) ^ sum(
            1 << int(bit) for bit in random.choice(64, RADIUS, replace=False)
        )
    found = near_pairs(hashes)
    assert list(zip(found.one.tolist(), found.other.tolist(), strict=True)) == [(i, i + 100) for i in range(100)]


@pytest.mark.long
def test_thousands_of_equal_pictures_each_have_a_pair() -> None:
    hashes = np.full(5_000, 12345, np.uint64)
    found = near_pairs(hashes)
    assert len(np.unique([found.one, found.other])) == 5_000
    assert len(found.one) < 1_000_000, "not every pair is kept"
    assert set(groups(hashes, radius=2).tolist()) == {0}


def test_no_and_one_picture_have_no_pair() -> None:
    for count in (0, 1):
        assert len(near_pairs(np.zeros(count, np.uint64)).one) == 0
        assert len(groups(np.zeros(count, np.uint64), radius=6)) == count


def test_groups_join_by_way_of_others() -> None:
    near, far = 0b1111, 0b1111_1111
    hashes = np.array([2**64 - 2**32, 0, far, near], np.uint64)
    assert groups(hashes, radius=4).tolist() == [0, 1, 1, 1]
    assert groups(hashes, radius=3).tolist() == [0, 1, 2, 3]
