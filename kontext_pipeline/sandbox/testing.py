"""For tests, ours and other people's: a sandbox on a free port, its key, its faults and its books.

    pytest_plugins = ["kontext_pipeline.sandbox.testing"]

    def test_my_client(kontext_sandbox):
        my_client(base_url=kontext_sandbox.url, api_key=kontext_sandbox.api_key)
        assert kontext_sandbox.books()["totals"]["billed"] == 1

Without pytest, `running_sandbox` is the same as a context manager.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import requests

from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Fault
from kontext_pipeline.sandbox.server import build_server, listen

TEST_KEY: Final = "SG_0123456789abcdef"
"""A key of the right form; a sandbox takes any such key unless `keys` names others."""
START_S: Final = 10.0
"""Seconds to wait for the server's thread."""
TEST_SPEED: Final = 1000.0
"""Speed unless a test says otherwise: a generation takes about 24 ms."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. Everything is asked for over HTTP, as another process would."""

    url: str
    """`http://127.0.0.1:PORT`: the base URL; the SDK wants `/v1` after it."""
    api_key: str
    config: SandboxConfig
    _http: requests.Session = field(default_factory=requests.Session, repr=False)

    def books(self, *, after: int = 0) -> dict[str, Any]:
        """Return what the sandbox billed: `totals`, and `entries`, one a POST, after sequence number `after`."""
        return self._call("GET", f"/sandbox/books?after={after}")

    def set_faults(self, *faults: Fault | dict[str, Any], profiles: Sequence[str] = ()) -> None:
        """Put these faults in force, and no others: shipped profiles' first, then `faults` (none: all is well).

        A dict has a fault file's fields: `{"kind": "status", "status": 502, "times": 1}`.
        """
        rows = [f.model_dump(mode="json") if isinstance(f, Fault) else f for f in faults]
        self._call("PUT", "/sandbox/faults", {"profiles": list(profiles), "faults": rows})

    def set_account(self, **fields: float | None) -> None:
        """Set `balance`, `rpm` or `team_spend_limit`, as a top-up or a change of plan does."""
        self._call("PUT", "/sandbox/account", fields)

    def reset(self) -> None:
        """Start anew: full balance, empty books, no jobs, the faults it was started with."""
        self._call("POST", "/sandbox/reset", {})

    def wait_idle(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until no generation is running, and return the books. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (books := self.books())["totals"]["running"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{books['totals']['running']} generations still run after {timeout_s:g} s")
            time.sleep(0.02)
        return books

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._http.request(method, self.url + path, json=body, timeout=30)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
        return result


@contextlib.contextmanager
def running_sandbox(config: SandboxConfig | None = None, **fields: Any) -> Iterator[Sandbox]:
    """Run a sandbox in a thread of this process, on a free port of 127.0.0.1.

    `fields` are `SandboxConfig.create`'s (`profiles=("lossy",)`, `faults=(...)`, `balance=...`). Unless
    they say otherwise pictures are plain and time passes a thousand times as fast.
    """
    if config is None:
        config = SandboxConfig.create(**{"speed": TEST_SPEED, "draw": False, **fields})
    with listen("127.0.0.1", 0) as listener:
        # What still runs when a test is over is of no interest: no second of grace, no complaint about it.
        server = build_server(config, timeout_graceful_shutdown=0, log_level="critical")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
        thread.start()
        deadline = time.monotonic() + START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the sandbox did not start")
            time.sleep(0.005)
        session = requests.Session()
        # Proxies of the environment are for the internet, not for this machine.
        session.trust_env = False
        key = config.keys[0] if config.keys else TEST_KEY
        try:
            yield Sandbox(f"http://127.0.0.1:{listener.getsockname()[1]}", key, config, session)
        finally:
            session.close()
            server.should_exit = True
            thread.join(START_S)


if TYPE_CHECKING:
    kontext_sandbox: Callable[..., Sandbox]
else:
    with contextlib.suppress(ImportError):
        import pytest

        @pytest.fixture
        def kontext_sandbox(request: Any) -> Iterator[Sandbox]:
            """A fresh sandbox for one test; `@pytest.mark.parametrize(..., indirect=True)` passes a dict of fields."""
            with running_sandbox(**(getattr(request, "param", None) or {})) as sandbox:
                yield sandbox
