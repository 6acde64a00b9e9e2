"""Input pictures, whole: kept before they are paid for, by `kontext inputs` and by `kontext run`."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Kontext
from tests.cli.provider import Provider
from tests.inputs.collecting import picture
from tests.segmind.gateway import Gateway, Reply

Manifest = Callable[..., Path]
PRIVATE = {"KONTEXT_PRIVATE_INPUTS": "true", "KONTEXT_INPUT_MAX_AGE_S": "0"}
FOX, OWL = picture("JPEG", (320, 300)), picture("PNG", (300, 320), "red")


@pytest.fixture
def web() -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.routes["/fox.jpg"] = Reply(200, FOX)
    gateway.routes["/owl.png"] = Reply(200, OWL)
    gateway.routes["/page.jpg"] = Reply(200, b"<!doctype html><html>", {"Content-Type": "image/jpeg"})
    yield gateway
    gateway.stop()


def rows(web: Gateway, *names: str) -> list[dict[str, object]]:
    return [{"prompt": f"edit {n}", "input_image": f"{web.url}/{name}"} for n, name in enumerate(names)]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "metadata").set_index("prompt")


def test_inputs_keeps_every_picture_and_sends_nothing_to_the_api(
    kontext: Kontext, provider: Provider, web: Gateway, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(web, "fox.jpg", "owl.png", "fox.jpg", "gone.jpg", "page.jpg"))
    done = kontext("inputs", "rows.csv", **PRIVATE, SEGMIND_API_KEY="")
    assert done.returncode == 1
    assert "2 of 4" in done.stdout
    assert f"rows row 4: {web.url}/gone.jpg: its server answered 404" in done.stderr
    assert f"rows row 5: {web.url}/page.jpg: it is no picture of a known format" in done.stderr
    assert "it is a web page" in done.stderr
    assert provider.gateway.requests == []
    assert len(web.seen("/fox.jpg")) == 1
    kept = sorted(path.stem for path in (tmp_path / "out").glob("inputs/??/*"))
    assert kept == sorted(hashlib.sha256(data).hexdigest() for data in (FOX, OWL))
    index = pd.read_parquet(tmp_path / "out" / "inputs.parquet").set_index("uri")
    assert index.loc[f"{web.url}/owl.png", "height"] == 320

    manifest(rows(web, "fox.jpg", "owl.png"))
    assert kontext("inputs", "rows.csv", **PRIVATE).returncode == 0
    assert kontext("inputs", "missing.csv", **PRIVATE).returncode == 2


def test_a_row_without_its_picture_fails_for_nothing_and_is_tried_again(
    kontext: Kontext, provider: Provider, web: Gateway, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(web, "fox.jpg", "page.jpg", "owl.png"))
    # The budget has no room for a third picture, and needs none.
    done = kontext("run", "rows.csv", "--yes", "--budget", "0.20", **PRIVATE)
    assert done.returncode == 1, done.stderr
    found = table(tmp_path)
    assert list(found["status"]) == ["succeeded", "failed", "succeeded"]
    assert str(found.loc["edit 1", "error"]).startswith(f"input picture {web.url}/page.jpg: it is no picture")
    assert found["cost_usd"].sum().round(6) == provider.bill_usd == 0.2
    for prompt, data, size in (("edit 0", FOX, (320, 300)), ("edit 2", OWL, (300, 320))):
        row = found.loc[prompt]
        sha256 = hashlib.sha256(data).hexdigest()
        assert (row["input_kept_sha256"], row["input_width"], row["input_height"]) == (sha256, *size)
        assert (tmp_path / "out" / row["input_path"]).read_bytes() == data
        assert pd.isna(row["input_sha256"]), "it identifies local files, as before"
    # The provider could not fetch them: they travel in the request.
    assert all(str(body["input_image"]).startswith("data:image/") for body in provider.billed)

    web.routes["/page.jpg"] = Reply(200, FOX)
    asked = len(web.requests)
    assert kontext("run", "rows.csv", "--yes", **PRIVATE).returncode == 0
    assert provider.bill_usd == 0.3
    assert len(web.requests) == asked + 1, "only the input of the row that lacked its picture was looked at"


def test_inputs_that_have_died_since_are_still_there(
    kontext: Kontext, provider: Provider, web: Gateway, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(web, "fox.jpg", "owl.png"))
    assert kontext("inputs", "rows.csv", **PRIVATE).returncode == 0
    web.routes.clear()
    done = kontext("run", "rows.csv", "--yes", **PRIVATE)
    assert done.returncode == 0, done.stderr
    assert "the kept ones are used (2)" in done.stderr
    assert set(table(tmp_path)["input_kept_sha256"]) == {hashlib.sha256(data).hexdigest() for data in (FOX, OWL)}
    assert provider.bill_usd == 0.2


def test_rows_say_which_content_they_were_made_from(
    kontext: Kontext, web: Gateway, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(web, "fox.jpg"))
    assert kontext("run", "rows.csv", "--yes", **PRIVATE).returncode == 0
    web.routes["/fox.jpg"] = Reply(200, OWL)
    manifest(rows(web, "fox.jpg", "fox.jpg"))
    done = kontext("run", "rows.csv", "--yes", **PRIVATE)
    assert done.returncode == 0
    assert "changed since they were kept" in done.stderr
    found = table(tmp_path)["input_kept_sha256"]
    assert list(found) == [hashlib.sha256(data).hexdigest() for data in (FOX, OWL)]


def test_a_full_disk_stops_both_commands(
    kontext: Kontext, provider: Provider, web: Gateway, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(web, "fox.jpg"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inputs").write_text("a file where the folder must be")
    for command in ("inputs", "run"):
        done = kontext(command, "rows.csv", *(["--yes"] if command == "run" else []), **PRIVATE)
        assert done.returncode == 3, done.stderr
        assert "can't be written" in done.stderr
    assert provider.posted == 0
