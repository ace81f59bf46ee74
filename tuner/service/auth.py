"""Who may do what: bearer tokens for programs, the same token in a cookie for the pages."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from db.records import TokenRecord
from db.store import Store
from tuner.service import tokens
from tuner.service.problems import ProblemError

COOKIE = "tuner_token"
KNOWN_TOKENS = 1024
"""Tokens that a server process remembers for a moment; unknown ones push each other out."""


@dataclass(frozen=True)
class Caller:
    """Who asks. ``key`` is the token's public part, None on an open server."""

    scopes: tuple[str, ...]
    key: str | None = None


OPEN = Caller(scopes=tokens.SCOPES)


class Guard:
    """Checks tokens against the database, with a memory of ``cache_s`` seconds; a revocation takes that long.

    A server that only this machine can reach asks for no token until the first one is made. From then on everybody
    needs one: revoking the last token closes the server, it does not open it.
    """

    def __init__(self, store: Store, *, loopback: bool, cache_s: float) -> None:
        self._store = store
        self._loopback = loopback
        self._cache_s = cache_s
        self._known: OrderedDict[str, tuple[float, TokenRecord | None]] = OrderedDict()
        self._closed = not loopback
        self._closed_until = float("inf") if not loopback else 0.0

    async def closed(self) -> bool:
        """Whether a token is needed."""
        now = time.monotonic()
        if not self._closed and now >= self._closed_until:
            self._closed = await asyncio.to_thread(self._store.has_tokens)
            self._closed_until = float("inf") if self._closed else now + self._cache_s
        return self._closed

    async def caller(self, token: str | None) -> Caller | None:
        """Who the token says, None if it does not hold or is missing where one is needed."""
        if not await self.closed():
            return OPEN
        found = tokens.parts(token) if token else None
        if found is None:
            return None
        key, secret = found
        record = await self._record(key)
        return Caller(record.scopes, key) if record is not None and tokens.holds(record, secret) else None

    async def _record(self, key: str) -> TokenRecord | None:
        now = time.monotonic()
        kept = self._known.get(key)
        if kept is not None and now - kept[0] < self._cache_s:
            return kept[1]
        record = await asyncio.to_thread(self._store.find_token, key)
        self._known[key] = (now, record)
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_TOKENS:
            self._known.popitem(last=False)
        return record


def presented(request: Request) -> str | None:
    """The token of a request: ``Authorization: Bearer``, else the pages' cookie."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.cookies.get(COOKIE)


async def reader(request: Request) -> Caller:
    """Dependency: the caller may read.

    Raises:
        ProblemError: 401.
    """
    guard: Guard = request.app.state.guard
    caller = await guard.caller(presented(request))
    if caller is None:
        raise ProblemError(
            401,
            "a valid token is needed: Authorization: Bearer TOKEN; `tuner token create` makes one",
            headers={"WWW-Authenticate": 'Bearer realm="tuner"'},
        )
    return caller


async def runner(request: Request, caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Dependency: the caller may start and stop sweeps.

    Raises:
        ProblemError: 401, or 403 with a token for reading only, or for a request that another site's page made.
    """
    if "run" not in caller.scopes:
        raise ProblemError(403, "this token may only read; a sweep needs one of scope 'run'")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ProblemError(403, "a page of another site may not do this")
    return caller


Reader = Annotated[Caller, Depends(reader)]
Runner = Annotated[Caller, Depends(runner)]
