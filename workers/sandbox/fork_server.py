"""The fork server: a process that imports the heavy modules once, and forks a sandbox in milliseconds on request.

It runs no candidate code and starts no thread, so it can always answer. It ends together with all its descendants when
the parent's end of the control socket closes, even if the parent was killed with SIGKILL. Should this process die
first, the kernel sends SIGKILL to its children.

Requests and answers on the control socket are single datagrams:
``fork`` with three file descriptors (channel, log, and a file with a pickled ForkRequest, which may be larger than a
datagram) -> the child's pid;
``reap`` with a pid -> kills its remaining descendants, waits for it, answers the raw wait status.

Source: the idea of forking from a process that has loaded everything is that of Android's zygote and CPython's
multiprocessing.forkserver. The latter lives as long as any of its children, which must not happen here.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

STACKS_SIGNAL = signal.SIGUSR2
"""Signal on which a child writes the Python stacks of all its threads to its log."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MAX_MESSAGE_BYTES = 1 << 16


@dataclass(frozen=True)
class ForkRequest:
    """How to set up a new child.

    Args:
        handler: ``module:Class``; the child calls its methods.
        arguments: Arguments of the constructor.
        nice: Added to the niceness.
        data_limit_bytes: Limit of anonymous memory, None for no limit.
    """

    handler: str
    arguments: tuple[Any, ...] = ()
    nice: int = 0
    data_limit_bytes: int | None = None


def main(control_fd: int, preload: list[str]) -> None:
    """Serve until the parent has ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphans of a candidate are adopted by this process instead of init, so they can be found and killed.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    control = socket.socket(fileno=control_fd)
    failures = _preload(preload)
    try:
        control.send(pickle.dumps(("ready", failures)))
    except OSError:  # closed before this process was ready
        os._exit(0)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 3)
        except OSError:
            data, fds = b"", []
        if not data:
            kill_descendants(os.getpid())
            os._exit(0)
        kind, payload = pickle.loads(data)
        if kind == "fork":
            pid = _fork(control, libc, fds)
            control.send(pickle.dumps(("pid", pid)))
        else:
            kill_descendants(os.getpid())
            control.send(pickle.dumps(("status", _reap(payload))))


def _preload(modules: list[str]) -> dict[str, str]:
    """Import what children will need. A module that is not installed is reported and skipped."""
    failures = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
    # What is loaded now is never collected: a collection in a child, two per variant, need not look at it again
    # (100 ms with torch), nor write to its pages, which all children share.
    gc.collect()
    gc.freeze()
    return failures


def _fork(control: socket.socket, libc: ctypes.CDLL, fds: list[int]) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        return pid
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            os._exit(1)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        control.close()
        with open(fds.pop(), "rb") as file:
            file.seek(0)
            request = pickle.load(file)
        _become(request, *fds)
        from workers.sandbox import child

        child.serve(fds[0], request.handler, request.arguments)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            print(f"child could not start: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def _become(request: ForkRequest, channel_fd: int, log_fd: int) -> None:
    """Turn the forked process into the child: own session, log instead of a terminal, limits."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(null)
    os.set_inheritable(log_fd, False)  # it stays open: a candidate that closes its output has not ended
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    # Needs no interpreter, so it also shows where a child hangs in native code.
    faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True)
    if request.nice:
        os.nice(request.nice)
    if request.data_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (request.data_limit_bytes, request.data_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If memory runs out nevertheless, the kernel kills this process first, not Ray's or the sweep's.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write("1000")


def kill_descendants(root: int) -> None:
    """Send SIGKILL to all descendants of a process, until no new ones appear."""
    for _ in range(50):
        alive = _descendants(root)
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _descendants(root: int) -> list[int]:
    """Descendants of ``root`` that are not zombies, from /proc."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry))
        if fields[0] in (b"Z", b"X"):
            zombies.add(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        for pid in children.get(queue.pop(), []):
            queue.append(pid)
            if pid not in zombies:
                found.append(pid)
    return found


def _reap(pid: int) -> int:
    """Wait for the child and for adopted orphans. Returns the child's raw status, -1 if it is unknown."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        status = -1
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    return status


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
