"""`kontext run` measures what it has made: once, beside the run, and whatever goes wrong changes nothing else."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import KONTEXT, Kontext
from tests.cli.provider import Provider

Manifest = Callable[..., Path]
PAID = ("--yes",)
PLUG_IN = """
import numpy as np


class Tone:
    version = 1
    batch_size = 4

    def __call__(self, samples):
        with open("asked.txt", "a") as file:
            file.writelines(f"{sample.row['fingerprint']}\\n" for sample in samples)
        return [{"mean": np.asarray(sample.output).mean(), "label": int(sample.row["label"])} for sample in samples]


def failing(samples):
    raise RuntimeError("no memory left")
"""


def rows(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"Picture {number}", "label": number, "edit_kind": "ab"[number % 2]} for number in range(count)]


def quality(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "quality")


@pytest.fixture
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a distribution with these entry points of the module `tone_measure`."""

    def install(points: str) -> None:
        site = tmp_path / "site"
        (site / "tone_measure-1.0.dist-info").mkdir(parents=True, exist_ok=True)
        (site / "tone_measure.py").write_text(PLUG_IN)
        (site / "tone_measure-1.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: tone-measure\nVersion: 1.0\n"
        )
        text = f"[kontext_pipeline.measures]\n{points}\n"
        (site / "tone_measure-1.0.dist-info" / "entry_points.txt").write_text(text)
        monkeypatch.syspath_prepend(str(site))

    return install


def test_a_run_measures_its_pictures_once(
    kontext: Kontext, manifest: Manifest, tmp_path: Path, plug_ins: Callable[[str], None]
) -> None:
    plug_ins("tone = tone_measure:Tone\nbad = tone_measure:failing\ngone = tone_measure:nothing")
    manifest(rows(6))
    done = kontext("run", "rows.csv", "--batch-size", "4", *PAID)
    assert done.returncode == 0, done.stderr
    found = quality(tmp_path)
    assert sorted(found["fingerprint"]) == sorted(pd.read_parquet(tmp_path / "out" / "metadata")["fingerprint"])
    assert found["sharpness"].notna().all()
    assert sorted(found["tone_label"]) == [0, 1, 2, 3, 4, 5]
    assert "of 6 measured pictures" in done.stdout
    # A plug-in that fails, or isn't there, is a note.
    assert found["errors"].str[0].str.startswith("bad: ").all()
    asked = (tmp_path / "asked.txt").read_text().split()
    assert len(set(asked)) == len(asked) == 6
    plug_ins("tone = tone_measure:Tone")
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "quality").rglob("*.parquet")}
    for _ in range(2):
        assert kontext("run", "rows.csv", "--batch-size", "4", *PAID).returncode == 0
    assert (tmp_path / "asked.txt").read_text().split() == asked, "never again"
    assert quality(tmp_path)["tone_mean"].tolist() == found["tone_mean"].tolist()
    assert before.keys() == {*(tmp_path / "out" / "quality").rglob("*.parquet")}


def test_what_lacks_is_measured_when_there_is_nothing_to_generate(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(3))
    kontext("run", "rows.csv", *PAID)
    [path] = (tmp_path / "out" / "quality").rglob("*.parquet")
    path.unlink()
    done = kontext("run", "rows.csv", *PAID)
    assert (done.returncode, provider.posted) == (0, 3)
    assert len(quality(tmp_path)) == 3


def test_thresholds_of_a_file_count_and_hang_on_a_column(kontext: Kontext, manifest: Manifest, tmp_path: Path) -> None:
    manifest(rows(4))
    kontext("run", "rows.csv", *PAID)
    measured = quality(tmp_path).drop(columns="issues")
    (tmp_path / "q.toml").write_text('[[by]]\ncolumn = "edit_kind"\nvalue = "b"\n[by.at_least]\nentropy = 0\n')
    done = kontext("run", "rows.csv", *PAID, KONTEXT_QUALITY="q.toml")
    assert done.returncode == 0, done.stderr
    by_kind = pd.read_parquet(tmp_path / "out" / "metadata").set_index("fingerprint")["edit_kind"]
    found = quality(tmp_path)
    assert {
        by_kind[one]: "high_entropy" in issues
        for one, issues in zip(found["fingerprint"], found["issues"], strict=True)
    } == {
        "a": False,
        "b": True,
    }
    pd.testing.assert_frame_equal(found.drop(columns="issues"), measured)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blurry = 'very'", "blurry is 'very': a number, or false for off, is expected. Nothing was sent."),
        ("[[by]]\ncolumn = 'edit_knd'\nvalue = 'a'", "names the column 'edit_knd', which the metadata table lacks"),
        (None, "KONTEXT_QUALITY is q.toml: it can't be read: No such file or directory. Nothing was sent."),
    ],
)
def test_mistakes_in_the_file_are_said_before_anything_is_paid_for(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path, text: str | None, words: str
) -> None:
    manifest(rows(2))
    if text is not None:
        (tmp_path / "q.toml").write_text(text)
    done = kontext("run", "rows.csv", *PAID, KONTEXT_QUALITY="q.toml")
    assert (done.returncode, provider.posted) == (2, 0)
    assert words in done.stderr


def test_a_folder_that_cant_be_written_changes_no_exit_status(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "quality").write_text("in the way")
    done = kontext("run", "rows.csv", *PAID)
    assert (done.returncode, provider.posted) == (0, 2)
    assert len(pd.read_parquet(tmp_path / "out" / "metadata")) == 2


@pytest.mark.long
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 3)])
def test_a_run_that_ends_while_it_measures_loses_no_picture_and_the_next_one_goes_on(
    provider: Provider, environment: dict[str, str], manifest: Manifest, tmp_path: Path, number: int, status: int
) -> None:
    """The plug-in of a real process tells when the first batch is being measured, and then waits to be killed."""
    site = tmp_path / "site"
    (site / "slow-1.0.dist-info").mkdir(parents=True)
    (site / "slow.py").write_text(
        "import os, time\n\ndef measure(samples):\n    open('measuring', 'a').close()\n"
        "    time.sleep(0 if os.environ.get('GO_ON') else 3600)\n    return [{'one': 1} for _ in samples]\n"
    )
    (site / "slow-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (site / "slow-1.0.dist-info" / "entry_points.txt").write_text("[kontext_pipeline.measures]\nslow = slow:measure\n")
    manifest(rows(3))
    command = [str(KONTEXT), "run", "rows.csv", *PAID]
    settings = {**environment, "PYTHONPATH": str(site)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        while not (tmp_path / "measuring").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(number)
        assert run.wait() == status
    assert provider.posted == 3
    done = subprocess.run(command, cwd=tmp_path, env={**settings, "GO_ON": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert quality(tmp_path)["slow_one"].tolist() == [1, 1, 1]
    assert provider.posted == 3
