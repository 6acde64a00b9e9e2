"""The review as one HTML file that needs no server and no network: rows, thumbnails, style and program are in the file.

Decisions that are made in the file are downloaded as a `review.csv`. Text of rows is JSON in the file and never markup.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from upath import UPath

from kontext_pipeline.dataset.review.page_app import page_file, summary_of
from kontext_pipeline.dataset.review.review_rows import Filters, ReviewRows
from kontext_pipeline.dataset.thumbnails import jpeg_thumbnail
from kontext_pipeline.files import write_atomically

MOST_BYTES: Final = 64_000_000
"""Most bytes of pictures in a file: browsers open larger files slowly or not at all."""
SIZES: Final = ((300, 640), (2000, 320), (10**9, 160))
"""Up to so many rows, the width and height of pictures in pixels."""
SCRIPTS: Final = (
    "dom.js",
    "source.js",
    "rows.js",
    "viewer.js",
    "facts.js",
    "filters.js",
    "overview.js",
    "dialogs.js",
    "main.js",
)
"""The page's modules, each after those that it imports."""
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./[a-z]+\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:function|class|const) )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OfflinePage:
    """What an offline file holds.

    Attributes:
        rows: Rows in the file.
        of: Rows that were asked for.
        bytes: Size of the file.
    """

    rows: int
    of: int
    bytes: int


def write_offline_page(
    data_dir: UPath, out: Path | UPath, *, batch: str = "", most_bytes: int = MOST_BYTES
) -> OfflinePage:
    """Write the review of a data directory, or of one batch, to an HTML file. The first rows that fit are in the file.

    Raises:
        ReviewError: There are no rows, or the decisions can't be read.
        DatasetError: A table can't be read.
        OSError: The file can't be written.
    """
    rows = ReviewRows(data_dir)
    selected = rows.select(Filters(batch=batch))
    px = next(px for most, px in SIZES if len(selected) <= most)
    records: list[dict[str, Any]] = []
    pictures: dict[str, str] = {}
    size = 0
    for record, found in _with_pictures(rows, selected, px):
        new = {name: data for name, data in found.items() if name not in pictures}
        size += sum(map(len, new.values())) + 1000
        if size > most_bytes and records:
            break
        pictures |= new
        records.append(record)
    summary = summary_of(rows, "")
    count = f"{len(records):,} of {len(rows):,} rows" if len(records) < len(rows) else f"{len(rows):,} rows"
    name = str(summary["dataset"]).rstrip("/").rpartition("/")[2]
    summary["note"] = f"{name}, {count}"
    html = _html({"summary": summary, "rows": records, "pictures": pictures})
    write_atomically(out, lambda temporary: temporary.write_bytes(html))
    return OfflinePage(rows=len(records), of=len(selected), bytes=len(html))


def _with_pictures(rows: ReviewRows, selected: Any, px: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Yield each row with its pictures, as base64 of JPEGs by the name that the row has for them."""
    names = ["image_path", "input_path"]
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(selected), 64):
            chosen = selected[start : start + 64]
            paths = rows.table.select(names).take(np.asarray(chosen)).to_pylist()
            records = rows.records(chosen)
            wanted = {
                record[kind]: rows.data_dir / path[column]
                for record, path in zip(records, paths, strict=True)
                for kind, column in (("output", "image_path"), ("input", "input_path"))
                if record[kind] and path[column]
            }
            made = dict(zip(wanted, pool.map(lambda path: jpeg_thumbnail(path, px), wanted.values()), strict=True))
            for record in records:
                found = {
                    name: base64.b64encode(data).decode()
                    for name in (record["output"], record["input"])
                    if name and (data := made.get(name))
                }
                yield record, found


def _html(data: dict[str, Any]) -> bytes:
    style, script = page_file("review.css"), joined_scripts()
    # `<` in a text could end the element that holds the data.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    policy = (
        "default-src 'none'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    page = page_file("index.html")
    icon = base64.b64encode(page_file("icon.svg").encode()).decode()
    for old, new in (
        (
            '<meta charset="utf-8">',
            f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        ),
        ('href="/page/icon.svg"', f'href="data:image/svg+xml;base64,{icon}"'),
        ('<link rel="stylesheet" href="/page/review.css">', f"<style>{style}</style>"),
        ('<script type="module" src="/page/main.js"></script>\n', ""),
        (
            "</body>",
            f'<script type="application/json" id="data">{text}</script>\n<script type="module">{script}</script>\n</body>',
        ),
    ):
        page = page.replace(old, new)
    return page.encode()


def joined_scripts() -> str:
    """Return the page's modules as one, which needs no imports. Their names at the top level are all different."""
    texts = (page_file(name) for name in SCRIPTS)
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in texts)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
