"""One process at a time measures on a device, whatever sweep, user or database it works for.

A lock is a file in a folder that all processes of a machine see, held with ``flock`` while a job is on the device: it
ends with its process, however that ends. A second file makes a queue of those who wait, so that two sweeps take turns.
A GPU's device file is locked as well: containers that were given the same one then wait for each other although their
folders differ.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER = Path("/tmp/tuner-devices")
"""Not the user's own folder for temporary files: other users' sweeps have to find it."""

_PATIENCE_S = 1.0
"""Whoever waits for less than this is not spoken of."""


class DeviceLock:
    """The lock of one device.

    Args:
        name: Of the device, the same for all processes of the machine: ``cpu``, a GPU's UUID.
        purpose: What it is held for, for those who wait.
        device_files: Locked as well, where they can be opened.
    """

    def __init__(self, name: str, purpose: str, device_files: Sequence[str] = ()) -> None:
        self._name = name
        self._purpose = purpose
        safe = re.sub(r"[^A-Za-z0-9.-]", "_", name)
        self._queue = _open(FOLDER / f"{safe}.queue")
        self._file = _open(FOLDER / f"{safe}.lock")
        self._more = [fd for path in device_files if (fd := _open_device(path)) is not None]
        self._waits_since: float | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the device and have it for the block."""
        self._waits_since = time.monotonic()
        with _locked(self._queue):
            stack = contextlib.ExitStack()
            for fd in (self._file, *self._more):
                stack.enter_context(_locked(fd))
        self._waits_since = None
        with stack:
            self._write_holder()
            yield

    def waiting_for(self) -> str | None:
        """Who has the device, if somebody here has been waiting for it for a while."""
        since = self._waits_since
        if since is None or time.monotonic() - since < _PATIENCE_S or self._file is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            holder = json.loads(os.pread(self._file, 4096, 0).rstrip(b"\0 "))
            return f"{self._name} is in use by process {holder['pid']} of {holder['user']} ({holder['purpose']})"
        return f"{self._name} is in use by another process"

    def _write_holder(self) -> None:
        if self._file is None:
            return
        holder = {"pid": os.getpid(), "user": _user(), "purpose": self._purpose}
        os.pwrite(self._file, json.dumps(holder).encode().ljust(1024), 0)


def device_lock(target: str, purpose: str) -> DeviceLock:
    """The lock of the device that this process measures a target's kernels on."""
    from search_spaces.targets import is_cuda

    if not is_cuda(target):
        return DeviceLock("cpu", purpose)
    from workers.devices.environment import open_nvml

    opened = open_nvml()
    if opened is None:  # without NVML the device has no name that is the same for all
        return DeviceLock("gpu", purpose)
    nvml, handle = opened
    files: list[str] = []
    with contextlib.suppress(nvml.NVMLError):  # not every container may know it
        files.append(f"/dev/nvidia{nvml.nvmlDeviceGetMinorNumber(handle)}")
    return DeviceLock(str(nvml.nvmlDeviceGetUUID(handle)), purpose, files)


@contextlib.contextmanager
def _locked(fd: int | None) -> Iterator[None]:
    if fd is None:
        yield
        return
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _open(path: Path) -> int | None:
    """The lock file, made for everybody; None where that cannot be done, and nobody is waited for."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
            path.parent.chmod(0o1777)
        # First without O_CREAT: in such a folder the kernel refuses that for another user's file.
        for more in (0, os.O_CREAT | os.O_EXCL, 0):
            try:
                fd = os.open(path, flags | more, 0o666)
            except (FileNotFoundError, FileExistsError):
                continue
            if more:
                os.fchmod(fd, 0o666)  # whatever the umask
            return fd
    print(f"worker: {path} cannot be opened; other sweeps on this device are not waited for")
    return None


def _open_device(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        return str(os.getuid())
