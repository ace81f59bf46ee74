"""What ``tuner doctor`` says about the place: home, temporary folder, shared memory, network, CPUs."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from db.errors import StoreError
from workers.cluster import local
from workers.devices.environment import cores, cpu_quota
from workers.errors import WorkerError


@dataclass(frozen=True)
class Check:
    """The result of one check. ``needed`` says whether a sweep on this machine depends on it."""

    name: str
    ok: bool
    message: str
    needed: bool = True

    def document(self) -> dict[str, Any]:
        """The JSON document of the check."""
        return asdict(self)


def examine(starts_ray: bool) -> list[Check]:
    """Checks of the place.

    Args:
        starts_ray: Whether sweeps start a cluster here, and do not join one elsewhere.
    """
    return [
        _home(),
        _cpus(),
        guarded("loopback network", _loopback, needed=starts_ray),
        _temporary_folder(starts_ray),
        _shared_memory(),
        _proxies(),
    ]


def guarded(name: str, look: Callable[[], str], needed: bool = True) -> Check:
    """A check that fails with the one line that a sweep would end with."""
    try:
        return Check(name, True, look(), needed)
    except (StoreError, WorkerError) as error:
        return Check(name, False, str(error), needed)


def _home() -> Check:
    home = os.environ.get("HOME", "")
    if os.access(home, os.W_OK):
        return Check("home folder", True, home, needed=False)
    lack = f"{home} cannot be written" if home else "there is none"
    return Check("home folder", False, f"{lack}; set TUNER_DB_URL and TUNER_CACHE_DIR", needed=False)


def _cpus() -> Check:
    quota = cpu_quota()
    limit = "" if quota is None else f"; the control group allows {quota:g} of {len(os.sched_getaffinity(0))}"
    return Check("cpus", True, f"builders and threads for {cores()}{limit}", needed=False)


def _loopback() -> str:
    local.check_loopback()
    return "127.0.0.1 can be reached"


def _temporary_folder(needed: bool) -> Check:
    ok = os.access(local.TEMP_ROOT, os.W_OK)
    message = f"{local.TEMP_ROOT}" if ok else f"{local.TEMP_ROOT} cannot be written; make it writable, or set TMPDIR"
    return Check("temporary folder", ok, message, needed)


def _shared_memory() -> Check:
    free = local.shared_memory_bytes()
    ok = free >= local.OBJECT_STORE_BYTES * 1.2
    message = f"{free >> 20} MiB free in {local.SHARED_MEMORY}"
    return Check("shared memory", ok, message if ok else f"{message}; {local.TEMP_ROOT} is used instead", needed=False)


def _proxies() -> Check:
    proxies = {k: v for k, v in urllib.request.getproxies().items() if k in ("http", "https", "all")}
    shown = ", ".join(f"{k}: {v.rpartition('@')[2]}" for k, v in sorted(proxies.items()))
    return Check("proxies", True, f"{shown}; not for loopback" if shown else "none", needed=False)
