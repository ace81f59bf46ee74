"""Limits in front of every route: size, rate, host. Also security headers, the access log and the request metrics."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from collections import OrderedDict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.service.metrics import REQUEST_S, REQUESTS
from tuner.service.middleware import problems
from tuner.service.settings import ServiceSettings

access = logging.getLogger("tuner.service.access")

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CLIENTS = 4096
"""Most clients whose rate a server process remembers."""

SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
)


class Rate:
    """A token bucket per client: ``per_s`` requests a second, and twice as many at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str, now: float) -> float:
        """0 if the request may pass, else the seconds until the next one may."""
        if not self._per_s:
            return 0.0
        most = 2 * self._per_s
        left, since = self._buckets.get(client, (most, now))
        left = min(most, left + (now - since) * self._per_s)
        passes = left >= 1
        self._buckets[client] = (left - 1 if passes else left, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - left) / self._per_s


class Gate:
    """ASGI middleware. Does not use Starlette's base class, which costs a task per request."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app = app
        self._settings = settings
        self._loopback = settings.loopback
        self._rate = Rate(settings.rate_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._settings.max_body_bytes)
        refused = self._refuse(scope, exchange.headers)
        try:
            if refused is not None:
                await problems.answer(refused)(scope, receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.note()

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> problems.ProblemError | None:
        """Refuse a request by its head alone."""
        settings = self._settings
        if self._loopback and _name(headers.get(b"host", b"")) not in LOCAL_NAMES:
            # DNS rebinding: a web page could point a name of its own at this machine and reach a server that trusts it.
            return problems.ProblemError(403, "this server answers to localhost only")
        if len(scope["query_string"]) > settings.max_query_bytes:
            return problems.ProblemError(414, f"a query may have {settings.max_query_bytes} bytes")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:18]) > settings.max_body_bytes:
            return problems.ProblemError(413, f"a body may have {settings.max_body_bytes} bytes")
        client = scope["client"][0] if scope.get("client") else ""
        wait_s = self._rate.wait_s(client, time.monotonic())
        if wait_s:
            return problems.ProblemError(
                429,
                f"more than {settings.rate_per_s:g} requests per second; slow down",
                headers={"Retry-After": str(max(1, round(wait_s)))},
            )
        return None


def _name(host: bytes) -> str:
    text = host.decode("latin-1")
    if text.startswith("["):
        return text[1 : text.find("]")]
    return text.partition(":")[0].lower()


class Exchange:
    """One request and its answer: counts bytes, adds headers, and logs at the end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._scope, self._receive, self._send = scope, receive, send
        self._left = max_body_bytes
        self._started = time.perf_counter()
        self._status = 0
        self._id = secrets.token_hex(8)

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
            HTTPException: The body is too large.
        """
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413)  # the only kind of error that FastAPI passes on while it reads a body
        return message

    async def send(self, message: Message) -> None:
        """The next part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {
                **message,
                "headers": [*message["headers"], *SECURITY, (b"x-request-id", self._id.encode())],
            }
        await self._send(message)

    def note(self) -> None:
        """Write one line of the access log and count the request in the metrics."""
        took_s = time.perf_counter() - self._started
        route = self._scope.get("route")
        path = getattr(route, "path", "none")  # the route's pattern, since there is no end of paths
        method, status = self._scope["method"], str(self._status)
        if method not in ("GET", "POST", "DELETE", "HEAD"):
            method = "OTHER"
        REQUESTS.labels(method, path, status).inc()
        REQUEST_S.labels(path).observe(took_s)
        if access.isEnabledFor(logging.INFO):
            line = {
                "at": round(time.time(), 3),
                "level": "INFO",
                "logger": access.name,
                "message": "request",
                "id": self._id,
                "method": method,
                "path": self._scope["path"][:200],
                "status": self._status,
                "ms": round(took_s * 1e3, 2),
                "client": (self._scope.get("client") or ("",))[0],
            }
            # Written directly: a logger's records and handlers cost as much as a lookup.
            sys.stderr.write(json.dumps(line) + "\n")


class JsonLines(logging.Formatter):
    """A log record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str) -> None:
    """Set up structured logs on stderr, for the server's own messages too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"  # our own access log replaces it
