"""The review page's server: the page's files, rows by pages, pictures and thumbnails, and decisions that are written."""

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from upath import UPath

from kontext_pipeline.dataset.review import overview
from kontext_pipeline.dataset.review.decisions import Decision, DecisionLog, ReviewError, Verdict
from kontext_pipeline.dataset.review.page_guard import PageGuard, cookie_name
from kontext_pipeline.dataset.review.review_rows import Filters, Numbers, ReviewRows, is_picture
from kontext_pipeline.dataset.thumbnails import ThumbnailCache
from kontext_pipeline.errors import KontextError
from kontext_pipeline.escaping import displayable

THUMBNAIL_PX: Final = 256
MOST_ROWS: Final = 200
"""Most rows of one answer."""
MOST_DECISIONS: Final = 1000
"""Most decisions of one request."""
_MOST_BODY_BYTES: Final = 1_000_000
_VIEWS_KEPT: Final = 50
_FOREVER: Final = {"Cache-Control": "private, max-age=31536000, immutable"}
_TYPES: Final = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
}
PAGE_FILES: Final = {"css": "text/css", "js": "text/javascript", "html": "text/html", "svg": "image/svg+xml"}
"""Types of the page's files, by extension."""


def page_file(name: str) -> str:
    """Return the text of a file of the page.

    Raises:
        FileNotFoundError: There is none.
    """
    return (files("kontext_pipeline.dataset.review") / "page" / name).read_text(encoding="utf-8")


def create_app(data_dir: UPath, *, token: str, port: int, reviewer: str) -> ASGIApp:
    """Return the server of a data directory's review.

    Raises:
        ReviewError: There are no rows, or the decisions can't be read.
        DatasetError: A table can't be read.
    """
    page = _Page(data_dir, token=token, port=port, reviewer=reviewer)
    routes = [
        Route("/", page.index),
        Route("/page/{name}", page.file),
        Route("/api/summary", page.summary),
        Route("/api/view", page.view),
        Route("/api/rows", page.rows),
        Route("/api/decisions", page.decide, methods=["POST"]),
        Route("/thumbnail/{kind}/{name}", page.thumbnail),
        Route("/picture/{kind}/{name}", page.picture),
    ]
    handlers: dict[Any, Callable[..., Any]] = {KontextError: _user_error, OSError: _disk_error}
    return PageGuard(Starlette(routes=routes, exception_handlers=handlers), token=token, port=port)


