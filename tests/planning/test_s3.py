"""Manifests on S3, with the pictures beside them, read from a real S3 server on this machine."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from tests.planning.reading import plan_of, planned_rows, problems_of
from tests.s3 import s3_server

SET = "s3://kontext-sets/set"


@pytest.fixture(scope="module")
def bucket() -> Iterator[UPath]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        path = UPath("s3://kontext-sets")
        path.fs.mkdir(path.path)
        yield path


def test_manifests_on_s3(bucket: UPath, tmp_path: Path) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["p"], "input_image": ["../shared/p.png"]}), content)
    (bucket / "set" / "p.parquet").write_bytes(content.getvalue())
    (bucket / "set" / "a.tsv").write_text('prompt\tinput_image\na "b"\tphotos/a 1.png\n')
    (bucket / "set" / "b.jsonl").write_text('{"prompt": "j", "input_image": "s3://other/j.png"}\n')
    plan = plan_of(tmp_path / "data", f"{SET}/*.tsv", f"{SET}/b.jsonl", f"{SET}/p.parquet")
    assert [(row["prompt"], row["input_image"], row["input_source"]) for row in planned_rows(plan)] == [
        ('a "b"', "photos/a 1.png", "s3://kontext-sets/set/photos/a 1.png"),
        ("j", "s3://other/j.png", None),
        ("p", "../shared/p.png", "s3://kontext-sets/shared/p.png"),
    ]
    (bucket / "set" / "bad.csv").write_text("prompt,input_image\nx,/etc/a.png\n")
    (problem,) = problems_of(f"{SET}/bad.csv")
    assert "to allow it, add /etc to KONTEXT_INPUT_ROOTS" in problem


def test_a_data_directory_on_s3(bucket: UPath, tmp_path: Path) -> None:
    gif = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\0\0\0!\xf9\4\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\1D\0;"
    pq.write_table(pa.table({"prompt": ["p"], "input_image": [gif]}), tmp_path / "m.parquet")
    (row,) = planned_rows(plan_of(bucket / "data", tmp_path / "m.parquet"))
    assert row["input_source"] == f"s3://kontext-sets/data/inputs/{row['input_sha256'][:2]}/{row['input_sha256']}.gif"
    assert UPath(row["input_source"]).read_bytes() == gif
