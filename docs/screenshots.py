"""Takes the pictures of the Dagster UI that the documents show.

Run it by hand:

    .venv/bin/python docs/screenshots.py            # all of them, some minutes
    .venv/bin/python docs/screenshots.py spend      # only this one

The demo is generated against the sandbox in a temporary folder, the UI and its daemon run on loopback, and Chromium looks
at them. Nothing is drawn or retouched: a picture is what the page shows. CHROMIUM names the browser; default: the one of
the system.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
BIN: Final = Path(sys.executable).parent
DEFINITIONS: Final = "kontext_pipeline.definitions"
LARGEST_BYTES: Final = 300_000
LONGEST_WAIT_S: Final = 120.0

SHOW: Final = "[Show Markdown]"

RUNS: Final = (
    "plan",
    "inputs",
    "images,metadata demo-00000...demo-00001",
    "images,metadata demo-00002",
    "images,metadata demo-00003",
    "quality demo-00000...demo-00003",
    "dataset",
)
"""What is materialized before the pictures are taken, each in a run of its own. The last batch is left."""


@dataclass(frozen=True)
class Scene:
    """A page of the UI as one picture shows it."""

    address: str
    ready: str
    """Text that is on the page when it is complete."""
    click: str = ""
    """Text to click then; a picture within a dialog is waited for."""
    show: str = ""
    """Text to which the page is scrolled then."""
    width: int = 1440
    height: int = 900


SCENES: Final[Mapping[str, Scene]] = {
    "lineage": Scene(
        "/locations/kontext_pipeline.definitions/asset-groups/dataset", "80% filled", width=2200, height=800
    ),
    "partitions": Scene("/assets/images?view=partitions&partition=demo-00001", "latency_p50_s"),
    "batch": Scene("/assets/images?view=partitions&partition=demo-00000", "contact_sheet", SHOW),
    "spend": Scene("/assets/spend?view=events", "plot", SHOW),
    "plots": Scene("/assets/spend?view=overview", "Plots", "Plots", "spent_usd"),
}


def take(page: Page, scene: Scene) -> bytes:
    """Open a page, and return its picture."""
    page.goto(scene.address)
    page.get_by_text(scene.ready, exact=True).first.wait_for()
    page.wait_for_load_state("networkidle")
    if scene.click:
        page.get_by_text(scene.click, exact=True).first.click()
    if scene.click == SHOW:
        page.locator("img[src^='data:image']").first.wait_for()
    if scene.show:
        page.get_by_text(scene.show, exact=True).last.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    page.wait_for_function("!document.body.innerText.includes('Loading')")
    return page.screenshot()


@contextlib.contextmanager
def running(command: list[str], environment: Mapping[str, str], answers_at: str) -> Iterator[None]:
    """Run a server while the block runs, from the moment on when it answers."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LONGEST_WAIT_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(answers_at, timeout=5):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} does not answer at {answers_at}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def materialize(environment: Mapping[str, str]) -> None:
    """Materialize what `RUNS` says."""
    for run in RUNS:
        selection, _, batches = run.partition(" ")
        chosen = ["--partition-range", batches] if "..." in batches else ["--partition", batches] if batches else []
        command = [str(BIN / "dagster"), "asset", "materialize", "-m", DEFINITIONS, "--select", selection, *chosen]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)


def keep(picture: bytes, name: str) -> None:
    """Write a picture as a PNG of 256 colours."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    path = DOCS / f"ui-{name}.png"
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, more than {LARGEST_BYTES:,}")


def main(names: list[str]) -> None:
    """Take the pictures `names`, or all of them."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory(prefix="kontext-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder, "dagster")
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
        sandbox, ui = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("KONTEXT_", "SEGMIND_"))}
        environment = {
            **clean,
            "DAGSTER_HOME": str(home),
            "KONTEXT_BACKEND": "sandbox",
            "KONTEXT_BATCH_SIZE": "8",
            "KONTEXT_DATA_DIR": str(Path(folder, "demo")),
            "KONTEXT_MANIFESTS": str(ROOT / "data" / "demo.csv"),
            "KONTEXT_OWNERS": "team:vision",
            "SEGMIND_BASE_URL": sandbox,
        }
        port = sandbox.rpartition(":")[2]
        serve = [str(BIN / "kontext"), "sandbox", "--port", port, "--speed", "50", "--seed", "7"]
        stack.enter_context(running(serve, environment, sandbox))
        materialize(environment)
        dev = [str(BIN / "dagster"), "dev", "-m", DEFINITIONS, "--port", ui.rpartition(":")[2]]
        stack.enter_context(running(dev, environment, f"{ui}/server_info"))
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=chromium)
        for name in names or SCENES:
            scene = SCENES[name]
            page = browser.new_page(base_url=ui, viewport={"width": scene.width, "height": scene.height})
            keep(take(page, scene), name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
