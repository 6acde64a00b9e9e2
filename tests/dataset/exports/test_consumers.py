"""Each layout, loaded by what it is for, with no argument but its folder."""

import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.dataset.exports.made_datasets import MadeDataset, export, picture

VALIDATION = 0.4


@pytest.fixture
def filled(dataset: MadeDataset) -> MadeDataset:
    """Edits of eight pictures, two of each, with nested, dated and missing own columns, and two rows without an input."""
    rows: list[dict[str, Any]] = [{"input": number // 2} for number in range(16)] + [{"input": None}, {"input": None}]
    own = {
        "label": [f"label {number}" if number > 7 else None for number in range(18)],
        "tags": pa.array([["a", "ü"], []] * 9, pa.list_(pa.string())),
        "camera": pa.array([{"iso": 100, "lens": "x"}] * 18, pa.struct([("iso", pa.int32()), ("lens", pa.string())])),
        "taken": pa.array([1_700_000_000_000_000] * 18, pa.timestamp("us", tz="UTC")),
        "photo_file_name": ["a.jpg"] * 18,
        "group": ["mine"] * 18,
    }
    dataset.add(rows, **own)
    return dataset


def load(folder: Path, name: str | None = None, **options: Any) -> Any:
    from datasets import load_dataset

    arguments = [str(folder), *([name] if name else [])]
    return load_dataset(*arguments, cache_dir=str(folder.parent / "cache"), **options)


def as_bytes(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def decoded(data: bytes) -> bytes:
    import io

    return as_bytes(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_datasets_gives_pictures_and_text(filled: MadeDataset, tmp_path: Path, layout: Any, streaming: bool) -> None:
    made = export(filled, tmp_path / "out", layout, validation=VALIDATION)
    assert made.sound
    loaded = load(tmp_path / "out", streaming=streaming)
    assert set(loaded) == {"train", "validation"}
    by_fingerprint = {row["fingerprint"]: row for row in filled.rows}
    found = [sample for split in loaded.values() for sample in split]
    assert len(found) == 16
    for sample in found:
        row = by_fingerprint[sample["fingerprint"]]
        assert sample["edit_prompt"] == row["prompt"]
        assert isinstance(sample["input_image"], Image.Image)
        assert as_bytes(sample["edited_image"]) == decoded((filled.data_dir / row["image_path"]).read_bytes())
        assert as_bytes(sample["input_image"]) == decoded((filled.data_dir / row["input_path"]).read_bytes())
        assert sample["tags"] in (["a", "ü"], [])
        assert sample["camera"] == {"iso": 100, "lens": "x"}
        assert sample["manifest_group"] == "mine"
        assert sample["photo_filename"] == "a.jpg"
    assert {sample["label"] for sample in found} >= {None, "label 15"}
    texts = load(tmp_path / "out", "text_to_image", streaming=streaming)
    images = [sample for split in texts.values() for sample in split]
    assert [isinstance(sample["image"], Image.Image) for sample in images] == [True, True]
    assert {sample["prompt"] for sample in images} == {row["prompt"] for row in filled.rows[-2:]}


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_the_tar_files(filled: MadeDataset, tmp_path: Path, streaming: bool) -> None:
    """`datasets` names the columns of tar files after the files in them, extension included."""
    export(filled, tmp_path / "out", "webdataset", validation=VALIDATION)
    loaded = load(tmp_path / "out", streaming=streaming)
    assert set(loaded) == {"train", "validation"}
    found = [sample for split in loaded.values() for sample in split]
    assert len(found) == 16
    for sample in found:
        assert isinstance(sample["input_image.jpg"], Image.Image)
        assert isinstance(sample["edited_image.png"], Image.Image)
        assert sample["edit_prompt.txt"].startswith("Make it ")
        assert sample["json"]["camera"] == {"iso": 100, "lens": "x"}
    assert {sample["json"]["label"] for sample in found} >= {None, "label 15"}


def test_datasets_alone_gives_the_pairs(dataset: MadeDataset, tmp_path: Path) -> None:
    """Where all rows have an input picture, the folder is the only argument."""
    dataset.add([{}, {}, {}])
    for layout in ("imagefolder", "parquet"):
        export(dataset, tmp_path / layout, layout)
        sample = load(tmp_path / layout)["train"][0]
        assert list(sample)[:1] == ["input_image"] or layout == "imagefolder"
        assert isinstance(sample["input_image"], Image.Image)
        assert isinstance(sample["edited_image"], Image.Image)
        assert sample["edit_prompt"].startswith("Make it ")


def test_webdataset_decodes_the_pictures(filled: MadeDataset, tmp_path: Path) -> None:
    import webdataset

    export(filled, tmp_path / "out", "webdataset")
    samples = list(
        webdataset.WebDataset(str(tmp_path / "out/data/train-00000-of-00001.tar"), shardshuffle=False).decode("pil")
    )
    assert len(samples) == 16
    for sample in samples:
        assert isinstance(sample["input_image.jpg"], Image.Image)
        assert isinstance(sample["edited_image.png"], Image.Image)
        assert sample["edit_prompt.txt"].startswith("Make it ")
        assert sample["json"]["fingerprint"] == sample["__key__"]
        assert sample["json"]["taken"] == "2023-11-14T22:13:20+00:00"


def test_duckdb_and_polars_read_the_parquet(filled: MadeDataset, tmp_path: Path) -> None:
    export(filled, tmp_path / "out", "parquet", validation=VALIDATION)
    files = tmp_path / "out/data/*.parquet"
    query = f"SELECT count(*), sum(cost_usd), min(octet_length(edited_image.bytes)) FROM read_parquet('{files}')"
    [(count, cost, least)] = duckdb.connect().execute(query).fetchall()
    assert (count, round(cost, 6)) == (16, 1.6)
    assert least > 100
    frame = pl.read_parquet(str(files))
    assert frame.height == 16
    assert frame["edited_image"].struct.field("bytes")[0].startswith(b"\x89PNG")


def test_the_parquet_is_as_the_hub_wants_it(filled: MadeDataset, tmp_path: Path) -> None:
    export(filled, tmp_path / "out", "parquet")
    [path] = (tmp_path / "out/data").iterdir()
    file = pq.ParquetFile(path)
    assert path.name == "train-00000-of-00001.parquet"
    assert file.schema_arrow.names[:3] == ["input_image", "edit_prompt", "edited_image"]
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["input_image"] == {"_type": "Image"}
    assert set(features) == set(file.schema_arrow.names)
    column = file.metadata.row_group(0).column(file.schema_arrow.names.index("edit_prompt") + 1)
    assert column.has_offset_index
    assert column.has_column_index


def test_a_kontext_trainer_reads_the_default_columns(filled: MadeDataset, tmp_path: Path) -> None:
    """What diffusers' scripts for InstructPix2Pix and Kontext do with a dataset folder.

    They read the split `train`, take the columns by name (the names are defaults of the first and options of the second),
    convert both pictures to RGB and resize them to one size.
    """
    export(filled, tmp_path / "out", "imagefolder")
    dataset = load(tmp_path / "out")
    columns = dataset["train"].column_names
    for name in ("input_image", "edit_prompt", "edited_image"):
        assert name in columns
    batch = dataset["train"][:4]
    assert all(isinstance(caption, str) for caption in batch["edit_prompt"])
    for images in (batch["input_image"], batch["edited_image"]):
        assert [image.convert("RGB").resize((8, 8)).size for image in images] == [(8, 8)] * 4


EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


@pytest.mark.parametrize("image_format", [None, "png", "jpg"])
def test_pair_trainers_find_every_picture(filled: MadeDataset, tmp_path: Path, image_format: Any) -> None:
    """What trainers such as ai-toolkit do with `folder_path` and `control_path`.

    They list the pictures of the first folder, read the caption beside each, and look in the second folder for the same stem
    with any of their extensions. SimpleTuner wants the same extension. An unmatched picture is an error.
    """
    export(filled, tmp_path / "out", "pairs", image_format=image_format)
    edited, control = tmp_path / "out/edited", tmp_path / "out/input"
    pictures = [path for path in edited.iterdir() if path.suffix.lower() in EXTENSIONS]
    assert len(pictures) == 16
    for path in pictures:
        assert path.with_suffix(".txt").read_text().startswith("Make it ")
        [match] = [control / f"{path.stem}{end}" for end in EXTENSIONS if (control / f"{path.stem}{end}").exists()]
        assert match.suffix == path.suffix
        kind = "JPEG" if image_format == "jpg" else "PNG"
        with Image.open(path) as one, Image.open(match) as other:
            assert (one.format, other.format) == (kind, kind)
    assert len(list(control.iterdir())) == len(pictures)


def test_the_list_of_pairs_leads_to_the_pictures(filled: MadeDataset, tmp_path: Path) -> None:
    """What musubi-tuner reads: a JSON object a line, with the paths of both pictures and the caption."""
    export(filled, tmp_path / "out", "pairs", validation=VALIDATION)
    found = 0
    for folder in (tmp_path / "out", tmp_path / "out/validation"):
        for line in (folder / "pairs.jsonl").read_text().splitlines():
            pair = json.loads(line)
            assert pair["caption"].startswith("Make it ")
            for name in ("image_path", "control_path"):
                with Image.open(folder / pair[name]) as image:
                    image.load()
            found += 1
    assert found == 16
    texts = list((tmp_path / "out").rglob("text_to_image/*.png"))
    assert len(texts) == 2
    assert all(path.with_suffix(".txt").exists() for path in texts)


def test_pictures_keep_their_bytes(filled: MadeDataset, tmp_path: Path) -> None:
    export(filled, tmp_path / "out", "imagefolder")
    row = filled.rows[0]
    exported = {path.name: path for path in (tmp_path / "out/data").rglob("*.*")}
    for name in ("image_path", "input_path"):
        source = filled.data_dir / row[name]
        assert exported[source.name].read_bytes() == source.read_bytes()


def test_a_set_of_tar_files_has_one_format(dataset: MadeDataset, tmp_path: Path) -> None:
    """Input pictures of several formats become PNG in all splits; one format of all is kept."""
    dataset.add([{"input_kind": "webp", "kind": "jpg"}, *({"input_kind": "jpg", "kind": "jpg"} for _ in range(9))])
    export(dataset, tmp_path / "out", "webdataset", validation=VALIDATION)
    loaded = load(tmp_path / "out")
    names = {name for split in loaded.values() for name in split.column_names}
    assert {"input_image.png", "edited_image.jpg"} < names
    assert not {"input_image.webp", "input_image.jpg"} & names


def test_a_conversion_keeps_the_pixels(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{"input": "x", "input_kind": "webp"}])
    export(dataset, tmp_path / "out", "parquet", image_format="png")
    sample = pq.read_table(tmp_path / "out/data/train-00000-of-00001.parquet").to_pylist()[0]
    assert decoded(sample["input_image"]["bytes"]) == decoded(picture("input x", "webp"))
    assert sample["input_image"]["path"].endswith(".png")


@pytest.mark.parametrize("layout", ["parquet", "imagefolder", "pairs"])
def test_mlcroissant_iterates_the_records(filled: MadeDataset, tmp_path: Path, layout: Any) -> None:
    import mlcroissant

    export(filled, tmp_path / "out", layout)
    name = "default-train" if layout == "pairs" else "default"
    records = list(mlcroissant.Dataset(str(tmp_path / "out/croissant.json")).records(name))
    found = {_text(record[f"{name}/fingerprint"]): record for record in records}
    assert set(found) == {row["fingerprint"] for row in filled.rows[:16]}
    for row in filled.rows[:16]:
        record = found[row["fingerprint"]]
        assert _text(record[f"{name}/{'caption' if layout == 'pairs' else 'edit_prompt'}"]) == row["prompt"]
        assert record[f"{name}/cost_usd"] == pytest.approx(0.1)
        if layout == "parquet":
            assert as_bytes(record["default/edited_image"]) == decoded(
                (filled.data_dir / row["image_path"]).read_bytes()
            )


def test_mlcroissant_iterates_the_files_in_tar_files(filled: MadeDataset, tmp_path: Path) -> None:
    import mlcroissant

    export(filled, tmp_path / "out", "webdataset", validation=VALIDATION)
    described = mlcroissant.Dataset(str(tmp_path / "out/croissant.json"))

    def members(name: str) -> dict[str, Any]:
        records = described.records(f"default-{name}")
        return {_text(one[f"default-{name}/key"]): one[f"default-{name}/{name}"] for one in records}

    pictures, prompts, others = members("edited_image"), members("edit_prompt"), members("json")
    for row in filled.rows[:16]:
        key = row["fingerprint"]
        assert as_bytes(pictures[key]) == decoded((filled.data_dir / row["image_path"]).read_bytes())
        assert _text(prompts[key]) == row["prompt"]
        assert json.loads(_text(others[key]))["id"] == row["id"]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset"])
def test_hostile_names_and_texts_stay_data(dataset: MadeDataset, tmp_path: Path, layout: Any) -> None:
    """Names of columns that are YAML, Markdown or HTML, and a prompt that is all of these."""
    names = [
        "a: [b]\x85",
        "<script>alert(1)</script>",
        "no",
        "---",
        "x\n---\nlicense: mit",
        "12",
        "edited_image",
        "{{ x }}",
    ]
    prompt = "---\nlicense: mit\n---\n<img src=x> \u202e\x1b[2J ../../etc"
    dataset.add([{"prompt": prompt}, {}], **{name: [f"its {name}", None] for name in names})
    export(dataset, tmp_path / "out", layout)
    card = (tmp_path / "out/README.md").read_text()
    assert "<script>" not in card.partition("## Columns")[2]
    assert card.count("\n---\n") == 1
    assert "license: unknown" in card
    [sample] = [
        one for one in load(tmp_path / "out")["train"] if prompt in (one.get("edit_prompt"), one.get("edit_prompt.txt"))
    ]
    others = sample["json"] if layout == "webdataset" else sample
    for name in names:
        assert others["manifest_edited_image" if name == "edited_image" else name] == f"its {name}"
