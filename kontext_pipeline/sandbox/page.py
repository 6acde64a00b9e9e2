"""The landing page: the state of a running sandbox at a glance."""

import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Final

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from kontext_pipeline.sandbox.account import to_usd
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.own_urls import base_url
from kontext_pipeline.sandbox.uploads import file_not_found

THUMBNAIL_WIDTH: Final = 480
"""Pixels: 240 on a screen of double density."""
MAX_ENTRIES: Final = 12
"""Entries of the request log that are shown."""
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


def routes(gateway: Gateway) -> list[Route]:
    """Return the routes of the page and its thumbnails."""
    environment = Environment(
        loader=PackageLoader("kontext_pipeline.sandbox"), autoescape=select_autoescape()
    )
    environment.globals.update(usd=to_usd, config=gateway.config)
    template, started = environment.get_template("page.html"), time.time()

    async def index(request: Request) -> Response:
        """GET /: the page."""
        session = gateway.session
        plan = session.faults
        html = template.render(
            session=session,
            base_url=base_url(request),
            states=Counter(job.state for job in session.jobs.running()),
            faults=[(fault.describe(), plan.struck[index]) for index, fault in enumerate(plan.faults)],
            entries=session.log.entries[: -MAX_ENTRIES - 1 : -1],
            uptime=datetime.fromtimestamp(time.time() - started, UTC).strftime("%H:%M:%S"),
        )
        return HTMLResponse(html, headers=_HEADERS)

    return [
        Route("/", index, methods=["GET"]),
        Route("/sandbox/thumbnails/{name}", partial(thumbnail, gateway), methods=["GET"]),
    ]


async def thumbnail(gateway: Gateway, request: Request) -> Response:
    """GET /sandbox/thumbnails/{name}: a recent picture, small."""
    for recent in gateway.session.recent:
        if recent.name == request.path_params["name"]:
            small = await gateway.renderer.thumbnail(recent.spec, THUMBNAIL_WIDTH)
            return Response(small, media_type="image/jpeg", headers={"cache-control": "max-age=3600"})
    raise file_not_found()
