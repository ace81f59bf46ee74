"""A machine of its own on this one: a network namespace at the end of a cable that can be pulled."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

CLEAN_UP_S = 20.0


class Machine:
    """A network namespace with one link to this machine, and file systems of its own where this one writes.

    Args:
        log: For what its processes print.
        own: Existing folders that are empty there, so that nothing reaches it but what goes over the network.
    """

    def __init__(self, log: Path, own: Sequence[Path] = ()) -> None:
        self._name, self._cable = f"tnr{os.getpid()}", f"tnr{os.getpid()}"
        # From the range for documentation and tests of networks (RFC 2544): no real network has it.
        subnet = f"198.18.{os.getpid() % 250}"
        self.here, self.address = f"{subnet}.1", f"{subnet}.2"
        self._log, self._own = log, own
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", "wire", "netns", self._name)
            _ip("addr", "add", f"{self.here}/30", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
            _ip("-n", self._name, "addr", "add", f"{self.address}/30", "dev", "wire")
            self.mend()
            _ip("-n", self._name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and nobody is told."""
        _ip("-n", self._name, "link", "set", "wire", "down")

    def mend(self) -> None:
        """Plug it in."""
        _ip("-n", self._name, "link", "set", "wire", "up")

    def keep_running(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Start a command there, and start it again whenever it ends, as an orchestrator does."""
        mounts = [f"mount -t tmpfs tmpfs {shlex.quote(str(folder))}" for folder in self._own]
        again = " && ".join([*mounts, 'while :; do "$@"; sleep 1; done'])
        with self._log.open("a") as log:
            subprocess.Popen(
                ["ip", "netns", "exec", self._name, "unshare", "--mount", "sh", "-c", again, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def said(self) -> str:
        """What the command printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def processes(self) -> list[int]:
        """Ids of all processes in the namespace."""
        return [int(pid) for pid in _ip("netns", "pids", self._name).split()]

    def close(self) -> None:
        """End everything there, and the namespace with its link."""
        give_up_at = time.monotonic() + CLEAN_UP_S
        while (left := self.processes()) and time.monotonic() < give_up_at:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _ip("netns", "del", self._name)


def why_not() -> str | None:
    """Why no machine can be made here, None if one can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not all(map(shutil.which, ("ip", "unshare"))):
        return "the commands ip and unshare are not installed"
    name = f"tnr{os.getpid()}try"
    try:
        _ip("netns", "add", name)
    except OSError as error:
        return str(error)
    try:
        _ip("-n", name, "link", "add", "wire", "type", "veth", "peer", "name", "cable")
    except OSError as error:
        return str(error)
    finally:
        _ip("netns", "del", name)
    return None


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
