"""The loop inside a sandbox: receives a request, calls a method of the handler, sends the outcome.

Messages to the parent are ``(kind, payload)``: ``phase`` with a Phase when one begins (its deadline starts), ``event``
for a partial result, then exactly one of ``done`` and ``raised``, the latter with a Raised.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from workers.devices.device import CaptureError
from workers.errors import ESCAPE_CODES
from workers.sandbox.messages import Raised, status_of

_CPP_STACK = "\nException raised from "
"""What torch puts behind some messages: frames of C++, of which no user has a use."""

_MAX_MESSAGE_CHARS = 20_000


def serve(channel_fd: int, handler_path: str, arguments: tuple[Any, ...]) -> None:
    """Answer requests until the parent closes the channel. Does not return."""
    connection = Connection(channel_fd)

    def send(kind: str, payload: Any) -> None:
        connection.send_bytes(pickle.dumps((kind, payload), protocol=pickle.HIGHEST_PROTOCOL))

    module, _, name = handler_path.partition(":")
    handler = getattr(importlib.import_module(module), name)(send, *arguments)
    while True:
        try:
            method, args = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)
        kind, payload = _answer(handler, method, args)
        _flush()
        try:
            send(kind, payload)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            send("raised", Raised(type(error).__name__, f"the answer of {method} cannot be sent: {error}"))


def _answer(handler: Any, method: str, args: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", getattr(handler, method)(*args)
    except BaseException as error:
        # SystemExit and KeyboardInterrupt in a candidate's code are a failure of it and must not end this process.
        log_traceback()
        return "raised", raised(error)


def log_traceback() -> None:
    """Write the traceback of the present exception to the log, which a candidate may have closed."""
    with contextlib.suppress(Exception):
        traceback.print_exc()


def raised(error: BaseException) -> Raised:
    """What is told of an exception, even if making its text raises."""
    try:
        text = str(error)
    except Exception as inner:
        text = f"<its text raises {type(inner).__name__}>"
    text = ESCAPE_CODES.sub("", text.partition(_CPP_STACK)[0]).strip()
    return Raised(type(error).__name__, text[:_MAX_MESSAGE_CHARS], status_of(error), isinstance(error, CaptureError))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            # A candidate may have closed or replaced the stream; the log ends there.
            continue
