"""Test support: a sandbox in a thread on a free port, its key, its faults and its request log."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import requests

from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Fault
from kontext_pipeline.sandbox.server import serve_in_thread

TEST_KEY: Final = "SG_0123456789abcdef"
"""A key of the right form. A sandbox accepts every such key unless `keys` names others."""
TEST_SPEED: Final = 1000.0
"""The default speed: a generation takes about 24 ms."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox, used over HTTP as another process would use it."""

    url: str
    """`http://127.0.0.1:PORT`: the base URL. The SDK needs `/v1` after it."""
    api_key: str
    config: SandboxConfig
    _http: requests.Session = field(default_factory=requests.Session, repr=False)

    def books(self, *, after: int = 0) -> dict[str, Any]:
        """Return the request log: `totals`, and the `entries` (one per POST) after sequence number `after`."""
        return self._call("GET", f"/sandbox/books?after={after}")

    def set_faults(self, *faults: Fault | dict[str, Any], profiles: Sequence[str] = ()) -> None:
        """Put only these faults in force: those of shipped profiles first, then `faults`.

        A dict has the fields of a fault file: `{"kind": "status", "status": 502, "times": 1}`.
        """
        rows = [f.model_dump(mode="json") if isinstance(f, Fault) else f for f in faults]
        self._call("PUT", "/sandbox/faults", {"profiles": list(profiles), "faults": rows})

    def set_account(self, **fields: float | None) -> None:
        """Set `balance`, `rpm` or `team_spend_limit`, as a top-up or a change of plan does."""
        self._call("PUT", "/sandbox/account", fields)

    def reset(self) -> None:
        """Start anew: full balance, empty log, no jobs, the faults of the start."""
        self._call("POST", "/sandbox/reset", {})

    def wait_idle(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until no generation is running, and return the request log. Raises TimeoutError."""
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

    `fields` are those of `SandboxConfig.create` (`profiles=("lossy",)`, `faults=(...)`, `balance=...`). By default
    pictures are plain and time passes a thousand times as fast.
    """
    if config is None:
        config = SandboxConfig.create(**{"speed": TEST_SPEED, "draw": False, **fields})
    with serve_in_thread(config) as url, requests.Session() as session:
        # Proxies of the environment are for the internet, not for this machine.
        session.trust_env = False
        yield Sandbox(url, config.keys[0] if config.keys else TEST_KEY, config, session)


@pytest.fixture
def kontext_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A fresh sandbox for one test; `@pytest.mark.parametrize(..., indirect=True)` passes a dict of fields."""
    with running_sandbox(**(getattr(request, "param", None) or {})) as sandbox:
        yield sandbox
