"""A fast path for the lookup: well-formed requests, nearly all of them, skip the framework's validation.

That validation costs several times as much as the answer. The route in :mod:`tuner.service.api` remains the documented
one and the only one that refuses: any unusual request goes there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from db.errors import StoreError
from tuner.errors import UsageError
from tuner.service.best import HARDWARE_HEADER, NOTHING, reply
from tuner.service.metrics import LOOKUPS
from tuner.service.middleware.auth import bearer
from tuner.service.models import AXIS, HARDWARE, MAX_AXES, MAX_ETAGS, NAME

PATH = "/api/v1/best-config"
HEADERS = {b"authorization", b"if-none-match", HARDWARE_HEADER.lower().encode()}

_NAME, _AXIS, _HARDWARE = (re.compile(pattern.removesuffix("$")) for pattern in (NAME, AXIS, HARDWARE))


class Lane:
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

    async def _answer(self, scope: Scope) -> Any | None:
        """The response, None if the route has to handle the request."""
        asked, headers = question(scope["query_string"]), sole(scope["headers"])
        if asked is None or headers is None:
            return None
        definition, axes, hardware = asked
        if hardware == "auto":
            hardware = headers.get(HARDWARE_HEADER.lower())
            if hardware is None or not _HARDWARE.fullmatch(hardware):
                return None
        known = headers.get("if-none-match")
        if known is not None and len(known) > MAX_ETAGS:
            return None
        try:
            if await self._state.guard.caller(bearer(headers.get("authorization", ""))) is None:
                return None
            answer, age_s = await self._state.best.answer(definition, dict(axes), hardware)
        except (StoreError, UsageError):
            return None
        if answer is NOTHING:
            return None
        LOOKUPS.labels(answer.found).inc()
        scope["route"] = self
        return reply(answer, age_s, known)


@functools.lru_cache(maxsize=4096)
def question(query: bytes) -> tuple[str, tuple[tuple[str, int], ...], str | None] | None:
    """Definition, axes and hardware of a query; None if anything about it is unusual."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        return None
    given: dict[str, str] = {}
    axes: list[tuple[str, int]] = []
    for name, value in pairs:
        if name == "axes" and _AXIS.fullmatch(value) and len(axes) < MAX_AXES:
            axis, _, size = value.partition("=")
            axes.append((axis, int(size)))
        elif name in ("definition", "hardware", "objective") and name not in given:
            given[name] = value
        else:
            return None
    hardware = given.get("hardware")
    right = (
        _NAME.fullmatch(given.get("definition", "")) is not None
        and (hardware is None or _HARDWARE.fullmatch(hardware) is not None)
        and given.get("objective", "latency") == "latency"
    )
    return (given["definition"], tuple(axes), hardware) if right else None


def sole(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str] | None:
    """The headers that matter here; None if one is repeated, or if the caller uses a cookie."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in HEADERS:
            text = name.decode()
            if text in found:
                return None
            found[text] = value.decode("latin-1")
        elif name == b"cookie":
            return None
    return found
