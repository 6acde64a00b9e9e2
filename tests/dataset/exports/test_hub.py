"""Uploads to the Hub: what arrives there, what goes, and what is told when it refuses."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.dataset.exports.export_options import ExportError, ExportOptions
from kontext_pipeline.dataset.exports.exporting import export_dataset
from kontext_pipeline.dataset.exports.hub import open_target
from tests.dataset.exports.hub_server import Hub, running_hub
from tests.dataset.exports.made_datasets import MadeDataset, tree


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", running.token)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield running


def push(dataset: MadeDataset, out: Path, name: str = "edits") -> str:
    target = open_target(name, UPath(out), private=True)
    export_dataset(dataset.data_dir, UPath(out), ExportOptions("parquet"), published_card=target.card)
    return target.upload()


def test_an_export_arrives_whole_and_replaces_the_one_before(dataset: MadeDataset, tmp_path: Path, hub: Hub) -> None:
    dataset.add([{}, {"input": None}])
    address = push(dataset, tmp_path / "out")
    assert address == f"{hub.url}/datasets/me/edits"
    assert hub.private == {"me/edits": True}
    files = hub.files["me/edits"]
    assert {path: data for path, data in files.items() if path != ".gitattributes"} == tree(tmp_path / "out")

    files["notes.md"] = b"mine"
    files["README.md"] = files["README.md"].replace(b"license: unknown", b"license: cc-by-4.0")
    dataset.add([{}])
    # From another folder too: what the Hub has counts.
    push(dataset, tmp_path / "elsewhere", "me/edits")
    assert {*files} == {".gitattributes", "notes.md", *tree(tmp_path / "elsewhere")}
    assert b"license: cc-by-4.0" in files["README.md"]
    assert (
        files["data/train-00000-of-00001.parquet"]
        == (tmp_path / "elsewhere/data/train-00000-of-00001.parquet").read_bytes()
    )
    assert hub.commits == 2


def test_files_that_are_no_longer_part_go(dataset: MadeDataset, tmp_path: Path, hub: Hub) -> None:
    dataset.add([{}, {"input": None}])
    push(dataset, tmp_path / "out")
    assert "text_to_image/train-00000-of-00001.parquet" in hub.files["me/edits"]
    (dataset.data_dir / dataset.rows[1]["image_path"]).unlink()
    push(dataset, tmp_path / "out")
    assert "text_to_image/train-00000-of-00001.parquet" not in hub.files["me/edits"]
    assert ".gitattributes" in hub.files["me/edits"]


def test_a_refusal_and_a_dead_hub_are_told(
    dataset: MadeDataset, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.add([{}])
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ExportError, match="the Hub refuses the dataset edits") as refused:
        push(dataset, tmp_path / "out")
    assert "hf_wrong" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ExportError, match="can't be reached"):
        push(dataset, tmp_path / "out")


def test_names_and_folders_are_checked_first(hub: Hub) -> None:
    for name in ("a b", "a/b/c", "../x", ""):
        with pytest.raises(ExportError, match="OWNER/NAME is allowed"):
            open_target(name, UPath("/tmp/out"), private=True)
    with pytest.raises(ExportError, match="on this machine"):
        open_target("edits", UPath("memory://bucket/out"), private=True)
    assert not hub.files


def test_without_the_extra_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from kontext_pipeline.cli import main\n"
        "main(['export', '--format', 'parquet', '--out', 'x', '--push-to-hub', 'edits'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'kontext-pipeline[hub]'" in done.stderr.replace("\n", " ")
