"""The CPU as a device."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.devices import host_rates
from workers.devices.device import CANDIDATE, Device, Run, Sample
from workers.devices.environment import cpu_model, memory_bytes
from workers.devices.other_load import OtherLoad

_FALLBACK_LLC_BYTES = 32 << 20
_MAX_FLUSH_BYTES = 256 << 20
_MEMORY_SHARE = 0.2
"""Share of main memory for resident workloads."""


class _Taken(Sample):
    """The time of a call that has returned."""

    def __init__(self, us: float) -> None:
        self._us = us

    def us(self) -> float:
        return self._us


class HostDevice(Device):
    """Times with the host's clock. Makes the cache cold by rewriting a buffer of twice the last-level cache."""

    name = "cpu"
    modes = ("host",)

    def __init__(self) -> None:
        import torch

        self.model = cpu_model()
        size = min(2 * last_level_cache_bytes(), _MAX_FLUSH_BYTES)
        self._flush = torch.zeros(size // 4, dtype=torch.int32)
        self._busy_s: dict[str, float] = defaultdict(float)
        self._load = OtherLoad()

    def synchronize(self) -> None:
        """Does nothing: calls on a CPU are synchronous."""

    def prepare(self, run: Run, mode: str) -> Run:
        """The run itself."""
        return run

    def ready(self, mode: str, cold_cache: bool) -> None:
        """Rewrite the buffer, on all threads of torch, so that the private caches of all cores are overwritten too."""
        if cold_cache:
            self._flush.add_(1)

    def submit(self, run: Run, mode: str, kind: str = CANDIDATE) -> Sample:
        """Time one call with the host's clock."""
        began = time.perf_counter_ns()
        run()
        us = (time.perf_counter_ns() - began) / 1e3
        self._busy_s[kind] += us / 1e6
        return _Taken(us)

    @contextlib.contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """Count the block's time by the host's clock."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._busy_s[kind] += time.perf_counter() - began

    def usage(self) -> dict[str, float]:
        """Seconds by kind."""
        found = dict(self._busy_s)
        self._busy_s.clear()
        return found

    def conditions(self) -> Mapping[str, Any]:
        """Mean core clock and load average."""
        found: dict[str, Any] = {"load_1min": round(os.getloadavg()[0], 2)}
        clocks = []
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("cpu MHz"):
                    clocks.append(float(line.partition(":")[2]))
        if clocks:
            found["cpu_mhz"] = round(sum(clocks) / len(clocks), 1)
        return found

    def watch_load(self) -> Callable[[], Mapping[str, Any]]:
        """Watch the cores that other processes use."""
        return self._load.watch()

    def rates(self) -> Mapping[str, float]:
        """Rates of copying and of multiplying and adding."""
        return host_rates.measure(last_level_cache_bytes())

    def is_healthy(self) -> bool:
        """Always true: a broken host would not answer."""
        return True

    def memory_budget_bytes(self) -> int:
        """A fixed share of main memory."""
        return int(memory_bytes() * _MEMORY_SHARE)


def last_level_cache_bytes() -> int:
    """Size of the largest cache of core 0, or 32 MiB if the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
            sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=_FALLBACK_LLC_BYTES)
