"""What docs/quality.md says is what the code does, and its example of a plug-in works."""

import importlib.util
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image
from upath import UPath

from kontext_pipeline.dataset.quality.measures import MEASURES
from kontext_pipeline.dataset.quality.plug_ins import PlugIn
from kontext_pipeline.dataset.quality.quality_tables import OWN_COLUMNS
from kontext_pipeline.dataset.quality.thresholds import RULES, read_thresholds
from tests.dataset.quality.folders import Made, measured, photo, write_pictures

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "quality.md").read_text()


def test_every_measure_is_described_in_its_words() -> None:
    for one in MEASURES:
        assert f"| `{one.name}` | {one.meaning} |\n" in TEXT
    for name in OWN_COLUMNS - {"fingerprint"}:
        assert f"`{name}`" in TEXT


def test_every_threshold_is_described_with_its_default() -> None:
    form = r"^\|[^|]*\| `(\w+)`(?: or| and)? \| (at most|at least) `(\w+)`(?: = ([\d.]+)|, off) \|$"
    lines = re.findall(form, TEXT, re.MULTILINE)
    told = [(measure, side, name, float(default) if default else None) for measure, side, name, default in lines]
    assert told == [(limit.measure, limit.side, limit.name, limit.default) for rule in RULES for limit in rule.limits]
    for rule in RULES:
        assert f"| `{rule.issue}` |" in TEXT


def test_the_example_of_thresholds_is_allowed(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "q.toml").write_text(example)
    assert read_thresholds(str(tmp_path / "q.toml")).columns == ["edit_kind"]


class Batch(dict[str, Any]):
    def to(self, _device: str) -> "Batch":
        return self


class Model:
    """A stand-in with the interface of transformers' CLIPModel: embeddings of the length 1."""

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        assert name == "openai/clip-vit-base-patch32"
        return cls()

    def to(self, _device: str) -> Self:
        return self

    def eval(self) -> Self:
        return self

    def __call__(self, *, pixel_values: Any, input_ids: Any) -> SimpleNamespace:
        return SimpleNamespace(image_embeds=pixel_values, text_embeds=input_ids)


class Processor:
    """A stand-in with the interface of transformers' CLIPProcessor: a picture is its mean colour, a text the colour red."""

    @classmethod
    def from_pretrained(cls, _name: str) -> Self:
        return cls()

    def __call__(self, *, text: Sequence[str], images: Sequence[Image.Image], **options: Any) -> Batch:
        assert options == {"return_tensors": "pt", "padding": True, "truncation": True}
        colours = np.array([np.asarray(image, np.float64).mean(axis=(0, 1)) for image in images])
        return Batch(
            pixel_values=colours / np.linalg.norm(colours, axis=1, keepdims=True),
            input_ids=np.array([[1.0, 0.0, 0.0] for _ in text]),
        )


def test_the_example_of_a_plug_in_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = ModuleType("torch")
    torch.inference_mode, torch.cuda = nullcontext, SimpleNamespace(is_available=lambda: False)
    transformers: Any = ModuleType("transformers")
    transformers.CLIPModel, transformers.CLIPProcessor = Model, Processor
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    spec = importlib.util.spec_from_file_location("clip_measure", DOCS / "clip_measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    data_dir = UPath(tmp_path)
    write_pictures(data_dir, [Made("1", red), Made("2", red, blue), Made("3", blue, blue), Made("4", photo())])
    rows = measured(data_dir, plug_ins=[PlugIn("clip", lambda: module.ClipMeasure)])
    assert [rows[name]["errors"] for name in "1234"] == [[]] * 4
    assert [rows[name]["clip_text_similarity"] for name in "123"] == [1.0, 1.0, 0.0]
    assert [rows[name]["clip_image_similarity"] for name in "1234"] == [None, 0.0, 1.0, None]
