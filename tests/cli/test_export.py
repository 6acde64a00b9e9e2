"""`kontext export`: from a run to a folder that a reader loads."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.conftest import Kontext

EXPORT = ("export", "--format", "parquet", "--out", "export")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Three photographs beside the manifest."""
    names = [f"{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        Image.effect_mandelbrot((300, 300), (-2, -1.5, 1, 1.5), 20 + number).save(tmp_path / name)
    return names


def test_a_run_is_exported(
    kontext: Kontext, manifest: Callable[..., Path], pictures: list[str], tmp_path: Path
) -> None:
    rows = [{"prompt": f"night {name}", "input_image": name, "inverse": "day", "label": "x"} for name in pictures]
    manifest([*rows, {"prompt": "a cat"}])
    assert kontext("run", "rows.csv", "--yes").returncode == 0
    done = kontext(*EXPORT)
    assert done.returncode == 0, done.stderr
    assert "3 samples" in done.stdout
    table = pq.read_table(tmp_path / "export/data/train-00000-of-00001.parquet")
    assert sorted(table["edit_prompt"].to_pylist()) == ["night 0.png", "night 1.png", "night 2.png"]
    assert table["label"].to_pylist() == ["x"] * 3
    again = kontext(*EXPORT)
    assert again.returncode == 0
    assert "nothing has changed" in again.stdout
    backward = kontext(*EXPORT, "--direction", "backward")
    assert backward.returncode == 0, backward.stderr
    assert "Left out: 1 row: no input picture" in backward.stdout


def test_missing_pictures_are_listed(
    kontext: Kontext, manifest: Callable[..., Path], pictures: list[str], tmp_path: Path
) -> None:
    manifest([{"prompt": f"night {name}", "input_image": name} for name in pictures])
    assert kontext("run", "rows.csv", "--yes").returncode == 0
    next((tmp_path / "out/inputs").rglob("*.png")).unlink()
    done = kontext(*EXPORT)
    assert done.returncode == 1
    assert "Left out: 1 row: the input picture is not in inputs/ any more: " in done.stderr
    assert pq.read_table(tmp_path / "export/data").num_rows == 2


def test_mistakes_are_told_without_a_traceback(kontext: Kontext) -> None:
    for arguments, words in [
        (EXPORT, "has no metadata table"),
        ((*EXPORT, "--validation", "2"), "--validation is 2.0"),
        ((*EXPORT, "--push-to-hub", "a b"), "NAME or OWNER/NAME is allowed"),
        ((*EXPORT[:-1], "out/images"), "belongs to the data directory"),
    ]:
        done = kontext(*arguments)
        assert done.returncode == 2, arguments
        assert words in done.stderr.replace("\n", " "), done.stderr
        assert "Traceback" not in done.stderr
