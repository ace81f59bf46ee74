"""Functions that need Ray, in a process of their own where this one is not free for them.

Ray is one per process, and its ``init`` is for the main thread. A program that is on Ray itself, a Ray task, a thread
beside the main one, or a second sweep at the same time therefore gets another process, whose cluster is its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tuner.errors import EXIT_INTERRUPTED, TunerError
from workers.errors import WorkerError
from workers.sandbox import interpreter

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_OF_RAY = "RAY_"
_KEPT = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_free = threading.Lock()


def call(function: Callable[..., T], **arguments: Any) -> T:
    """What the function returns or raises, here if this process is free for Ray, else in a process of its own.

    Args:
        function: Of a module of ours, which can be imported by name.
        arguments: Keyword arguments; can be pickled.

    Raises:
        WorkerError: The other process ended without a result.
    """
    with _turn() as free:
        return function(**arguments) if free else _elsewhere(function, arguments)


@contextlib.contextmanager
def _turn() -> Iterator[bool]:
    """Whether Ray can be used here for as long as the context lasts."""
    main = threading.current_thread() is threading.main_thread()
    if not main or is_on_ray() or not _free.acquire(blocking=False):
        yield False
        return
    try:
        yield True
    finally:
        _free.release()


def is_on_ray() -> bool:
    """Whether this process is connected to a Ray cluster, which is not ours then."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def is_in_a_task() -> bool:
    """Whether this process is one of Ray's workers."""
    return is_on_ray() and sys.modules["ray"].get_runtime_context().worker.mode == sys.modules["ray"].WORKER_MODE


def _elsewhere(function: Callable[..., T], arguments: dict[str, Any]) -> T:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        interpreter.command("tuner.own_process", str(writing), str(os.getpid())),
        stdin=subprocess.PIPE,
        pass_fds=[writing],
        env=_environment(),
        start_new_session=True,  # Ctrl-C comes here, and is handed on once
    )
    os.close(writing)
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as request:
            pickle.dump((function.__module__, function.__qualname__, arguments), request)
        with os.fdopen(reading, "rb") as answer:
            content = answer.read()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    code = process.wait()
    if not content:
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        raise WorkerError(f"the process of {function.__qualname__} ended without a result, with exit code {code}")
    good, found = pickle.loads(content)
    if not good:
        raise found
    result: T = found
    return result


def _environment() -> dict[str, str]:
    """This process's variables without what Ray tells its own processes."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_OF_RAY) or k in _KEPT}
    if is_in_a_task():
        kept.pop("RAY_ADDRESS", None)  # Ray's word to its workers, and nobody's choice
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return kept | {"PYTHONPATH": interpreter.python_path(*path), "PYTHONUTF8": "1"}


def _main(writing: int, parent: int) -> int:
    """Do what the request on stdin says and write down how it ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return EXIT_INTERRUPTED
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module, name, arguments = pickle.load(sys.stdin.buffer)
    os.dup2(2, 1)  # the caller's stdout is the caller's
    outcome: tuple[bool, Any]
    try:
        outcome = (True, getattr(__import__(module, fromlist=[name]), name)(**arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        outcome = (False, _portable(error))
    with os.fdopen(writing, "wb") as answer:
        pickle.dump(outcome, answer)
    return 0


def _portable(error: Exception) -> Exception:
    """The error if it survives the way, else one with its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return TunerError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), int(sys.argv[2])))
