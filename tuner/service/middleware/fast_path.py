"""A fast path for the lookup: plain requests, nearly all of them, do without the framework's routing and dependencies.

Those cost nearly half of the 516 us of processor time that a lookup takes in the application through its route (275 us
here; docs/service.md), so the figures of that page need this. What is asked and how it is answered is written once, in
:mod:`tuner.service.models` and :func:`tuner.service.best.respond`; here a request is only taken apart. The route
remains the documented one, and whatever is unusual about a request goes there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from db.errors import StoreError
from tuner.service.best import respond
from tuner.service.middleware.auth import bearer
from tuner.service.middleware.problems import ProblemError, answer
from tuner.service.models import Lookup, LookupHeaders

PATH = "/api/v1/best-config"
HEADERS = {b"authorization", *(name.replace("_", "-").encode() for name in LookupHeaders.model_fields)}


class FastPath:
    """ASGI middleware between the rate limiter and the routes.

    Args:
        app: The next ASGI application.
        state: The application's state, with the guard and the answers.
    """

    path = PATH
    """The name in the metrics, the same as the route's."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lookup = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "GET"
        response = await self._answer(scope) if lookup else None
        await (self._app if response is None else response)(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response | None:
        """The response, None if the route has to handle the request."""
        asked, headers = question(scope["query_string"]), sole(scope["headers"])
        if asked is None or headers is None:
            return None
        try:
            told = LookupHeaders.model_validate(headers)
            if await self._state.guard.caller(bearer(headers.get("authorization", ""))) is None:
                return None
            response = await respond(self._state.best, asked, told)
        except (StoreError, ValidationError):
            return None
        except ProblemError as problem:
            response = answer(problem)
        scope["route"] = self
        return response


@functools.lru_cache(maxsize=4096)
def question(query: bytes) -> Lookup | None:
    """What a query asks; None if anything about it is unusual."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        given: dict[str, Any] = dict(pairs)
        axes = [value for name, value in pairs if name == "axes"]
        if axes:
            given["axes"] = axes
        is_usual = given.keys() <= Lookup.model_fields.keys() and len(pairs) == len(given) + max(len(axes) - 1, 0)
        return Lookup.model_validate(given) if is_usual else None
    except ValueError:
        return None


def sole(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str] | None:
    """The headers that matter here; None if one is repeated, or if the caller uses a cookie."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in HEADERS:
            text = name.decode().replace("-", "_")
            if text in found:
                return None
            found[text] = value.decode("latin-1")
        elif name == b"cookie":
            return None
    return found
