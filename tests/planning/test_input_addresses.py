"""Input images may be anywhere that a manifest may name; what it may not name is refused with the setting to change."""

import json
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.planning.plan import requests_of
from kontext_pipeline.planning.sources import missing_package
from tests.planning.reading import plan_of, planned_rows, problems_of, rows_of, values

Pictures = Callable[..., Path]


def csv(folder: Path, *images: str) -> Path:
    path = folder / "m.csv"
    path.write_text("".join(f"{line}\n" for line in ("prompt,input_image", *(f'x,"{image}"' for image in images))))
    return path


def test_urls_of_other_file_systems_are_identified_by_themselves(tmp_path: Path) -> None:
    urls = ["s3://bucket/my photo.png", "gs://bucket/a.png", "memory://a/b.png", "ftp://example.org/a.png"]
    plan = plan_of(tmp_path / "data", csv(tmp_path, *urls))
    rows = planned_rows(plan)
    assert [row["input_image"] for row in rows] == urls
    assert {(row["input_source"], row["input_sha256"]) for row in rows} == {(None, None)}
    found = [request for _, request in requests_of(plan.batch_table("m-00000"))]
    assert [request.fingerprint("sandbox") for request in found] == [row["fingerprint"] for row in rows]


def test_local_files_by_every_kind_of_path(
    tmp_path: Path, make_picture: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_picture(tmp_path / "home" / "a b.png")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    images = ["~/a b.png", f"file://{path}", f"file://{path}".replace(" ", "%20"), "home/a b.png", str(path)]
    (rows,) = rows_of(csv(tmp_path, *images))
    assert values(rows, "input_source") == [str(path)] * 5
    assert set(rows.input_files) == {str(path)}


def test_a_relative_path_in_a_remote_manifest(tmp_path: Path) -> None:
    folder = UPath(f"memory://{uuid.uuid4().hex}/sets")
    (folder / "m.csv").write_text("prompt,input_image\nx,photos/a.png\ny,../b.png\nz,https://example.org/c.png\n")
    plan = plan_of(tmp_path, folder / "m.csv")
    rows = planned_rows(plan)
    assert [row["input_source"] for row in rows] == [f"{folder}/photos/a.png", f"{folder.parent}/b.png", None]
    assert rows[0]["input_image"] == "photos/a.png"
    found = [request for _, request in requests_of(plan.batch_table("m-00000"))]
    assert [request.input_image for request in found][:2] == [row["input_source"] for row in rows][:2]
    assert [request.fingerprint("sandbox") for request in found] == [row["fingerprint"] for row in rows]


def test_a_remote_manifest_names_no_local_file_unless_allowed(tmp_path: Path, make_picture: Pictures) -> None:
    path = make_picture(tmp_path / "a.png")
    manifest = UPath(f"memory://{uuid.uuid4().hex}/m.csv")
    manifest.write_text(f"prompt,input_image\nx,{path}\n")
    with pytest.raises(ManifestError, match=f"to allow it, add {tmp_path} to KONTEXT_INPUT_ROOTS"):
        rows_of(manifest)
    (rows,) = rows_of(manifest, input_roots=(tmp_path,))
    assert values(rows, "input_source") == [str(path)]


def test_local_folders_are_bounded_and_links_resolved(tmp_path: Path, make_picture: Pictures) -> None:
    inside = tmp_path / "in"
    make_picture(inside / "a.png")
    make_picture(tmp_path / "out" / "b.png")
    (inside / "link.png").symlink_to(tmp_path / "out" / "b.png")
    (inside / "folder").symlink_to(tmp_path / "out")
    (tmp_path / "elsewhere").symlink_to(inside)
    make_picture(tmp_path / "in-between" / "c.png")
    path = csv(inside, "../out/b.png", "link.png", "folder/b.png", "../in-between/c.png", "/etc/nothing.png", "a.png")
    folder = tmp_path.resolve()
    problems = problems_of(path)
    assert [problem.partition(" is outside ")[0].partition(": ")[0] for problem in problems] == [
        f"m.csv, row {row}, column input_image" for row in range(1, 6)
    ]
    assert all("KONTEXT_INPUT_ROOTS" in problem for problem in problems)
    assert problems[1].endswith(f"to allow it, add {folder}/out to KONTEXT_INPUT_ROOTS")
    csv(inside, "../out/b.png", "link.png", "folder/b.png", "../elsewhere/a.png")
    (rows,) = rows_of(path, input_roots=(tmp_path / "out",))
    assert len(rows.numbers) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/a.png",
        "https://user:word@localhost/a.png",
        "http://169.254.169.254/latest/meta-data",
        "HTTP://[::1]/a.png",
        "http://[::ffff:10.0.0.1]:80/a.png",
        "http://2130706433/a.png",
        "http://printer.local/a.png",
        "http://127.0.0.%31/a.png",
        "http://１２７.0.0.1/a.png",
        "http://example.org\\@127.0.0.1/a.png",
        "http://192.168.1.1?a.png",
        "ftp://user@10.0.0.1/a.png",
    ],
)
def test_private_hosts_are_refused_unless_allowed(tmp_path: Path, url: str) -> None:
    path = csv(tmp_path, "https://example.org/a.png", url)
    (problem,) = problems_of(path)
    assert problem.startswith("m.csv, row 2, column input_image: ")
    assert problem.endswith("is at an address of a private network; KONTEXT_PRIVATE_INPUTS=true allows such addresses")
    (rows,) = rows_of(path, private_inputs=True)
    assert rows.private_inputs == 1


