"""The application: routes, middleware and the state that they share."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from db.errors import StoreError
from db.store import Store
from tuner.service import api
from tuner.service.best import BestConfigs
from tuner.service.metrics import exposition
from tuner.service.middleware import problems
from tuner.service.middleware.auth import MayRead, TokenGuard
from tuner.service.middleware.fast_path import FastPath
from tuner.service.middleware.rate_limit import Gate, configure_logging
from tuner.service.pages import routes as pages
from tuner.service.pages.charts import Charts
from tuner.service.settings import ServiceSettings, published
from tuner.service.start_sweep.launchers import launcher
from tuner.service.start_sweep.start import Starter
from tuner.settings import log_level

THREADS = 12
"""Requests that may wait for the database at once in one server process. Below the store's 15 connections, so that
the lookup, which uses threads of its own, always finds one."""

PATIENCE_S = 2.0
"""How long a request waits for a database that restarts; then it answers 503, and the client retries."""

GATE = (403, 413, 414, 429)
"""What :class:`tuner.service.middleware.rate_limit.Gate` answers on any route."""


def create() -> FastAPI:
    """The application, with the settings that ``tuner serve`` published. Called in each server process."""
    configure_logging(log_level("INFO"))
    app = make(published())
    # Objects made so far stay alive. Collecting garbage among them held up every request for 0.15 to 0.22 s.
    gc.collect()
    gc.freeze()
    return app


def make(settings: ServiceSettings) -> FastAPI:
    """The application.

    Raises:
        StoreError: The database cannot be opened.
    """
    store = Store.open(settings.db, patience_s=PATIENCE_S)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        store.close()

    app = FastAPI(
        title="tuner",
        version="1",
        summary="The fastest correct kernel for a flashinfer-bench definition on given hardware",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's own pages load scripts from other hosts; ours are in pages/routes.py
        redoc_url=None,
        lifespan=life,
    )
    app.state.settings = settings
    app.state.store = store
    app.state.guard = TokenGuard(store, loopback=settings.loopback)
    app.state.best = BestConfigs(store.best, settings.cache_s)
    app.state.charts = Charts(store)
    app.state.starter = Starter(settings, store, launcher(settings))
    app.state.streams = 0
    app.state.in_thread = asyncio.to_thread
    problems.install(app)
    pages.install(app)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", Static(directory=Path(__file__).parent / "static"), name="static")
    _add_health(app)
    app.add_middleware(FastPath, state=app.state)
    app.add_middleware(Gate, settings=settings)  # the outermost
    _document(app)
    return app


class Static(StaticFiles):
    """Static files that browsers cache but revalidate, so that new pages never run with old scripts."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], responses=problems.responses(*GATE))
    async def healthz() -> dict[str, str]:
        """Answers as long as the process runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses=problems.responses(503, *GATE))
    def readyz(request: Request) -> dict[str, str]:
        """Answers if the database answers too."""
        version = request.app.state.store.schema_version()
        if version is None:
            raise StoreError("the database holds no tables any more")
        return {"status": "ok", "schema": version}

    @app.get(
        "/metrics",
        tags=["health"],
        response_class=Response,
        responses=problems.responses(401, 503, *GATE)
        | {200: {"content": {"text/plain": {}}, "description": "metrics"}},
    )
    def metrics(request: Request, caller: MayRead) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(exposition(request.app.state.store), media_type="text/plain; version=0.0.4; charset=utf-8")


def _document(app: FastAPI) -> None:
    """Add what FastAPI does not know to the OpenAPI document: problem documents and bearer tokens."""
    make_document = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make_document()
            parts = document.setdefault("components", {})
            schemas = parts.setdefault("schemas", {})
            schemas["Problem"] = problems.ProblemDocument.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
        document_: dict[str, Any] = app.openapi_schema or document
        return document_

    app.openapi = openapi  # type: ignore[method-assign]
