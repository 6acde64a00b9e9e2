"""The landing page: the state of a running sandbox at a glance."""

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Final

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kontext_pipeline.sandbox.account import to_usd
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.own_urls import base_url
from kontext_pipeline.sandbox.uploads import file_not_found

THUMBNAIL_WIDTH: Final = 480
"""Pixels: 240 on a screen of double density."""
MAX_PICTURES: Final = 12
MAX_ENTRIES: Final = 12
"""Entries of the request log that are shown."""
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


_TEMPLATE: Final = Environment(
    loader=PackageLoader("kontext_pipeline.sandbox"), autoescape=select_autoescape()
).get_template("page.html")


async def index(gateway: Gateway, request: Request) -> Response:
    """GET /: the page."""
    session, plan = gateway.session, gateway.session.faults
    html = _TEMPLATE.render(
        session=session,
        config=gateway.config,
        usd=to_usd,
        base_url=base_url(request),
        jobs=Counter(job.state for job in session.records.newest_first() if job.ended is None),
        pictures=session.outputs.newest_first()[:MAX_PICTURES],
        faults=[(fault.describe(), plan.struck[index]) for index, fault in enumerate(plan.faults)],
        entries=session.log.entries[: -MAX_ENTRIES - 1 : -1],
        uptime=datetime.fromtimestamp(time.time() - gateway.started, UTC).strftime("%H:%M:%S"),
    )
    return HTMLResponse(html, headers=_HEADERS)


async def thumbnail(gateway: Gateway, request: Request) -> Response:
    """GET /sandbox/thumbnails/{name}: a generated picture, small."""
    job = gateway.session.outputs.find(request.path_params["name"])
    if job is None:
        raise file_not_found()
    small = await gateway.renderer.thumbnail(job.spec, THUMBNAIL_WIDTH)
    return Response(small, media_type="image/jpeg", headers={"cache-control": "max-age=3600"})
