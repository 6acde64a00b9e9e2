"""What is shipped in `data/` is what the README says of it."""

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from kontext_pipeline.segmind.model import ASPECT_RATIOS, OUTPUT_FORMATS, SAFETY_TOLERANCES

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (DATA / "demo.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_first_row_is_the_source_documents_sample(rows: list[dict[str, str]]) -> None:
    sent = {k: v for k, v in rows[0].items() if k not in {"id", "variants", "label", "split", "edit"}}
    assert sent == {
        "prompt": "Make her take a selfie in the streets of Freiburg, it's a lovely day out",
        "input_image": "https://segmind-resources.s3.amazonaws.com/input/"
        "a1adf47e-bfba-45c4-a11f-ae2b732102ad-kontext-max-ip.webp",
        "aspect_ratio": "16:9",
        "output_format": "png",
        "safety_tolerance": "6",
        "seed": "30699",
    }
    assert rows[0]["variants"] == ""


def test_every_cell_is_allowed(rows: list[dict[str, str]]) -> None:
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["prompt"].strip() == row["prompt"] != ""
        assert row["aspect_ratio"] in ASPECT_RATIOS
        assert row["output_format"] in OUTPUT_FORMATS
        assert row["safety_tolerance"] == "" or int(row["safety_tolerance"]) in SAFETY_TOLERANCES
        assert row["seed"] == "" or int(row["seed"]) >= 0
        assert row["label"]
        assert row["split"] in {"train", "validation", "test"}
        assert row["aspect_ratio"] != "match_input_image" or row["input_image"]


def test_it_shows_what_a_manifest_can_say(rows: list[dict[str, str]]) -> None:
    assert 30 <= len(rows) <= 40
    assert len({row["aspect_ratio"] for row in rows}) >= 8
    assert {row["output_format"] for row in rows} == set(OUTPUT_FORMATS)
    assert sum(row["variants"] == "3" for row in rows) == 1
    assert sum(row["input_image"] == "" for row in rows) == 2
    assert 2 <= sum(row["seed"] != "" for row in rows) < len(rows) / 2
    assert any('"' in row["prompt"] for row in rows)


def test_a_photograph_is_in_one_split_alone(rows: list[dict[str, str]]) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["input_image"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_the_file_is_plain_utf8_with_unix_lines() -> None:
    raw = (DATA / "demo.csv").read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    raw.decode()


def test_manifest_photographs_and_sources_name_the_same_files(rows: list[dict[str, str]]) -> None:
    there = {f"photos/{path.name}" for path in (DATA / "photos").iterdir()}
    used = {row["input_image"] for row in rows if row["input_image"].startswith("photos/")}
    sources = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    assert used == there
    assert set(re.findall(r"`(photos/[^`]+)`", sources)) == there


def test_every_photographs_rights_are_stated() -> None:
    sources = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    lines = [line for line in sources.splitlines() if line.startswith("| `photos/")]
    for line in lines:
        _, _, _, author, rights, _, known_by, _ = (cell.strip() for cell in line.split("|"))
        assert author
        assert rights.startswith(("CC0 1.0", "public domain"))
        assert known_by


@pytest.mark.parametrize("path", sorted((DATA / "photos").iterdir()), ids=lambda path: path.name)
def test_photographs_are_small_and_carry_no_metadata(path: Path) -> None:
    assert path.stat().st_size < 200_000
    with Image.open(path) as image:
        image.load()
        assert image.format == "JPEG"
        assert 400 <= max(image.size) <= 1024
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
