"""Pictures inside a manifest are kept once and known by their content."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import requests_of
from kontext_pipeline.planning.problems import ManifestProblems
from kontext_pipeline.planning.tables import read_table
from tests.planning.reading import plan_of, planned_rows, problems_of, rows_of, values


def picture(color: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (color, 0, 0)).save(content, kind)
    return content.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(path: Path, images: Any, kind: pa.DataType | None = None, name: str = "input_image") -> Path:
    pq.write_table(pa.table({"prompt": [f"p{n}" for n in range(len(images))], name: pa.array(images, kind)}), path)
    return path


def test_a_dataset_of_hugging_face(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(picture(2))
    images = [{"bytes": picture(1), "path": "a.png"}, {"bytes": None, "path": str(tmp_path / "b.png")}, None]
    rows = {"caption": ["one", "two", "three"], "image": images}
    features = datasets.Features({"caption": datasets.Value("string"), "image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set.parquet")
    columns = {"prompt": "caption", "input_image": "image"}
    plan = plan_of(tmp_path / "data", tmp_path / "set.parquet", columns=columns)
    one, two, three = planned_rows(plan)
    digest = sha256(picture(1))
    kept = tmp_path / "data" / "inputs" / digest[:2] / f"{digest}.png"
    assert kept.read_bytes() == picture(1)
    names = ("prompt", "input_image", "input_source", "input_sha256")
    assert [one[name] for name in names] == ["one", "a.png", str(kept), digest]
    assert [two[name] for name in names[2:]] == [str(tmp_path / "b.png"), sha256(picture(2))]
    assert [three[name] for name in names[1:]] == [None] * 3
    found = list(requests_of(plan.batch_table(plan.batch_keys[0])))
    assert [request.fingerprint("sandbox") for _, request in found] == [picture for picture, _ in found]
    assert found[0][1].input_image == str(kept)
    assert plan.text_to_image == 1


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_a_binary_column(tmp_path: Path, kind: pa.DataType) -> None:
    images = [picture(1, "JPEG"), b"https://example.org/a.png", None, picture(1, "JPEG"), b""]
    column = pa.array(images, pa.binary()).cast(kind) if not pa.types.is_dictionary(kind) else None
    path = write(
        tmp_path / "m.parquet", images if column is None else column, None if column is not None else pa.binary()
    )
    (rows,) = rows_of(path, data_dir=tmp_path / "data")
    digest = sha256(picture(1, "JPEG"))
    kept = f"inputs/{digest[:2]}/{digest}.jpg"
    assert values(rows, "input_image") == [kept, "https://example.org/a.png", None, kept, None]
    assert values(rows, "input_source") == [
        str(tmp_path / "data" / kept),
        None,
        None,
        str(tmp_path / "data" / kept),
        None,
    ]
    assert len(rows.input_files) == 1


def test_the_content_is_the_identity(tmp_path: Path) -> None:
    """The same picture as a local file gives the same request, and moving the data directory changes none."""
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "local.csv").write_text("prompt,input_image\np0,a.png\n")
    inside = write(tmp_path / "m.parquet", [{"bytes": picture(1), "path": "elsewhere/a.png"}])
    plans = [
        plan_of(tmp_path / "one", tmp_path / "local.csv"),
        plan_of(tmp_path / "two", inside),
        plan_of(tmp_path / "three", inside),
    ]
    assert len({row["fingerprint"] for plan in plans for row in planned_rows(plan)}) == 1


def test_what_is_no_picture(tmp_path: Path) -> None:
    images = [{"bytes": data, "path": None} for data in (picture(1), b"\x89PNG, but no more", b"<html>", None)]
    problems = problems_of(write(tmp_path / "m.parquet", images), data_dir=tmp_path / "data")
    assert [problem.partition(" (")[0] for problem in problems] == [
        f"m.parquet, row {row}, column input_image: it is no picture of a known format" for row in (2, 3)
    ]


def test_an_unchanged_manifest_is_not_read_again_while_its_pictures_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [picture(n) for n in range(40)], pa.binary())
    file = tmp_path / "data" / "plan" / "m.parquet"
    first = plan_of(tmp_path / "data", path)
    inode = file.stat().st_ino
    plan_of(tmp_path / "data", path)
    assert file.stat().st_ino == inode
    kept = Path(planned_rows(first)[17]["input_source"])
    kept.unlink()
    again = plan_of(tmp_path / "data", path)
    assert kept.read_bytes() == picture(17)
    assert [row["fingerprint"] for row in planned_rows(again)] == [row["fingerprint"] for row in planned_rows(first)]


def test_a_data_directory_that_is_remote(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [picture(1)], pa.binary())
    folder = UPath(f"memory://{tmp_path.name}")
    (row,) = planned_rows(plan_of(folder, path))
    assert row["input_sha256"] == sha256(picture(1))
    assert UPath(row["input_source"]).read_bytes() == picture(1)
    file = folder / "plan" / "m.parquet"
    written = file.fs.created(file.path)
    plan_of(folder, path)
    assert file.fs.created(file.path) == written


def test_pictures_of_few_rows_are_in_memory_together(tmp_path: Path) -> None:
    images = [os.urandom(200_000) for _ in range(100)]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"prompt": [str(n) for n in range(100)], "input_image": images}), path, row_group_size=10)
    size = sum(map(len, images))
    del images
    (manifest,) = read_manifests([path])
    raw = read_table(manifest, ManifestProblems().of("m", 0))
    assert raw is not None
    assert raw.pictures is not None
    before = pa.total_allocated_bytes()
    assert max(pa.total_allocated_bytes() - before for _ in raw.pictures()) < size / 2
    assert sum(map(len, raw.pictures())) == 100


def test_a_column_of_pictures_that_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [{"bytes": picture(n), "path": "a.png"} for n in range(50)])
    (problem,) = problems_of(path, tmp_path / "missing.csv")
    assert problem.endswith("missing.csv: there is no such file")
    content = path.read_bytes()
    place = content.index(b"IHDR")
    path.write_bytes(content[: place + 8] + b"\xff" * 200 + content[place + 208 :])
    (problem,) = problems_of(path)
    assert problem.startswith("m.parquet, column input_image: can't be read: ")
