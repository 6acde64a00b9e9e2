"""A dataset is built again on an empty machine, from the manifest and the lock, as docs/reproducing.md says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Kontext
from tests.sandbox.running import running_sandbox

Manifest = Callable[..., Path]


def test_a_dataset_is_built_again_and_compared_with_its_lock(
    kontext: Kontext, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.effect_mandelbrot((300, 300), (-2, -1.5, 1, 1.5), 20).save(tmp_path / "in.png")
    rows = [
        {"prompt": f"make it number {n}", "input_image": "in.png" if n < 2 else "", "variants": 2} for n in range(3)
    ]
    manifest(rows)
    settings = {"KONTEXT_BACKEND": "sandbox", "KONTEXT_SEED": "7"}
    with running_sandbox() as sandbox:
        settings["SEGMIND_BASE_URL"] = sandbox.url
        assert kontext("run", "rows.csv", "--data-dir", "old", **settings).returncode == 0
        assert kontext("lock", "--data-dir", "old", **settings).returncode == 0
        lock = tmp_path / "kept" / "kontext.lock.json"
        lock.parent.mkdir()
        shutil.copy(tmp_path / "old" / "kontext.lock.json", lock)
        shutil.rmtree(tmp_path / "old")
        verify = ("verify", "--data-dir", "new", "--lock", str(lock))

        # Planned with another seed, it would be another dataset, which shows before anything is sent.
        posts = sandbox.books()["totals"]["posts"]
        assert kontext("plan", "rows.csv", "--data-dir", "new", **{**settings, "KONTEXT_SEED": "8"}).returncode == 0
        said = kontext(*verify, **settings).stdout
        assert "manifest changed: rows: seed is 8, and 7 in the lock" in said
        assert said.count("row gone") == said.count("row added") == 6
        assert kontext("plan", "rows.csv", "--data-dir", "new", **settings).returncode == 0
        done = kontext(*verify, **settings)
        assert done.returncode == 1
        assert "row gone" not in done.stdout
        assert "0 of 6 pictures" in done.stdout
        assert sandbox.books()["totals"]["posts"] == posts

        assert kontext("run", "rows.csv", "--data-dir", "new", **settings).returncode == 0
        done = kontext(*verify, **settings)
        assert done.returncode == 0, done.stdout
        assert "6 of 6 pictures have the sha256 of the lock" in done.stdout

        # A picture that came out otherwise is named once, as what it is.
        text = lock.read_text()
        first = json.loads(text)["rows"][0]
        lock.write_text(text.replace(first["output_sha256"], "0" * 64))
        done = kontext(*verify, **settings)
        assert done.returncode == 1
        assert f"output_sha256 is {first['output_sha256']}, and {'0' * 64} in the lock" in done.stdout
        assert done.stdout.splitlines()[-1] == "1 difference."
