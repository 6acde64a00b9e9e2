"""The card of an export, `README.md`: a YAML header that the Hub and `datasets` read, and the figures for people below."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from kontext_pipeline.dataset.exports.column_features import card_features, json_schema
from kontext_pipeline.dataset.exports.export_job import Part
from kontext_pipeline.dataset.exports.export_options import ExportOptions
from kontext_pipeline.dataset.exports.image_pairs import PAIRS, pairs_root
from kontext_pipeline.dataset.exports.layouts import SUFFIXES
from kontext_pipeline.dataset.exports.reduced_rows import EDITS, TEXT_TO_IMAGE
from kontext_pipeline.dataset.exports.sample_rows import PICTURES, PROMPTS
from kontext_pipeline.dataset.exports.selection import REASONS, LeftOut
from kontext_pipeline.escaping import markdown
from kontext_pipeline.segmind.model import MODEL

CARD: Final = "README.md"
BEGIN: Final = "<!-- The owner's text begins here; an export keeps this text as it is. -->"
END: Final = "<!-- The owner's text ends here. -->"
_OWNERS_TEXT: Final = """## Licence

- **Input pictures**: not filled in. Say who made them and what their licence allows.
- **Generated pictures**: not filled in. The terms of the model and of the API say what may be done with its outputs.
"""
_LICENCE_LINES: Final = re.compile(r"^license(?:_name|_link)?:.*$", re.MULTILINE)
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says: its parts, their columns and formats by configuration, and where the rest of the dataset's rows are.

    `cost_usd` is the bill of all rows of the dataset; `exported_usd` that of the exported pictures. `leaks` are groups that
    the manifest has put into several splits.
    """

    options: ExportOptions
    parts: list[Part]
    columns: dict[str, pa.Schema]
    extensions: Mapping[str, tuple[str | None, ...]]
    left_out: LeftOut
    rows: int
    cost_usd: float
    exported_usd: float
    backends: list[str]
    leaks: int


def card(facts: CardFacts, *, old: str | None) -> str:
    """Return the text of a card. Licence lines and the owner's text of the `old` one, if there is one, stay."""
    header = yaml_of(_header(facts))
    licence = _LICENCE_LINES.findall(_header_of(old or "")) or ["license: unknown"]
    lines = [
        "---",
        *licence,
        header.rstrip("\n"),
        "---",
        "",
        *_body(facts),
        "",
        BEGIN,
        _owners(old).strip("\n"),
        END,
        "",
    ]
    return "\n".join(lines)


def owners_card(here: str | None, published: str | None) -> str | None:
    """Return the card whose owner's text counts: the one `here`, unless the owner has only filled in the published one."""
    untouched = here is None or (
        _owners(here).strip() == _OWNERS_TEXT.strip() and "license: unknown" in _header_of(here)
    )
    return published if untouched and published is not None else here


def data_files(layout: str, part: Part) -> str:
    """Return the pattern of the files of a configuration and split."""
    folder = "data" if part.config == EDITS else part.config
    if layout == "imagefolder":
        return f"{folder}/{part.split}/**"
    if layout == "pairs":
        return f"{pairs_root(part.config, part.split)}{PAIRS}"
    return f"{folder}/{part.split}-*.{SUFFIXES[layout]}"


def yaml_of(value: Any, indent: int = 0) -> str:
    """Return lists and dicts of plain values as YAML."""
    space = "  " * indent
    if isinstance(value, dict):
        return "".join(f"{space}{_scalar(name)}:{_after(one, indent)}" for name, one in value.items())
    lines = []
    for one in value:
        text = yaml_of(one, indent + 1) if isinstance(one, dict) else f"{space}  {_scalar(one)}\n"
        lines.append(f"{space}- {text[len(space) + 2 :]}")
    return "".join(lines)


