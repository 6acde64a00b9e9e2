"""The gateway: the state that all endpoints share."""

import asyncio
import time

from starlette.responses import Response

from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Endpoint, Fault
from kontext_pipeline.sandbox.file_store import FileStore
from kontext_pipeline.sandbox.input_resolver import InputResolver
from kontext_pipeline.sandbox.renderer import Renderer
from kontext_pipeline.sandbox.responses import Refusal, from_fault
from kontext_pipeline.sandbox.session import Session


class Gateway:
    """The state that all endpoints share."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.session = Session(config, config.faults)
        self.files = FileStore(max_bytes=config.store_bytes, ttl_s=config.file_ttl_s)
        self.renderer = Renderer(self.files, draw=config.draw, cache_bytes=config.cache_bytes)
        self.inputs = InputResolver(config, self.files)
        self.in_flight: set[asyncio.Task[Response]] = set()
        """v1 generations. The event loop itself keeps no reference to them."""
        self.started = time.time()

    def reset(self) -> None:
        """Start a new session: full balance, empty log, no jobs, the configured faults."""
        self.session.close()
        self.session = Session(self.config, self.config.faults)

    def close(self) -> None:
        """Stop drawing and delete the stored files."""
        self.session.close()
        self.renderer.close()
        self.files.close()

    async def strike(self, session: Session, endpoint: Endpoint, identity: str, prompt: str = "") -> Fault | None:
        """Return the fault that strikes a GET or an upload, after the delay of slow ones.

        Raises:
            Refusal: the fault answers the request.
        """
        strike = session.faults.strike(endpoint, identity, prompt=prompt, posts=len(session.log.entries))
        if strike.delay_s:
            await asyncio.sleep(strike.delay_s / self.config.speed)
        if strike.fault is not None and strike.fault.refuses:
            raise Refusal(from_fault(strike.fault))
        return strike.fault
