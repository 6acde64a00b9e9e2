"""The landing page: what a person wants to see at a glance of a sandbox that runs."""

import time
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from kontext_pipeline.sandbox.account import to_usd
from kontext_pipeline.sandbox.answers import error
from kontext_pipeline.sandbox.gateway import Gateway

THUMBNAIL_WIDTH: Final = 480
"""Pixels, for 240 on a screen of double density."""
LATEST: Final = 12
"""Rows of the books that are shown."""
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


class Page:
    """`/` and its thumbnails."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._started = time.time()
        loader = PackageLoader("kontext_pipeline.sandbox")
        self._template = Environment(loader=loader, autoescape=select_autoescape()).get_template("page.html")

    def routes(self) -> list[Route]:
        """Return the routes to be mounted."""
        return [
            Route("/", self.index, methods=["GET"]),
            Route("/sandbox/thumbnails/{name}", self.thumbnail, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        """GET /: the page."""
        return HTMLResponse(self._template.render(self._facts(request)), headers=_HEADERS)

    async def thumbnail(self, request: Request) -> Response:
        """GET /sandbox/thumbnails/{name}: a recent picture, small."""
        name = request.path_params["name"]
        recent = next((one for one in self._gateway.run.recent if one.name == name), None)
        if recent is None:
            return error(404, "File not found or expired")
        small = await self._gateway.renderer.thumbnail(recent.recipe, THUMBNAIL_WIDTH)
        return Response(small, media_type="image/jpeg", headers={"cache-control": "max-age=3600"})

    def _facts(self, request: Request) -> dict[str, Any]:
        gateway = self._gateway
        run, config = gateway.run, gateway.config
        running = sum(entry.state == "RUNNING" for entry in run.books.entries)
        refused = sum(entry.state == "REFUSED" for entry in run.books.entries)
        plan = run.faults
        return {
            "base_url": str(request.base_url).rstrip("/"),
            "balance": run.account.remaining,
            "held": to_usd(run.account.held),
            "cost": to_usd(run.books.cost),
            "price": to_usd(run.account.price),
            "billed": run.books.billed,
            "posts": len(run.books.entries),
            "running": running,
            "refused": refused,
            "states": _counts(run.jobs.running()),
            "faults": [(fault.describe(), plan.struck[index]) for index, fault in enumerate(plan.faults)],
            "sources": config.fault_sources,
            "recent": list(run.recent),
            "entries": list(reversed(run.books.entries[-LATEST:])),
            "config": config,
            "rpm": run.account.rpm,
            "uptime": datetime.fromtimestamp(time.time() - self._started, UTC).strftime("%H:%M:%S"),
            "usd": to_usd,
        }


def _counts(jobs: list[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    return counts