def test_a_manifest_on_the_web(tmp_path: Path) -> None:
    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b"prompt,input_image\nx,photos/a.png\ny,../b.png?v=1\nz,https://example.org/c.png\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        problems = problems_of(f"{base}/set/m.csv")
        rows = planned_rows(plan_of(tmp_path, f"{base}/set/m.csv", private_inputs=True))
        server.shutdown()
    assert [problem.partition(", column")[0] for problem in problems] == [
        f"{base}/set/m.csv, row {row}" for row in (1, 2)
    ]
    assert [row["input_source"] for row in rows] == [
        f"{base}/set/photos/a.png",
        f"{base}/b.png?v=1",
        None,
    ]


def plan_of_the_version_before(folder: Path) -> None:
    """Take from the plan file what the version before didn't write."""
    path = folder / "plan" / "m.parquet"
    file = pq.ParquetFile(path)
    footer = json.loads(file.metadata.metadata[b"kontext_plan"])
    assert (footer.pop("mapped"), footer.pop("private_inputs")) in (({}, 0), ({}, 1))
    assert "columns" not in footer["origin"]
    groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
    with pq.ParquetWriter(path, file.schema_arrow) as writer:
        for group in groups:
            writer.write_table(group)
        writer.add_key_value_metadata({b"kontext_plan": json.dumps(footer).encode()})


@pytest.mark.parametrize("is_of_before", [False, True])
def test_a_plan_is_used_while_its_inputs_are_allowed(
    tmp_path: Path, make_picture: Pictures, *, is_of_before: bool
) -> None:
    make_picture(tmp_path / "out" / "a.png")
    (tmp_path / "in").mkdir()
    path = csv(tmp_path / "in", "http://127.0.0.1/a.png", "../out/a.png")
    data = tmp_path / "data"
    plan_of(data, path, private_inputs=True, input_roots=(tmp_path,))
    if is_of_before:
        plan_of_the_version_before(data)
    inode = (data / "plan" / "m.parquet").stat().st_ino
    for roots in (tmp_path, tmp_path / "out"):
        plan_of(data, path, private_inputs=True, input_roots=(roots,))
        assert (data / "plan" / "m.parquet").stat().st_ino == inode
    with pytest.raises(ManifestError, match="KONTEXT_PRIVATE_INPUTS"):
        plan_of(data, path, input_roots=(tmp_path,))
    with pytest.raises(ManifestError, match="KONTEXT_INPUT_ROOTS"):
        plan_of(data, path, private_inputs=True)
    csv(tmp_path / "in", "https://example.org/a.png")
    plan_of(data, path)
    if is_of_before:
        plan_of_the_version_before(data)
    inode = (data / "plan" / "m.parquet").stat().st_ino
    plan_of(data, path)
    assert (data / "plan" / "m.parquet").stat().st_ino == inode


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("abfs", "azure")])
def test_a_missing_package_is_named_by_its_extra(scheme: str, extra: str) -> None:
    said = missing_package(f"{scheme}://bucket/a.png", ImportError("no such module"))
    assert said == f"{scheme}:// needs a package that is not installed: pip install kontext-pipeline[{extra}]"


def test_a_struct_of_paths(tmp_path: Path, make_picture: Pictures) -> None:
    make_picture(tmp_path / "a.png")
    images = pa.array([{"path": "a.png"}, {"path": "https://example.org/b.png"}, {"path": ""}])
    pq.write_table(pa.table({"prompt": ["x"] * 3, "input_image": images}), tmp_path / "m.parquet")
    (rows,) = rows_of(tmp_path / "m.parquet")
    assert values(rows, "input_source") == [str(tmp_path / "a.png"), None, None]
    assert values(rows, "input_image") == ["a.png", "https://example.org/b.png", None]
