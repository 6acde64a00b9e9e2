"""The admin interface under `/sandbox/`: request log, faults, account and reset. The provider has none of it.

It needs no key: everybody who reaches the sandbox may use it. That is one reason why it binds to loopback.
"""

from starlette.requests import Request
from starlette.responses import Response

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox import api_models as models
from kontext_pipeline.sandbox.account import to_micro, to_usd
from kontext_pipeline.sandbox.admission import read_json, require_json_type, validated
from kontext_pipeline.sandbox.faults import FaultPlan, load_profile
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.responses import Refusal, error, json_response

MAX_BODY_BYTES = 1024 * 1024


async def books(gateway: Gateway, request: Request) -> Response:
    """GET /sandbox/books?after=SEQUENCE: totals, and every log entry after that one."""
    after = request.query_params.get("after", "0")
    if not after.isascii() or not after.isdigit() or len(after) > 12:
        raise Refusal(error(400, "after must be a sequence number"))
    log, money = gateway.session.log, gateway.session.account
    totals = models.LogTotals(
        posts=len(log.entries),
        billed=log.billed,
        cost=to_usd(log.cost),
        running=log.count("RUNNING"),
        balance=to_usd(money.balance),
        held=to_usd(money.held),
    )
    page = models.LogPage.model_construct(totals=totals, entries=log.entries[int(after) :])
    return json_response(page, nulls=True)


async def faults(gateway: Gateway, request: Request) -> Response:
    """GET or PUT /sandbox/faults: the faults in force, and how often each has struck."""
    if request.method == "PUT":
        await _set_faults(gateway, request)
    plan = gateway.session.faults
    rows = [fault.model_dump(mode="json", exclude_defaults=True) for fault in plan.faults]
    struck = [plan.struck[index] for index in range(len(rows))]
    return json_response(models.Faults(seed=gateway.config.seed, faults=rows, struck=struck))


async def _set_faults(gateway: Gateway, request: Request) -> None:
    wanted = validated(models.SetFaults, (await read_json(request, MAX_BODY_BYTES))[0])
    try:
        shipped = [fault for name in wanted.profiles for fault in load_profile(name).fault]
    except SettingsError as unknown:
        raise Refusal(error(400, str(unknown))) from None
    gateway.session.faults = FaultPlan((*shipped, *wanted.faults), gateway.config.seed)


async def account(gateway: Gateway, request: Request) -> Response:
    """GET or PUT /sandbox/account: balance and limits. A PUT sets the fields that it names."""
    if request.method == "PUT":
        await _set_account(gateway, request)
    money = gateway.session.account
    limit = money.team_spend_limit
    state = models.AccountState(
        balance=to_usd(money.balance),
        held=to_usd(money.held),
        spent=to_usd(money.spent),
        price=to_usd(money.price),
        rpm=money.rpm,
        team_spend_limit=None if limit is None else to_usd(limit),
    )
    return json_response(state, nulls=True)


async def _set_account(gateway: Gateway, request: Request) -> None:
    money = gateway.session.account
    wanted = validated(models.SetAccount, (await read_json(request, MAX_BODY_BYTES))[0])
    limit = wanted.team_spend_limit
    if wanted.balance is not None:
        money.balance = to_micro(wanted.balance)
    if "rpm" in wanted.model_fields_set:
        money.rpm = wanted.rpm
    if "team_spend_limit" in wanted.model_fields_set:
        money.team_spend_limit = None if limit is None else to_micro(limit)


async def reset(gateway: Gateway, request: Request) -> Response:
    """POST /sandbox/reset with `{}`: full balance, empty log, no jobs, the faults of the start."""
    # A page in a browser can send a form to loopback, but no JSON unless it is allowed to.
    require_json_type(request)
    body, _ = await read_json(request, MAX_BODY_BYTES)
    if not isinstance(body, dict):
        raise Refusal(error(400, "the body must be a JSON object"))
    gateway.reset()
    return json_response(models.ResetDone())
