"""Take the README's pictures of the review page and of an export, as `make demo` left them in `data/demo`.

make demo
.venv/bin/python -m benchmarks.page_pictures [DATA_DIR]

The decisions in the pictures are made in a copy of the data directory.
"""

import base64
import contextlib
import html
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from datasets import load_dataset
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from upath import UPath

from kontext_pipeline.dataset.review.page_server import serve_in_thread

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
MOST_BYTES = 300_000
EXPORT_ROWS = 4
EXPORT_STYLE = """
  body { margin: 0; padding: 14px 18px; font: 14px/1.45 system-ui; background: #fff; color: #1e1e1c; width: 920px; }
  code { display: block; background: #f3f3f1; padding: 8px 12px; border-radius: 6px; margin-bottom: 8px; }
  table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; padding: 4px 0; }
  td { border-top: 1px solid #dddcd7; padding: 7px 12px 7px 0; } img { height: 112px; display: block; border-radius: 4px; }
"""


def save(page: Page, path: Path) -> None:
    """Write what a page shows as a JPEG of at most `MOST_BYTES`."""
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        image = shot.convert("RGB")
    for quality in (88, 80, 70, 60):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size:,} bytes")


def settle(page: Page) -> None:
    """Wait until all pictures on a page are decoded."""
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.wait_for_timeout(400)


def review_pictures(browser: Browser, data_dir: Path) -> None:
    """Take the pictures of the review page: a slider by day, a difference by night, and the overview."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        # The page shows the path.
        copy = Path("data") / "demo"
        shutil.copytree(data_dir, copy, ignore=shutil.ignore_patterns("export", "review.html", "review.csv"))
        with serve_in_thread(UPath(copy), reviewer="ann") as url:
            page = open_page(browser, url, scheme="light", width=1280, height=760)
            for key in ("k", "k", "n", "k", "k", "k", "r", "2"):
                page.keyboard.press(key)
                page.wait_for_timeout(150)
            for key in ("p", "p", "p", "p", "s"):
                page.keyboard.press(key)
            settle(page)
            save(page, ROOT / "docs" / "review.jpg")
            page.keyboard.press("o")
            settle(page)
            save(page, ROOT / "docs" / "review-overview.jpg")
            dark = open_page(browser, url, scheme="dark", width=1280, height=760)
            dark.locator(".row").nth(3).click()
            dark.keyboard.press("d")
            settle(dark)
            save(dark, ROOT / "docs" / "review-dark.jpg")


def open_page(browser: Browser, url: str, *, scheme: Any, width: int, height: int) -> Page:
    """Open the review page in a window of this size."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
    page.goto(url)
    page.wait_for_selector("#facts .asked")
    return page


def export_picture(browser: Browser, export: Path) -> None:
    """Take the picture of what `datasets` loads from the export."""
    rows = load_dataset(str(export), "default", split="train")
    chosen = [rows[index * len(rows) // EXPORT_ROWS] for index in range(EXPORT_ROWS)]
    lines = [
        f"<tr><td>{_image(row['input_image'])}<td>{html.escape(row['edit_prompt'])}<td>{_image(row['edited_image'])}"
        for row in chosen
    ]
    page = browser.new_page(viewport={"width": 960, "height": 660})
    page.set_content(
        f"<style>{EXPORT_STYLE}</style><code>load_dataset('data/demo/export', 'default')['train']"
        f"</code><table><tr><th>input_image<th>edit_prompt<th>edited_image{''.join(lines)}</table>"
    )
    settle(page)
    save(page, ROOT / "docs" / "export.jpg")


def _image(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=90)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def main(data_dir: Path) -> None:
    """Write all pictures to `docs/`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        review_pictures(browser, data_dir)
        export_picture(browser, data_dir / "export")
        browser.close()


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or [ROOT / "data" / "demo"]).absolute())