def _after(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return f"\n{yaml_of(value, indent + isinstance(value, dict))}"
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN_KEY.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


_YAML_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def _header(facts: CardFacts) -> dict[str, Any]:
    configs = list(dict.fromkeys(part.config for part in facts.parts))
    rows = sum(part.rows for part in facts.parts)
    tasks = {EDITS: "image-to-image", TEXT_TO_IMAGE: "text-to-image"}
    header: dict[str, Any] = {
        "task_categories": [tasks[config] for config in configs],
        "size_categories": [next((name for most, name in _SIZES if rows < most), "n>10M")],
        "configs": [
            {
                "config_name": config,
                "data_files": [
                    {"split": part.split, "path": data_files(facts.options.layout, part)}
                    for part in facts.parts
                    if part.config == config
                ],
            }
            for config in configs
        ],
    }
    header["dataset_info"] = [_info(facts, config) for config in configs]
    return header


def _info(facts: CardFacts, config: str) -> dict[str, Any]:
    parts = [part for part in facts.parts if part.config == config]
    features = _features(facts, config)
    return {
        "config_name": config,
        **({"features": features} if features else {}),
        "splits": [{"name": part.split, "num_bytes": part.bytes, "num_examples": part.rows} for part in parts],
        "dataset_size": sum(part.bytes for part in parts),
    }


def _features(facts: CardFacts, config: str) -> list[dict[str, Any]]:
    columns, pictures = facts.columns[config], PICTURES[config]
    first, *rest = (pa.field(name, pa.binary()) for name in pictures)
    match facts.options.layout:
        case "imagefolder":
            # `datasets` puts the pictures last.
            return card_features(pa.schema([*columns, first, *rest]), pictures)
        case "parquet":
            return card_features(pa.schema([first, columns.field(0), *rest, *list(columns)[1:]]), pictures)
        case "webdataset":
            named = [f"{name}.{kind}" for name, kind in zip(pictures, facts.extensions[config], strict=True)]
            others = pa.struct(list(json_schema(columns))[1:])
            texts = [
                (f"{columns.names[0]}.txt", pa.string()),
                ("json", others),
                ("__key__", pa.string()),
                ("__url__", pa.string()),
            ]
            return card_features(pa.schema([*((name, pa.binary()) for name in named), *texts]), tuple(named))
    return []


def _body(facts: CardFacts) -> list[str]:
    sandbox = facts.backends == ["sandbox"]
    made_by = "a sandbox of the API, which draws stand-ins," if sandbox else f"FLUX.1 Kontext \\[max\\] (`{MODEL}`)"
    lines = [
        "# Edited pictures" if any(part.config == EDITS for part in facts.parts) else "# Generated pictures",
        "",
        f"Pictures that {made_by} made from prompts, exported by kontext_pipeline in the layout `{facts.options.layout}`.",
        "",
        "| configuration | split | samples | MB |",
        "|---|---|--:|--:|",
        *(f"| `{part.config}` | `{part.split}` | {part.rows:,} | {part.bytes / 1e6:,.1f} |" for part in facts.parts),
        "",
        *_reading(facts),
        "",
        *_columns(facts),
        "",
        "## Selection",
        "",
        f"The dataset has {facts.rows:,} rows, which cost {facts.cost_usd:,.2f} USD. The pictures of this export cost "
        f"{facts.exported_usd:,.2f} USD.",
        f"Direction: `{facts.options.direction}`. Splits: by groups of input pictures; {facts.options.validation:g} of the "
        f"groups are in `validation`, seed {facts.options.seed}.",
    ]
    if facts.leaks:
        lines.append(f"The manifest's own splits have {facts.leaks:,} groups of input pictures in several splits.")
    if facts.left_out.counts:
        lines += ["", "Rows without a sample:", ""]
        lines += [f"- {count:,}: {REASONS[reason]}" for reason, count in facts.left_out.counts.most_common()]
    if facts.left_out.rejected_for:
        lines += ["", "Rejected because:", ""]
        found = facts.left_out.rejected_for.most_common()
        lines += [f"- {count:,}: {markdown(reason) if reason else 'no reason given'}" for reason, count in found]
    return lines


def _reading(facts: CardFacts) -> list[str]:
    match facts.options.layout:
        case "webdataset":
            renamed = {
                "input_image.EXT": "input_image",
                "edited_image.EXT": "edited_image",
                "edit_prompt.txt": "edit_prompt",
            }
            lines = ["import webdataset", "", 'webdataset.WebDataset("data/train-00000-of-00001.tar").decode("pil")']
            return [
                *_code(lines),
                "",
                "`load_dataset` names the columns after the files in the tar files, such as "
                + ", ".join(f"`{name}`" for name in renamed)
                + " and `json`, which has all other columns.",
            ]
        case "pairs":
            return [
                "`edited/` has the pictures and captions to learn (`folder_path`), `input/` the pictures that they were "
                "made from (`control_path`), under the same names. `pairs.jsonl` names both, relative to its folder.",
            ]
    return _code(["from datasets import load_dataset", "", 'dataset = load_dataset("path/of/this/folder")'])


def _code(lines: list[str]) -> list[str]:
    return ["```python", *lines, "```"]


def _columns(facts: CardFacts) -> list[str]:
    lines = ["## Columns", ""]
    for config, schema in facts.columns.items():
        names = [*PICTURES[config][:1], PROMPTS[config], *PICTURES[config][1:], *schema.names[1:]]
        lines.append(f"`{config}`: {', '.join(markdown(name) for name in names)}")
    return [
        *lines,
        "",
        "`input_sha256` and `image_sha256` name the bytes of both pictures in the data directory; where a picture was "
        "converted, those of the file here differ. `group` names the pictures that belong together in a split.",
    ]


def _header_of(text: str) -> str:
    parts = text.split("---\n", 2)
    return parts[1] if len(parts) == 3 and not parts[0].strip() else ""


def _owners(old: str | None) -> str:
    if old and BEGIN in old and END in old:
        return old.partition(BEGIN)[2].partition(END)[0]
    return _OWNERS_TEXT
