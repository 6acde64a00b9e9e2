"""The admin interface: the page at `/`, and under `/sandbox/` request log, faults, account and reset.

The provider has none of it. It needs no key: everybody who reaches the sandbox may use it. That is one reason why
it binds to loopback.
"""

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Final

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.escaping import displayable
from kontext_pipeline.sandbox import api_models as models
from kontext_pipeline.sandbox.account import MICRO
from kontext_pipeline.sandbox.admission import base_url, read_json, require_json_type, validated
from kontext_pipeline.sandbox.endpoints import file_not_found
from kontext_pipeline.sandbox.faults import FaultPlan, load_profile
from kontext_pipeline.sandbox.responses import Refusal, error, json_response
from kontext_pipeline.sandbox.session import Gateway

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_SHOWN: Final = 12
"""Pictures, and entries of the request log, on the page."""
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
_TEMPLATE: Final = Environment(
    loader=PackageLoader("kontext_pipeline.sandbox"),
    autoescape=select_autoescape(),
    # Not of its subclass `Markup`, which is escaped already.
    finalize=lambda value: displayable(value) if type(value) is str else value,
).get_template("page.html")


async def page(gateway: Gateway, request: Request) -> Response:
    """GET /: the state of the sandbox at a glance."""
    session, plan = gateway.session, gateway.session.faults
    html = _TEMPLATE.render(
        session=session,
        config=gateway.config,
        micro=MICRO,
        base_url=base_url(request),
        states=Counter(entry.state for entry in session.log),
        jobs=Counter(job.state for job in session.records.newest_first() if job.ended is None),
        pictures=session.outputs.newest_first()[:MAX_SHOWN],
        faults=[(fault.describe(), plan.struck[index]) for index, fault in enumerate(plan.faults)],
        entries=session.log[: -MAX_SHOWN - 1 : -1],
        uptime=datetime.fromtimestamp(time.time() - gateway.started, UTC).strftime("%H:%M:%S"),
    )
    return HTMLResponse(html, headers=_HEADERS)


async def picture(gateway: Gateway, request: Request) -> Response:
    """GET /sandbox/pictures/{name}: a picture for the page. Unlike `/files/outputs/`, no fault strikes it."""
    job = gateway.session.outputs.find(request.path_params["name"])
    if job is None:
        raise file_not_found()
    content = await gateway.renderer.picture(job.spec)
    return Response(content, media_type=job.spec.media_type, headers={"cache-control": "max-age=3600"})


async def books(gateway: Gateway, request: Request) -> Response:
    """GET /sandbox/books?after=SEQUENCE: totals, and every log entry after that one."""
    after = request.query_params.get("after", "0")
    if not after.isascii() or not after.isdigit() or len(after) > 12:
        raise Refusal(error(400, "after must be a sequence number"))
    log, account = gateway.session.log, gateway.session.account
    totals = models.LogTotals.model_construct(
        posts=len(log),
        billed=sum(entry.billed for entry in log),
        cost=account.spent,
        running=sum(entry.state == "RUNNING" for entry in log),
        balance=account.balance,
        held=account.held,
    )
    return json_response(models.LogPage.model_construct(totals=totals, entries=log[int(after) :]), nulls=True)


async def faults(gateway: Gateway, request: Request) -> Response:
    """GET or PUT /sandbox/faults: the faults in force, and how often each has struck."""
    if request.method == "PUT":
        wanted = validated(models.SetFaults, (await read_json(gateway, request, MAX_BODY_BYTES))[0])
        try:
            shipped = [fault for name in wanted.profiles for fault in load_profile(name).fault]
        except SettingsError as unknown:
            raise Refusal(error(400, str(unknown))) from None
        gateway.session.faults = FaultPlan((*shipped, *wanted.faults), gateway.config.seed)
    plan = gateway.session.faults
    rows = [fault.model_dump(mode="json", exclude_defaults=True) for fault in plan.faults]
    struck = [plan.struck[index] for index in range(len(rows))]
    return json_response(models.Faults(seed=gateway.config.seed, faults=rows, struck=struck))


async def account(gateway: Gateway, request: Request) -> Response:
    """GET or PUT /sandbox/account: balance and limits. A PUT sets the fields that it names."""
    state = gateway.session.account
    if request.method == "PUT":
        wanted = validated(models.SetAccount, (await read_json(gateway, request, MAX_BODY_BYTES))[0])
        for name in wanted.model_fields_set:
            value = getattr(wanted, name)
            if value is not None or name != "balance":
                setattr(state, name, value if name == "rpm" or value is None else round(value * MICRO))
    return json_response(state, nulls=True)


async def reset(gateway: Gateway, request: Request) -> Response:
    """POST /sandbox/reset with `{}`: full balance, empty log, no jobs, the faults of the start."""
    # A page in a browser can send a form to loopback, but no JSON unless it is allowed to.
    require_json_type(request)
    body, _ = await read_json(gateway, request, MAX_BODY_BYTES)
    if not isinstance(body, dict):
        raise Refusal(error(400, "the body must be a JSON object"))
    gateway.reset()
    return JSONResponse({"reset": True})
