"""A manifest, its pictures and the dataset lie on S3; nothing but the ledger is local."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from upath import UPath

from tests.cli.conftest import Kontext
from tests.s3 import s3_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    with s3_server(monkeypatch):
        folder = UPath("s3://photos/project")
        folder.fs.mkdir("photos")
        yield folder
        # The servers of one process share their state.
        folder.fs.rm("photos", recursive=True)


def test_a_dataset_on_s3_is_made_and_costs_nothing_again(bucket: UPath, kontext: Kontext, tmp_path: Path) -> None:
    for number in range(3):
        file = io.BytesIO()
        Image.effect_mandelbrot((300, 300), (-2, -1.5, 1, 1.5), 20 + number).save(file, "PNG")
        (bucket / f"in/{number}.png").write_bytes(file.getvalue())
    rows = "".join(f"make it night,in/{number}.png\n" for number in range(3))
    (bucket / "m.csv").write_text(f"prompt,input_image\n{rows}a cat,\n")
    ledger = {"KONTEXT_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    arguments = ("run", f"{bucket}/m.csv", "--data-dir", f"{bucket}/out", "--yes")
    done = kontext(*arguments, **ledger)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(f"{bucket}/out/metadata")
    assert list(table["status"]) == ["succeeded"] * 4
    assert table["cost_usd"].sum() == pytest.approx(0.40)
    for path in [*table["image_path"], *table["input_path"].dropna()]:
        Image.open(io.BytesIO((bucket / "out" / path).read_bytes())).load()
    assert table["input_kept_sha256"].nunique() == 3
    done = kontext(*arguments, **ledger)
    assert done.returncode == 0, done.stderr
    assert "Nothing to generate" in done.stdout
    assert kontext("lock", "--data-dir", f"{bucket}/out", **ledger).returncode == 0
    done = kontext("verify", "--data-dir", f"{bucket}/out", "--resample", "4", "--yes", **ledger)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 rows are as in the lock" in done.stdout
    [again] = (bucket / "out" / "resamples").glob("*/resample.parquet")
    resampled = pd.read_parquet(str(again))
    assert list(resampled["outcome"]) == ["identical"] * 4
    assert all((bucket / "out" / path).exists() for path in resampled["image_path"])
    (bucket / "out" / table["image_path"][0]).write_bytes(b"changed")
    done = kontext("verify", "--data-dir", f"{bucket}/out", **ledger)
    assert (done.returncode, f"picture changed: {table['image_path'][0]}" in done.stdout) == (1, True)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".png", ".jpg", ".parquet"}]


@pytest.mark.parametrize("layout", ["parquet", "imagefolder"])
def test_a_dataset_on_s3_is_exported_to_s3(bucket: UPath, kontext: Kontext, tmp_path: Path, layout: str) -> None:
    for number in range(3):
        file = io.BytesIO()
        Image.effect_mandelbrot((300, 300), (-2, -1.5, 1, 1.5), 20 + number).save(file, "PNG")
        (bucket / f"in/{number}.png").write_bytes(file.getvalue())
    rows = "".join(f"make it night,in/{number}.png\n" for number in range(3))
    (bucket / "m.csv").write_text(f"prompt,input_image\n{rows}a cat,\n")
    ledger = {"KONTEXT_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    assert kontext("run", f"{bucket}/m.csv", "--data-dir", f"{bucket}/out", "--yes", **ledger).returncode == 0
    arguments = ("export", "--data-dir", f"{bucket}/out", "--format", layout, "--out")
    for _ in range(2):
        done = kontext(*arguments, f"{bucket}/export")
        assert done.returncode == 0, done.stderr
    assert "nothing has changed" in done.stdout
    assert kontext(*arguments, "here").returncode == 0
    prefix = f"{bucket.path}/export/"
    remote = {name.removeprefix(prefix): bucket.fs.cat_file(name) for name in bucket.fs.find(f"{bucket.path}/export")}
    local = {
        path.relative_to(tmp_path / "here").as_posix(): path.read_bytes()
        for path in (tmp_path / "here").rglob("*")
        if path.is_file() and path.name != ".kontext-export.lock"
    }
    assert remote == local
