"""A dataset to review, and a real Chromium to review it with."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from upath import UPath

from kontext_pipeline.dataset.review.page_server import serve_in_thread
from tests.dataset.exports.made_datasets import MadeDataset

VARIABLE = "KONTEXT_TEST_CHROMIUM"
XSS = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\u202e</script>'


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep thumbnails of tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def dataset(tmp_path: Path) -> MadeDataset:
    """Two batches: a prompt with markup, a failed row, a row without input, three variants of one row."""
    made = MadeDataset(UPath(tmp_path / "data"))
    failed = {"status": "failed", "status_code": 400, "image_path": None, "image_sha256": None, "cost_usd": 0.0}
    made.add(
        [
            {},
            {"prompt": XSS},
            failed | {"error": "safety_tolerance must be <= 2"},
            {"input": None},
            *({"row": 5, "variant": variant, "id": "five"} for variant in (1, 2, 3)),
        ],
        label=["person", "animal", "person", "person", "animal", "animal", "animal"],
    )
    made.add([{"prompt": "a red boat"}, {}], label=["boat", "person"])
    return made


@pytest.fixture
def url(dataset: MadeDataset) -> Iterator[str]:
    """The address of the dataset's review page, with its token."""
    with serve_in_thread(dataset.data_dir, reviewer="ann") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of one module: while it runs, no other code of the process can start an event loop."""
    named = os.environ.get(VARIABLE)
    chromium = named or shutil.which("chromium")
    if chromium is None:
        pytest.skip(f"there is no chromium on the path, and {VARIABLE} names none")
    if not Path(chromium).is_file():
        pytest.fail(f"{VARIABLE} names {chromium}, which is missing")
    # Chromium's own sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser without history. An error of its program fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(15_000)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert not errors


def flat(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    """Write a picture of one colour and return its bytes."""
    Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8)).save(path)
    return path.read_bytes()
