"""Errors as RFC 9457 problem documents. They hold no paths and no stack traces."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from db.errors import NoSuchSweep, StoreError, SweepBusy

MEDIA_TYPE = "application/problem+json"

logger = logging.getLogger("tuner.service")


_DETAILS = {
    404: "there is nothing at this address",
    405: "this address does not know that method",
    413: "the body is too long",
}


class ProblemDocument(BaseModel):
    """A problem document."""

    type: str = Field("about:blank", description="what kind of problem, 'about:blank' if the status says it all")
    title: str = Field(description="the same for every problem of this type")
    status: int = Field(description="the HTTP status")
    detail: str = Field("", description="what happened here, with which value, and what is allowed")
    errors: list[dict[str, str]] = Field([], description="for invalid input: where, and what is wrong")


class ProblemError(Exception):
    """Ends a request with a problem document.

    Args:
        status: HTTP status.
        detail: One line for the client.
        kind: Short name of the problem's type, None if the status is enough.
        title: Title of that type.
        headers: Headers of the response.
        more: Extension members.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.kind, self.title = kind, title
        self.headers, self.more = dict(headers or {}), dict(more or {})


def document(status: int, detail: str, *, kind: str | None = None, title: str | None = None) -> dict[str, Any]:
    """The members that every problem document has."""
    return {
        "type": f"urn:tuner:problem:{kind}" if kind else "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


def answer(error: ProblemError) -> JSONResponse:
    """The response for a problem."""
    body = document(error.status, error.detail, kind=error.kind, title=error.title) | error.more
    return JSONResponse(body, error.status, headers=error.headers, media_type=MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries for the problems that a route answers with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


def install(app: FastAPI) -> None:
    """Turn every error into a problem document, or for browsers a page (``app.state.error_page``)."""

    async def respond(request: Request, error: ProblemError) -> Response:
        try:
            reply: Response = await request.app.state.error_page(request, error)
            return reply
        except StoreError:  # in a thread: the page asks the database who the visitor is
            return answer(error)

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, error: ProblemError) -> Response:
        return await respond(request, error)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        detail = _DETAILS.get(error.status_code, HTTPStatus(error.status_code).phrase)
        return await respond(request, ProblemError(error.status_code, detail, headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        wrong = [{"where": ".".join(map(str, e["loc"])), "what": str(e["msg"])} for e in error.errors()[:20]]
        detail = f"{wrong[0]['where']}: {wrong[0]['what']}" if wrong else "the input is not valid"
        problem = ProblemError(422, detail, kind="invalid-input", title="Invalid input", more={"errors": wrong})
        return await respond(request, problem)

    @app.exception_handler(NoSuchSweep)
    async def on_missing(request: Request, error: NoSuchSweep) -> Response:
        return await respond(request, ProblemError(404, str(error)))

    @app.exception_handler(SweepBusy)
    async def on_busy(_: Request, error: SweepBusy) -> Response:
        return answer(ProblemError(409, "another process holds the sweep", kind="sweep-busy", title="Sweep is busy"))

    @app.exception_handler(StoreError)
    async def on_store(request: Request, error: StoreError) -> Response:
        logger.error("store: %s", error)  # the message is kept back: it names files and hosts
        problem = ProblemError(503, "the database does not answer; try again", headers={"Retry-After": "2"})
        return await respond(request, problem)

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> Response:
        logger.error("internal error", exc_info=error)
        return answer(ProblemError(500, "internal error; the server's log has the reason"))
