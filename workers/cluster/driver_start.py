"""Keeps signals, the standard error output and the exit of this process its own while it becomes a driver of Ray."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator

_PyOS_getsig = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
_PyOS_setsig = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(("PyOS_setsig", ctypes.pythonapi))


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Within this context ``ray.init`` may be called; signals mean afterwards what they meant before.

    ``ray.init`` gives SIGTERM a meaning of its own, which writes a stack of C++ and may abort, and leaves it so.
    """
    import ray

    is_main = threading.current_thread() is threading.main_thread()
    before, native = signal.getsignal(signal.SIGTERM), _PyOS_getsig(signal.SIGTERM)
    try:
        with _hidden_stack():
            yield
    except (KeyboardInterrupt, SystemExit):
        # Ray's hook at exit takes down a driver that is half connected, and that aborts in C++. The hook of the node
        # that was started ends its processes.
        atexit.unregister(ray.shutdown)
        raise
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)
        elif is_main:  # the program that Python is embedded in has a handler of its own
            _PyOS_setsig(signal.SIGTERM, native)


@contextlib.contextmanager
def _hidden_stack() -> Iterator[None]:
    """Send what C++ writes to descriptor 2 nowhere; what Python writes to ``sys.stderr`` arrives as before."""
    if sys.__stderr__ is None:  # started without one, so the descriptor may be anything by now
        yield
        return
    with contextlib.ExitStack() as undo:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        undo.callback(os.close, kept)
        undo.callback(os.close, nowhere)
        stderr = sys.stderr
        if stderr is sys.__stderr__:
            stderr.flush()
            sys.stderr = undo.enter_context(
                open(os.dup(kept), "w", buffering=1, encoding=stderr.encoding, errors=stderr.errors)
            )
            undo.callback(setattr, sys, "stderr", stderr)
        undo.callback(os.dup2, kept, 2)
        os.dup2(nowhere, 2)
        yield
