"""The Croissant file of an export: a description of its files and columns that `mlcroissant` and search engines read."""

import json
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from kontext_pipeline.dataset.exports.card import CardFacts, data_files
from kontext_pipeline.dataset.exports.export_job import Part
from kontext_pipeline.dataset.exports.export_record import Entry
from kontext_pipeline.dataset.exports.reduced_rows import EDITS
from kontext_pipeline.dataset.exports.sample_rows import PICTURES, PROMPTS

CROISSANT: Final = "croissant.json"
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            *("column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
            *(
                "includes",
                "jsonPath",
                "key",
                "md5",
                "parentField",
                "path",
                "recordSet",
                "references",
                "regex",
                "repeated",
            ),
            *("replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
    "citeAs": "cr:citeAs",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "isLiveDataset": "cr:isLiveDataset",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
_PARQUET: Final = "application/x-parquet"


def croissant(facts: CardFacts, entries: list[Entry]) -> str:
    """Return the text of a Croissant file. `entries` are the files of the export."""
    distribution: list[dict[str, Any]] = []
    record_sets: list[dict[str, Any]] = []
    for config in dict.fromkeys(part.config for part in facts.parts):
        parts = [part for part in facts.parts if part.config == config]
        match facts.options.layout:
            case "parquet":
                described = _of_parquet(facts, config, parts)
            case "imagefolder":
                described = _of_image_folder(facts, config, parts)
            case "webdataset":
                described = _of_tar_files(facts, config, parts, entries)
            case _:
                described = _of_pairs(facts, config, parts, entries)
        distribution += described[0]
        record_sets += described[1]
    found = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "edited-pictures",
        "description": "Pictures that a model made from prompts and input pictures, exported by kontext_pipeline. README.md "
        "has figures and licences.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": distribution,
        "recordSet": record_sets,
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


Described = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Entries of `distribution` and of `recordSet`."""


def _of_parquet(facts: CardFacts, config: str, parts: list[Part]) -> Described:
    name = f"{config}-files"
    columns = facts.columns[config]
    fields = [
        _field(config, picture, "sc:ImageObject", name, {"column": picture}, transform={"jsonPath": "bytes"})
        for picture in PICTURES[config]
    ]
    fields += _columns(config, columns, name)
    patterns = [data_files("parquet", part) for part in parts]
    return [_file_set(name, patterns, _PARQUET)], [_record_set(config, fields)]


def _of_image_folder(facts: CardFacts, config: str, parts: list[Part]) -> Described:
    name = f"{config}-metadata"
    folders = [data_files("imagefolder", part).removesuffix("/**") for part in parts]
    paths = pa.schema([(f"{picture}_file_name", pa.string()) for picture in PICTURES[config]])
    fields = _columns(config, [*paths, *facts.columns[config]], name)
    pictures = [f"{folder}/{store}/*" for folder in folders for store in ("images", "inputs")]
    kinds = ["image/png", "image/jpeg"]
    files = [
        _file_set(name, [f"{folder}/metadata.parquet" for folder in folders], _PARQUET),
        _file_set(f"{config}-pictures", pictures, kinds),
    ]
    return files, [_record_set(config, fields)]


def _of_pairs(facts: CardFacts, config: str, parts: list[Part], entries: list[Entry]) -> Described:
    names = ["image_path", *(["control_path"] if config == EDITS else []), "caption"]
    columns = [*pa.schema([(name, pa.string()) for name in names]), *list(facts.columns[config])[1:]]
    wanted = {data_files("pairs", part) for part in parts}
    lists = {entry.path: entry for entry in entries if entry.path in wanted}
    files, records = [], []
    for part in parts:
        entry = lists[data_files("pairs", part)]
        files.append(_file(entry, "application/jsonlines"))
        name = f"{config}-{part.split}"
        records.append(_record_set(name, _columns(name, columns, entry.path, file_set=False)))
    return files, records


def _of_tar_files(facts: CardFacts, config: str, parts: list[Part], entries: list[Entry]) -> Described:
    folder = "data/" if config == EDITS else f"{config}/"
    shards = [entry for entry in entries if entry.path.startswith(folder) and entry.path.endswith(".tar")]
    del parts
    files = [_file(entry, "application/x-tar") for entry in shards]
    contained = [{"@id": entry.path} for entry in shards]
    records = []
    kinds = {"png": "image/png", "jpg": "image/jpeg"}
    members = [
        *((picture, f"*.{picture}.{kind}", kinds[str(kind)], "sc:ImageObject")
          for picture, kind in zip(PICTURES[config], facts.extensions[config], strict=True)),
        (PROMPTS[config], f"*.{PROMPTS[config]}.txt", "text/plain", "sc:Text"),
        # Readers give the files in tar files as they are, so the other columns are JSON as text.
        ("json", "*.json", "application/json", "sc:Text"),
    ]  # fmt: skip
    for member, pattern, kind, data_type in members:
        its_name = f"{config}-{member}"
        files.append({**_file_set(f"{its_name}-files", [pattern], kind), "containedIn": contained})
        key = _field(
            its_name,
            "key",
            "sc:Text",
            f"{its_name}-files",
            {"fileProperty": "filename"},
            transform={"regex": r"^([^.]+)\."},
        )
        content = _field(its_name, member, data_type, f"{its_name}-files", {"fileProperty": "content"})
        records.append(_record_set(its_name, [key, content]))
    return files, records


def _file_set(name: str, includes: list[str], kind: str | list[str]) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": kind, "includes": includes}


def _file(entry: Entry, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": kind,
        "sha256": entry.sha256,
    }


def _record_set(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _columns(record_set: str, fields: Iterable[pa.Field], file: str, *, file_set: bool = True) -> list[dict[str, Any]]:
    typed = [(field.name, _data_type(field.type)) for field in fields]
    return [
        _field(record_set, name, data_type, file, {"column": name}, file_set=file_set)
        for name, data_type in typed
        if data_type is not None
    ]


def _field(
    record_set: str,
    name: str,
    data_type: str,
    file: str,
    extract: dict[str, str],
    *,
    transform: dict[str, str] | None = None,
    file_set: bool = True,
) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet" if file_set else "fileObject": {"@id": file}, "extract": extract}
    if transform is not None:
        source["transform"] = transform
    return {"@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name, "dataType": data_type, "source": source}


def _data_type(kind: pa.DataType) -> str | None:
    """Return the Croissant type of a column; None for columns that Croissant readers can't read, such as nested ones."""
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    if pa.types.is_timestamp(kind):
        return "sc:DateTime"
    return "sc:Text" if pa.types.is_string(kind) else None
