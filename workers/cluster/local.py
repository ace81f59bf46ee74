"""A Ray cluster on this machine for one sweep: its folder, its environment, and what the place must have for it."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.errors import ClusterError
from workers.sandbox import interpreter

OBJECT_STORE_BYTES = 80 << 20
"""Size of the object store. Artifacts and records are small; Ray's default would take a third of the memory."""

SHARED_MEMORY = Path("/dev/shm")
TEMP_ROOT = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
_PREFIX = "tnr_"
_LOCK = "lock"

_ENVIRONMENT = {
    # No usage reports. And Ray must not kill our actors when memory is short: candidates have a limit of their own.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    # Nor give our workers niceness 15, its default: what is timed would wait for everything else on the machine, and
    # builders, which are to yield to evaluators, could not be much nicer than these.
    "RAY_worker_niceness": "0",
    # RAY_AUTH_MODE cannot be set here: Ray reads it on import, and its services refuse us if it changes later.
}

_TOKEN = secrets.token_hex(32)
"""Of this process's clusters. Ray itself would write one into the home folder, which not everybody has."""


class Folder:
    """A folder below ``/tmp`` for the files of a local cluster; removed with :meth:`close`.

    It is held by a lock and not by the process id in its name: containers that share ``/tmp`` do not see each other's
    processes. Folders whose lock nobody holds are removed, as their sweep was killed.
    """

    def __init__(self) -> None:
        try:
            # Under another name until it is locked, so that nobody takes it for one that was left.
            made = Path(tempfile.mkdtemp(prefix="new_tnr_", dir=TEMP_ROOT))
            self._lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Ray puts UNIX sockets into it, whose paths must not exceed 107 characters.
            self.path = TEMP_ROOT / f"{_PREFIX}{made.name[-8:]}"
            made.rename(self.path)
        except OSError as error:
            raise ClusterError(
                f"no folder can be made in {TEMP_ROOT}: {error.strerror}; make it writable, or set TMPDIR"
            ) from None
        # Registered before Ray's own hook, so that it runs after it: a signal may arrive while Ray starts.
        atexit.register(self.close)
        remove_left_over()

    def close(self) -> None:
        """Remove the folder and release its lock."""
        atexit.unregister(self.close)
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def remove_left_over() -> None:
    """Delete the folders of local clusters whose sweep was killed."""
    for folder in TEMP_ROOT.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """Within this context, variables are as the processes of a local cluster need them."""
    given = dict(os.environ)
    changes: dict[str, str | None] = {k: v for k, v in _ENVIRONMENT.items() if k not in given}
    # Workers inherit our environment and must find this package wherever it was imported from.
    changes["PYTHONPATH"] = interpreter.python_path(*given.get("PYTHONPATH", "").split(os.pathsep))
    changes |= interpreter.variables()
    # With RAY_ADDRESS set, ray.init would join that cluster although the caller wants a local one.
    changes["RAY_ADDRESS"] = None
    if not any(given.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        changes["RAY_AUTH_TOKEN"] = _TOKEN
    for name in ("no_proxy", "NO_PROXY"):
        changes[name] = ",".join(filter(None, [given.get(name), "localhost", "127.0.0.1", "::1"]))
    try:
        for name, value in changes.items():
            _set(name, value)
        yield
    finally:
        for name in changes:
            _set(name, given.get(name))


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def forget_token() -> None:
    """Make Ray read its token anew: another cluster of this process may have another one."""
    with contextlib.suppress(ImportError, AttributeError):
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def options(folder: Path) -> dict[str, Any]:
    """Options of ``ray.init`` that depend on the place.

    Raises:
        ClusterError: There is no loopback network.
    """
    check_loopback()
    found: dict[str, Any] = {"_temp_dir": str(folder), "object_store_memory": OBJECT_STORE_BYTES}
    if shared_memory_bytes() < OBJECT_STORE_BYTES * 1.2:
        found["_plasma_directory"] = str(folder)
    return found


def shared_memory_bytes() -> int:
    """Free bytes of ``/dev/shm``, 0 if there is none that can be written."""
    try:
        stat = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize if os.access(SHARED_MEMORY, os.W_OK) else 0


def check_loopback() -> None:
    """See that processes of this machine can talk to each other.

    Raises:
        ClusterError: They cannot.
    """
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise ClusterError(
            f"this machine has no loopback network, which Ray needs: 127.0.0.1 cannot be reached ({why}); "
            "bring it up (ip link set lo up), or set RAY_ADDRESS to a cluster elsewhere"
        ) from None
