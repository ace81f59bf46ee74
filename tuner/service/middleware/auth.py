"""Authorisation: bearer tokens for programs, the same token in a cookie for the pages."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from db.records import TokenRecord
from db.store import Store
from tuner.service import tokens
from tuner.service.middleware.problems import ProblemError

COOKIE = "tuner_token"


@dataclass(frozen=True)
class Caller:
    """Who sends the request. ``key`` is the token's public part, None on an open server."""

    scopes: tuple[str, ...]
    key: str | None = None


OPEN = Caller(scopes=tokens.SCOPES)


class TokenGuard:
    """Checks tokens against the database at each request, so that a revocation counts at once, in every process.

    Requests that arrive while a query runs share the next query: no answer is older than its question, and under load
    one query serves many requests. Owned by one event loop.

    A server that only this machine can reach needs no token until the first one is made. From then on everybody needs
    one: revoking the last token closes the server, it does not open it.
    """

    def __init__(self, store: Store, *, loopback: bool) -> None:
        self._store = store
        self._closed = not loopback
        self._asked: set[str] = set()
        self._next: asyncio.Task[Mapping[str, TokenRecord]] | None = None
        self._turn = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """Whether a token was needed at the last request."""
        return self._closed

    async def caller(self, token: str | None) -> Caller | None:
        """The caller that a token stands for; None if it is not active, or missing although one is needed."""
        found = tokens.parts(token) if token else None
        if found is None and self._closed:
            return None
        key, secret = found or ("", "")
        record = (await self._look_up(key)).get(key)
        if not self._closed:
            return OPEN
        return Caller(record.scopes, key) if record is not None and tokens.holds(record, secret) else None

    async def _look_up(self, key: str) -> Mapping[str, TokenRecord]:
        """Tokens by key, from a query that starts now or later; has this key if it exists."""
        self._asked.add(key)
        if self._next is None:
            self._next = asyncio.create_task(self._take_turn())
        return await asyncio.shield(self._next)  # one client going away must not end the query that others wait for

    async def _take_turn(self) -> Mapping[str, TokenRecord]:
        async with self._turn:
            keys, self._asked, self._next = self._asked, set(), None
            return await asyncio.to_thread(self._read, keys)

    def _read(self, keys: Collection[str]) -> Mapping[str, TokenRecord]:
        self._closed = self._closed or self._store.tokens.any()
        return self._store.tokens.find(keys) if self._closed else {}


def presented(request: Request) -> str | None:
    """The token of a request: ``Authorization: Bearer``, else the pages' cookie."""
    sent = bearer(request.headers.get("authorization", ""))
    return sent if sent is not None else request.cookies.get(COOKIE)


def bearer(authorization: str) -> str | None:
    """The token in the value of an ``Authorization`` header, None if it is of another kind."""
    scheme, _, value = authorization.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


async def reader(request: Request) -> Caller:
    """Dependency of routes that need the scope ``read``.

    Raises:
        ProblemError: 401.
    """
    guard: TokenGuard = request.app.state.guard
    caller = await guard.caller(presented(request))
    if caller is None:
        raise ProblemError(
            401,
            "a valid token is needed: Authorization: Bearer TOKEN; `tuner token create` makes one",
            headers={"WWW-Authenticate": 'Bearer realm="tuner"'},
        )
    return caller


async def runner(request: Request, caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Dependency of routes that need the scope ``run``.

    Raises:
        ProblemError: 401; 403 for a token that may only read, or for a request made by another site's page.
    """
    if "run" not in caller.scopes:
        raise ProblemError(403, "this token may only read; a sweep needs one of scope 'run'")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ProblemError(403, "a page of another site may not do this")
    return caller


MayRead = Annotated[Caller, Depends(reader)]
MayRun = Annotated[Caller, Depends(runner)]