class _Page:
    """The endpoints, and the rows that they share."""

    def __init__(self, data_dir: UPath, *, token: str, port: int, reviewer: str) -> None:
        self._data_dir = data_dir
        self._token = token
        self._cookie = cookie_name(port)
        self._reviewer = reviewer
        self._lock = threading.Lock()
        self._log = DecisionLog(data_dir)
        self._thumbnails = ThumbnailCache(THUMBNAIL_PX)
        self._load()

    def _load(self) -> None:
        self._rows = ReviewRows(self._data_dir)
        self._views: OrderedDict[str, Numbers] = OrderedDict()
        self._pictures = {
            "output": _paths(self._rows, "fingerprint", "image_path"),
            "input": _paths(self._rows, "input_kept_sha256", "input_path"),
        }
        self._hashes = dict(_pairs(self._rows, "fingerprint", "image_sha256"))

    def index(self, _: Request) -> Response:
        """Return the page. The token of the address becomes a cookie, which no other site's request carries."""
        response = Response(page_file("index.html"), media_type="text/html")
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response

    def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = PAGE_FILES.get(name.rpartition(".")[2])
        try:
            if kind is None:
                raise FileNotFoundError
            return Response(page_file(name), media_type=kind)
        except FileNotFoundError:
            raise HTTPException(404) from None

    def summary(self, _: Request) -> Response:
        """Return coverage, facets and figures. The tables are read again here if a run has written some."""
        with self._lock:
            if self._rows.out_of_date:
                self._load()
            rows = self._rows
        rows.refresh_decisions()
        return JSONResponse(summary_of(rows, self._reviewer))

    def view(self, request: Request) -> Response:
        """Filter the rows. The view keeps its rows and their order while decisions are made."""
        rows = self._rows
        rows.refresh_decisions()
        given = {name: request.query_params.get(name, "") for name in Filters.__dataclass_fields__}
        selected = rows.select(Filters(**given))
        name = secrets.token_hex(8)
        with self._lock:
            self._views[name] = selected
            while len(self._views) > _VIEWS_KEPT:
                self._views.popitem(last=False)
        return JSONResponse({"view": name, "total": len(selected), "rows": rows.records(selected[:100])})

    def rows(self, request: Request) -> Response:
        """Return rows of a view by `offset` and `limit`, or the rows `n`, separated by commas."""
        rows = self._rows
        if listed := request.query_params.get("n"):
            numbers = [_number(text, len(rows)) for text in listed.split(",")[:MOST_ROWS]]
            return JSONResponse({"rows": rows.records(numbers)})
        selected = self._views.get(request.query_params.get("view", ""))
        if selected is None:
            raise HTTPException(410, "The rows have changed. Filter again.")
        offset = _number(request.query_params.get("offset", "0"), len(selected) + 1)
        limit = min(_number(request.query_params.get("limit", "100"), 10**6), MOST_ROWS)
        return JSONResponse({"rows": rows.records(selected[offset : offset + limit])})

    async def decide(self, request: Request) -> Response:
        """Record decisions, and return the coverage."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "The decisions are JSON.")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BODY_BYTES:
                raise HTTPException(413, "These are too many decisions at once.")
        return await run_in_threadpool(self._record, body)

    def _record(self, body: bytes) -> Response:
        rows, now = self._rows, datetime.now(UTC)
        try:
            given = json.loads(body)
            reviewer = _text(given.get("reviewer", "")) or self._reviewer
            decisions = [self._decision(one, reviewer, now) for one in given["decisions"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HTTPException(400, 'Decisions are {"decisions": [{"fingerprint", "decision", "reason"}]}.') from None
        if len(decisions) > MOST_DECISIONS:
            raise HTTPException(413, "These are too many decisions at once.")
        self._log.append(decisions)
        rows.take_in(decisions)
        return JSONResponse({"coverage": overview.coverage(rows)})

    def _decision(self, given: Any, reviewer: str, now: datetime) -> Decision:
        fingerprint, decision = _text(given["fingerprint"]), _text(given["decision"])
        if fingerprint not in self._rows or decision not in ("keep", "reject", ""):
            raise ValueError
        return Decision(fingerprint, cast("Verdict", decision), _text(given.get("reason", "")), reviewer, now)

    def thumbnail(self, request: Request) -> Response:
        path = self._path(request)
        name = request.path_params["name"]
        made = self._thumbnails.get(self._hashes.get(name) or name, path)
        if made is None:
            raise HTTPException(404, "The picture is missing or can't be read.")
        return Response(made, media_type="image/jpeg", headers=_FOREVER)

    def picture(self, request: Request) -> Response:
        path = self._path(request)
        kind = _TYPES.get(path.suffix.lower().removeprefix("."), "application/octet-stream")
        try:
            return Response(path.read_bytes(), media_type=kind, headers=_FOREVER)
        except FileNotFoundError:
            raise HTTPException(404, "The picture is missing.") from None

    def _path(self, request: Request) -> UPath:
        """Return the path of a picture of the table: no part of an address is ever a part of a path."""
        path = self._pictures.get(request.path_params["kind"], {}).get(request.path_params["name"])
        if path is None:
            raise HTTPException(404)
        return self._data_dir / path


def summary_of(rows: ReviewRows, reviewer: str) -> dict[str, Any]:
    """Return all that the page shows beside rows."""
    return {
        "dataset": displayable(str(rows.data_dir)),
        "reviewer": displayable(reviewer),
        "coverage": overview.coverage(rows),
        "by_batch": overview.coverage_by_batch(rows),
        "facets": overview.facets(rows),
        "figures": overview.figures(rows),
    }


def _pairs(rows: ReviewRows, key: str, value: str) -> list[tuple[str, str]]:
    table = rows.table.select([key, value])
    table = table.filter(table[key].is_valid()).filter(table.filter(table[key].is_valid())[value].is_valid())
    return list(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))


def _paths(rows: ReviewRows, key: str, value: str) -> dict[str, str]:
    return {name: path for name, path in _pairs(rows, key, value) if is_picture(path)}


def _number(text: str, end: int) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) >= end:
        raise HTTPException(400, "There is no such row.")
    return int(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _user_error(_: Request, error: Exception) -> Response:
    return PlainTextResponse(displayable(str(error)), 500)


def _disk_error(_: Request, error: Exception) -> Response:
    reason = getattr(error, "strerror", None) or error
    return PlainTextResponse(displayable(f"The data directory can't be read or written: {reason}"), 500)


__all__ = ["ReviewError", "create_app", "page_file", "summary_of"]
