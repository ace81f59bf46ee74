"""A sandbox as its owner sees it: a deadline per phase, a bounded log, no orphans.

One :class:`ChildProcess` owns a fork server (:mod:`workers.sandbox.fork_server`) and at most one child forked from it.
It is used by one thread. A child that times out or dies is killed together with everything it started; the next call
forks a new one in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from workers.devices.environment import threads
from workers.errors import WorkerError
from workers.sandbox import interpreter
from workers.sandbox.fork_server import STACKS_SIGNAL, ForkRequest
from workers.sandbox.messages import ChildDiedError, ChildRaisedError, Phase, PhaseKind, PhaseTimeoutError, Raised

_LOG_KEEP_BYTES = 16_384
_START_LIMIT_S = 180.0
_STACKS_LIMIT_S = 0.5
_DROPPED_ENV = ("OMP_NUM_THREADS", "NUMBA_CACHE_DIR", "RAY_AUTH_TOKEN")
"""Ray sets OMP_NUM_THREADS to the actor's num_cpus, which would time candidates on one thread; a central numba cache
would hide a variant's artifacts from the folder that is published; candidates have no business with the cluster."""


class BoundedLog:
    """Keeps the beginning and the end of a child's output, however long it is."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def drain(self, limit_bytes: int = 1 << 22) -> bool:
        """Read at most ``limit_bytes`` from the pipe; False once all writers have closed it."""
        taken = 0
        while taken < limit_bytes:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            taken += len(data)
            room = _LOG_KEEP_BYTES - len(self._head)
            self._head += data[: max(room, 0)]
            self._tail += data[max(room, 0) :]
            excess = len(self._tail) - _LOG_KEEP_BYTES
            if excess > 0:
                self._dropped += excess
                del self._tail[:excess]
        return True

    def take(self) -> str:
        """Return the text so far and start an empty log."""
        middle = f"\n... {self._dropped} bytes left out ...\n".encode() if self._dropped else b""
        text = bytes(self._head + middle + self._tail).decode("utf-8", errors="replace")
        self._head, self._tail, self._dropped = bytearray(), bytearray(), 0
        return text


class ChildProcess:
    """A handler in a sandbox.

    Args:
        request: How to set up the child.
        preload: Modules that the fork server imports before it forks.
        env: Environment variables to set in the fork server.
    """

    def __init__(self, request: ForkRequest, preload: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        self._request = request
        self._preload = list(preload)
        self._env = dict(env or {})
        self._fork_server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self._pid: int | None = None
        self._connection: Connection | None = None
        self._log: BoundedLog | None = None
        self.forks = 0

    @property
    def pid(self) -> int | None:
        """Process ID of the child, if there is one."""
        return self._pid

    @property
    def fork_server_pid(self) -> int | None:
        """Process ID of the fork server."""
        return self._fork_server.pid if self._fork_server else None

    def start(self) -> None:
        """Start the fork server without waiting for its imports."""
        if self._fork_server is not None:
            if self._fork_server.poll() is None:
                return
            self._fork_server_lost(None)  # it died while idle; start another one
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {k: v for k, v in os.environ.items() if k not in _DROPPED_ENV} | self._env
        # The fork server must not initialise CUDA, or its children could not use it; torch asks NVML instead.
        env["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        env |= {**threads(env), **interpreter.variables(), "PYTHONPATH": interpreter.python_path(*sys.path)}
        command = interpreter.command("workers.sandbox.fork_server", str(theirs.fileno()), *self._preload)
        self._fork_server = subprocess.Popen(
            command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._control = ours
        self._ready = False

    def call(
        self,
        method: str,
        *args: Any,
        limits_s: Mapping[PhaseKind, float],
        phase: Phase,
        on_event: Callable[[Any], None] | None = None,
        on_phase: Callable[[Phase], None] | None = None,
    ) -> tuple[Any, str]:
        """Call a method of the handler in the child, which is started if there is none.

        Args:
            method: Name of the method.
            args: Its arguments; picklable.
            limits_s: Deadline of each kind of phase in seconds.
            phase: The phase in which the call begins.
            on_event: Called with each partial result as it arrives.
            on_phase: Called with each reported phase.

        Returns:
            The method's result and what the child printed.

        Raises:
            PhaseTimeoutError: A phase passed its deadline; the child was killed.
            ChildDiedError: The child ended.
            ChildRaisedError: The method raised; the child can still be used.
        """
        if self._pid is not None and self._connection is not None and self._connection.poll():
            # An idle child sends nothing, so it has died meanwhile. That is not the fault of the next call.
            self.kill()
        if self._pid is None:
            self._fork()
        assert self._connection is not None
        assert self._log is not None
        self._log.drain()
        self._log.take()
        try:
            self._connection.send_bytes(pickle.dumps((method, args)))
        except OSError:
            raise self._died(phase) from None
        began = time.monotonic()
        while True:
            left = began + limits_s[phase.kind] - time.monotonic()
            if left <= 0:
                raise self._timed_out(phase, limits_s[phase.kind])
            ready = wait([self._connection, self._log.fd], timeout=min(left, 1.0))
            # Each read is bounded, so that a child that never stops printing still meets its deadline.
            if self._log.fd in ready and not self._log.drain():
                raise self._died(phase)
            if self._connection not in ready:
                continue
            try:
                kind, payload = pickle.loads(self._connection.recv_bytes())
            except Exception:
                # End of file, or bytes that a candidate wrote into the channel: the child is unusable either way.
                raise self._died(phase) from None
            if kind == "phase" and isinstance(payload, Phase):
                phase, began = payload, time.monotonic()
                if on_phase:
                    on_phase(phase)
            elif kind == "event":
                if on_event:
                    on_event(payload)
            elif kind == "done":
                self._log.drain()
                return payload, self._log.take()
            elif kind == "raised" and isinstance(payload, Raised):
                self._log.drain()
                raise ChildRaisedError(payload, phase, self._log.take())
            else:
                raise self._died(phase)

    def kill(self) -> int | None:
        """Kill the child and everything it started. Returns the raw wait status, None if there was no child."""
        if self._pid is None:
            return None
        pid, self._pid = self._pid, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        status = None
        # A candidate may have killed the fork server too; the kernel has then killed the child.
        with contextlib.suppress(WorkerError):
            status = int(self._ask("reap", pid)[1])
        self._close_child()
        return status

    def _close_child(self) -> None:
        """Close the channel and the log of a child that has ended; what it printed last is kept."""
        if self._connection:
            self._connection.close()
        if self._log:
            self._log.drain()
            os.close(self._log.fd)

    def close(self) -> None:
        """End the child and the fork server."""
        self.kill()
        if self._fork_server is None:
            return
        if self._control:
            self._control.close()
        if not self._ready:  # it still imports: it has no child, and would see the closed socket only after that
            self._fork_server.kill()
        try:
            self._fork_server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._fork_server.kill()
            self._fork_server.wait()
        self._fork_server = self._control = None

    def _fork(self) -> None:
        self.start()
        self._wait_ready()
        ours, theirs = socket.socketpair()
        log_read, log_write = os.pipe()
        try:
            with os.fdopen(os.memfd_create("request"), "wb") as request:
                pickle.dump(self._request, request)
                request.flush()
                _, self._pid = self._ask("fork", None, [theirs.fileno(), log_write, request.fileno()])
        except BaseException:
            os.close(log_read)
            raise
        finally:
            theirs.close()
            os.close(log_write)
        self._connection = Connection(ours.detach())
        self._log = BoundedLog(log_read)
        self.forks += 1

    def _wait_ready(self) -> None:
        assert self._control is not None
        if self._ready:
            return
        self._control.settimeout(_START_LIMIT_S)
        kind, failures = self._receive()
        assert kind == "ready"
        for module, why in failures.items():
            print(f"worker: optional module {module} cannot be imported: {why}", file=sys.stderr)
        self._ready = True

    def _ask(self, kind: str, payload: Any, fds: Sequence[int] = ()) -> tuple[str, Any]:
        assert self._control is not None
        try:
            socket.send_fds(self._control, [pickle.dumps((kind, payload))], list(fds))
        except OSError as error:
            raise self._fork_server_lost(error) from error
        return self._receive()

    def _receive(self) -> tuple[str, Any]:
        assert self._control is not None
        try:
            data = self._control.recv(1 << 16)
        except OSError as error:
            raise self._fork_server_lost(error) from error
        if not data:
            raise self._fork_server_lost(None)
        return pickle.loads(data)

    def _fork_server_lost(self, error: OSError | None) -> WorkerError:
        """Forget the fork server, so that the next call starts another one."""
        assert self._fork_server is not None
        assert self._control is not None
        self._control.close()
        self._fork_server.kill()
        code = self._fork_server.wait()
        if self._pid is not None:
            self._close_child()
        self._fork_server = self._control = self._pid = None
        return WorkerError(f"the worker's fork server ended (exit {code}{f', {error}' if error else ''})")

    def _died(self, phase: Phase) -> ChildDiedError:
        status = self.kill()
        log = self._log.take() if self._log else ""
        return ChildDiedError(f"the process died in phase '{phase}': {_how(status)}", phase, log)

    def _timed_out(self, phase: Phase, limit_s: float) -> PhaseTimeoutError:
        self._ask_where_it_hangs()
        self.kill()
        log = self._log.take() if self._log else ""
        return PhaseTimeoutError(f"phase '{phase}' took longer than {limit_s:g} s", phase, log)

    def _ask_where_it_hangs(self) -> None:
        """Have the child write its stacks to its log; wait only briefly for it."""
        assert self._pid is not None
        assert self._log is not None
        self._log.drain()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, STACKS_SIGNAL)
            if wait([self._log.fd], timeout=_STACKS_LIMIT_S):
                # The first line has arrived; the rest follows at once.
                time.sleep(0.05)


def _how(status: int | None) -> str:
    """A wait status in words."""
    if status is None or status < 0:
        return "it is not known how"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"signal {number} ({signal.strsignal(number)})"
    return f"exit code {os.WEXITSTATUS(status)}"
