"""Backstage: what a client of the provider never sees. Books, faults, account and reset, under `/sandbox/`.

None of it needs a key: whoever reaches the sandbox may use it, which is one reason it binds to loopback.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.account import to_micro, to_usd
from kontext_pipeline.sandbox.answers import error
from kontext_pipeline.sandbox.faults import Fault, FaultPlan, load_profile
from kontext_pipeline.sandbox.gateway import Gateway

MAX_BODY_BYTES = 1024 * 1024


class FaultsBody(BaseModel):
    """Body of `PUT /sandbox/faults`: named profiles' faults first, then these."""

    model_config = ConfigDict(extra="forbid")

    profiles: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


class AccountBody(BaseModel):
    """Body of `PUT /sandbox/account`: what is named is set, the rest stays."""

    model_config = ConfigDict(extra="forbid")

    balance: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)
    rpm: int | None = Field(default=None, ge=1, le=1_000_000_000)
    team_spend_limit: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_only(cls, value: object) -> object:
        if isinstance(value, bool | str):
            raise ValueError("must be a number")
        return value


class Backstage:
    """The sandbox's own endpoints."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        """Return the routes to be mounted."""
        return [
            Route("/sandbox/books", self.books, methods=["GET"]),
            Route("/sandbox/faults", self.faults, methods=["GET", "PUT"]),
            Route("/sandbox/account", self.account, methods=["GET", "PUT"]),
            Route("/sandbox/reset", self.reset, methods=["POST"]),
        ]

    async def books(self, request: Request) -> Response:
        """GET /sandbox/books?after=SEQUENCE: totals, and every entry after that one."""
        after = request.query_params.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 12:
            return error(400, "after must be a sequence number")
        run = self._gateway.run
        return JSONResponse(
            run.books.to_json(balance=run.account.remaining, held=to_usd(run.account.held), after=int(after))
        )

    async def faults(self, request: Request) -> Response:
        """GET or PUT /sandbox/faults: what goes wrong from now on; counters start anew."""
        gateway = self._gateway
        if request.method == "PUT":
            try:
                body = FaultsBody.model_validate_json(await _json_body(request))
                shipped = [fault for name in body.profiles for fault in load_profile(name).fault]
            except (ValueError, SettingsError) as bad:
                return error(400, _words(bad))
            gateway.run.faults = FaultPlan((*shipped, *body.faults), gateway.config.seed)
        plan = gateway.run.faults
        return JSONResponse(
            {
                "seed": gateway.config.seed,
                "faults": [fault.model_dump(mode="json", exclude_defaults=True) for fault in plan.faults],
                "struck": [plan.struck[index] for index in range(len(plan.faults))],
            }
        )

    async def account(self, request: Request) -> Response:
        """GET or PUT /sandbox/account: balance and limits. A null limit is no limit."""
        account = self._gateway.run.account
        if request.method == "PUT":
            try:
                body = AccountBody.model_validate_json(await _json_body(request))
            except ValueError as bad:
                return error(400, _words(bad))
            if body.balance is not None:
                account.balance = to_micro(body.balance)
            if "rpm" in body.model_fields_set:
                account.rpm = body.rpm
            if "team_spend_limit" in body.model_fields_set:
                limit = body.team_spend_limit
                account.team_spend_limit = None if limit is None else to_micro(limit)
        limit_micro = account.team_spend_limit
        state: dict[str, Any] = {
            "balance": account.remaining,
            "held": to_usd(account.held),
            "spent": to_usd(account.spent),
            "price": to_usd(account.price),
            "rpm": account.rpm,
            "team_spend_limit": None if limit_micro is None else to_usd(limit_micro),
        }
        return JSONResponse(state)

    async def reset(self, request: Request) -> Response:
        """POST /sandbox/reset with `{}`: full balance, empty books, no jobs, the faults it was started with."""
        # A page in a browser can send a form to loopback, but not JSON without asking first.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return error(406, "Content-Type must be application/json")
        try:
            if not isinstance(json.loads(await _json_body(request)), dict):
                raise ValueError("the body must be a JSON object")
        except (ValueError, RecursionError) as bad:
            return error(400, _words(bad))
        self._gateway.reset()
        return JSONResponse({"reset": True})


async def _json_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"the body is larger than {MAX_BODY_BYTES:,} bytes")
    return bytes(body)


def _words(bad: Exception) -> str:
    if isinstance(bad, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in bad.errors())
    return str(bad)
