"""Starts the server with Uvicorn, unless it would be open to the network without tokens."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time

from db.store import Store
from tuner.errors import UnusableEnvironmentError, UsageError
from tuner.service.settings import ServiceSettings
from tuner.service.tokens import state

SHUTDOWN_S = 3
"""How long open event streams may delay a server that was told to stop; their clients reconnect and continue."""


def run(settings: ServiceSettings) -> None:
    """Serve until interrupted.

    Raises:
        UsageError: Other machines can reach the address and there is no active token.
        UnusableEnvironmentError: The packages of the extra ``serve`` are missing.
        StoreError: The database cannot be opened.
    """
    try:
        import uvicorn

        import tuner.service.metrics  # noqa: F401
        from tuner.service.middleware.one_packet import JoiningProtocol
    except ImportError as error:
        raise UnusableEnvironmentError(f"package {error.name} is missing: pip install 'tuner[serve]'") from None
    check(settings)
    shared = _share_metrics(settings)
    settings.publish()
    scheme = f"http://{settings.host}:{settings.port}"
    print(f"tuner: serving on {scheme}, database opened, {settings.workers} process(es)", file=sys.stderr)
    try:
        uvicorn.run(
            "tuner.service.app:create",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            http=JoiningProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
            limit_concurrency=1000,
        )
    finally:
        if shared is not None:
            shutil.rmtree(shared, ignore_errors=True)


def check(settings: ServiceSettings) -> None:
    """Create the database's tables if they are missing, and refuse to serve other machines without tokens.

    Raises:
        UsageError: Other machines can reach the address and there is no active token.
        StoreError: The database cannot be opened.
    """
    with Store.open(settings.db) as store:
        active = any(state(token, time.time()) == "active" for token in store.tokens.all())
    if not settings.loopback and not active:
        raise UsageError(
            f"--host {settings.host} can be reached by others, and there is no token that they would need; make one "
            "with `tuner token create --scope read`, or listen on 127.0.0.1"
        )


def _share_metrics(settings: ServiceSettings) -> str | None:
    """Make the folder in which several server processes share their metrics."""
    if settings.workers == 1:
        return None
    folder = tempfile.mkdtemp(prefix="tuner-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    return folder
