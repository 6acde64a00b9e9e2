"""The server, its page, its fixture: what happens around the requests."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.drawing.sizes import SIZES
from kontext_pipeline.sandbox.server import serve
from tests.sandbox.conftest import MODEL, Client, picture
from tests.sandbox.running import running_sandbox


def test_the_guides_example_test_passes_in_a_project_of_its_own(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2].joinpath("docs", "sandbox.md").read_text("utf-8")
    (tmp_path / "test_theirs.py").write_text(guide.partition("```python\n")[2].partition("```")[0])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=60
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_what_a_paid_run_imports_has_no_sandbox_in_it() -> None:
    program = (
        "import sys\n"
        "import kontext_pipeline.cli, kontext_pipeline.launcher, kontext_pipeline.pipeline\n"
        "print([name for name in sys.modules if name.startswith('kontext_pipeline.sandbox')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_starting_and_stopping_takes_well_under_a_second() -> None:
    began = time.monotonic()
    with running_sandbox() as sandbox:
        assert sandbox.books()["entries"] == []
        started = time.monotonic() - began
    assert started < 1
    assert time.monotonic() - began < 3
    with pytest.raises(requests.ConnectionError):
        sandbox.books()


def test_stopping_does_not_wait_for_what_is_running_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    began = time.monotonic()
    with running_sandbox(speed=1) as sandbox:
        Client(sandbox).post("v2")
        with pytest.raises(requests.Timeout):
            requests.post(
                f"{sandbox.url}/v1/{MODEL}",
                json={"prompt": "x"},
                headers={"x-api-key": sandbox.api_key},
                timeout=0.1,
            )
        assert len(list(tmp_path.iterdir())) == 1
    assert time.monotonic() - began < 3
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_a_settings_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="--port"):
        serve(port=taken.getsockname()[1], config=SandboxConfig())


def test_serve_answers_until_it_is_interrupted() -> None:
    program = (
        "from kontext_pipeline.sandbox.config import SandboxConfig\n"
        "from kontext_pipeline.sandbox.server import serve\n"
        "config = SandboxConfig.create(speed=1000, profiles=('slow',))\n"
        "serve(port=0, config=config, announce=lambda url: print(url, flush=True))\n"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert requests.get(f"{url}/sandbox/books", timeout=10).status_code == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert errors == ""


def test_books_are_exact_though_clients_are_killed() -> None:
    with running_sandbox(speed=100) as sandbox:
        program = (
            "import requests, threading\n"
            "def go(n):\n"
            "    for k in range(100):\n"
            f"        requests.post('{sandbox.url}/v1/{MODEL}', json={{'prompt': f'{{n}}-{{k}}'}},"
            f" headers={{'x-api-key': '{sandbox.api_key}'}})\n"
            "for n in range(8): threading.Thread(target=go, args=(n,)).start()\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program])
        while sandbox.books()["totals"]["billed"] < 8:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        books = sandbox.wait_idle()
        totals = books["totals"]
        assert totals["held"] == 0
        assert totals["billed"] == totals["posts"] == len(books["entries"])
        assert all(entry["state"] == "COMPLETED" for entry in books["entries"])
        assert totals["balance"] == pytest.approx(1000 - totals["billed"] * 0.1)
        assert any(entry["client_gone"] for entry in books["entries"])


def test_books_can_be_read_from_where_one_left_off(client: Client) -> None:
    for seed in range(3):
        client.post(seed=seed)
    assert [entry["sequence"] for entry in client.sandbox.books(after=1)["entries"]] == [2, 3]
    assert client.sandbox.books(after=99)["entries"] == []
    assert client.get("/sandbox/books?after=x").status_code == 400


def test_a_reset_wants_json_so_that_no_web_page_can_send_it(client: Client) -> None:
    client.post()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.http.post(client.sandbox.url + "/sandbox/reset", data="", headers=form, timeout=10).status_code == 406
    assert client.sandbox.books()["totals"]["posts"] == 1


def test_the_account_can_be_set_and_wrong_values_are_refused(client: Client) -> None:
    url = client.sandbox.url + "/sandbox/account"
    assert client.http.put(url, json={"balance": 5, "rpm": 3}, timeout=10).json()["rpm"] == 3
    assert (
        client.http.put(url, json={"rpm": None}, timeout=10).json() | {"rpm": None}
        == client.http.get(url, timeout=10).json()
    )
    refused: tuple[Any, ...] = ({"balance": -1}, {"balance": "x"}, {"rpm": 0}, {"other": 1}, [], {"balance": 1e300})
    for wrong in refused:
        assert client.http.put(url, json=wrong, timeout=10).status_code == 400


def test_the_page_shows_what_goes_on_and_escapes_prompts(client: Client) -> None:
    client.sandbox.set_faults({"kind": "status", "status": 503, "share": 0.25, "after": 5})
    client.post(prompt="<script>alert('fox')</script>")
    client.post("v2", prompt="an owl")
    client.sandbox.wait_idle()
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    page = answer.text
    assert "<script>" not in page
    assert "&lt;script&gt;alert" in page
    for shown in ("$999.80", "$0.20", "status 503 on v1/submit, 25%, after 5", "an owl"):
        assert shown in page
    names = [part.partition('"')[0] for part in page.split('src="/sandbox/pictures/')[1:]]
    assert len(names) == 2
    assert picture(client.get(f"/sandbox/pictures/{names[0]}").content).size == SIZES["16:9"]
    assert client.get("/sandbox/pictures/none.png").status_code == 404
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_drawn_pictures_are_the_same_whoever_asks_and_come_from_memory_the_second_time() -> None:
    with running_sandbox(draw=True) as sandbox, running_sandbox(draw=True, seed=9) as other:
        first = Client(sandbox).post(prompt="a lake at dawn", seed=4)
        assert (
            hashlib.sha256(first.content).digest()
            == hashlib.sha256(Client(other).post(prompt="a lake at dawn", seed=4).content).digest()
        )
        assert Client(sandbox).post(prompt="a lake at dawn", seed=4).content == first.content
        assert Client(sandbox).post(prompt="a lake at dawn", seed=5).content != first.content


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert serve.__defaults__ is not None
    assert serve.__defaults__[0] == "127.0.0.1"
