"""The page with 20,000 rows: a key is answered within 100 ms, whichever row is shown."""

import statistics
from pathlib import Path

import pytest
from playwright.sync_api import Page

from benchmarks.review import make_dataset, measure
from kontext_pipeline.dataset.review.page_server import serve_in_thread

pytestmark = [pytest.mark.long, pytest.mark.alone]


def test_a_key_is_answered_within_100_ms(page: Page, tmp_path: Path) -> None:
    with serve_in_thread(make_dataset(tmp_path / "data", 20_000)) as url:
        page.goto(url)
        page.wait_for_selector("#facts .asked")
        assert "/ 20,000" in (page.locator("#position").text_content() or "")
        for name, milliseconds in measure(page, 15).items():
            assert statistics.median(milliseconds) < 100, (name, milliseconds)
        assert page.locator(".row").count() < 60, "only rows in sight are in the document"
