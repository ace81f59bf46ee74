"""The host as a device: the embedded default, and the stand-in for CUDA wherever there is none."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.device import Device, Run
from workers.environment import memory_bytes

_FALLBACK_LLC_BYTES = 32 << 20
_MAX_FLUSH_BYTES = 256 << 20
_MEMORY_SHARE = 0.2
"""Share of main memory for resident workloads."""


class HostDevice(Device):
    """Times with the host's clock. The cold cache is made by rewriting a buffer of twice the last-level cache."""

    name = "cpu"
    modes = ("host",)

    def __init__(self) -> None:
        import torch

        size = min(2 * last_level_cache_bytes(), _MAX_FLUSH_BYTES)
        self._flush = torch.zeros(size // 4, dtype=torch.int32)

    def synchronize(self) -> None:
        """Nothing is asynchronous here."""

    def prepare(self, run: Run, mode: str) -> Run:
        """The run itself."""
        return run

    def flush_cache(self) -> None:
        """Rewrite the buffer; torch spreads it over its threads, so the private caches of all cores go too."""
        self._flush.add_(1)

    def time_us(self, run: Run, cold_cache: bool) -> float:
        """Host time around one call."""
        if cold_cache:
            self.flush_cache()
        began = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - began) / 1e3

    def conditions(self) -> Mapping[str, Any]:
        """Mean core clock and the machine's load."""
        found: dict[str, Any] = {"load_1min": round(os.getloadavg()[0], 2)}
        clocks = []
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("cpu MHz"):
                    clocks.append(float(line.partition(":")[2]))
        if clocks:
            found["cpu_mhz"] = round(sum(clocks) / len(clocks), 1)
        return found

    def is_healthy(self) -> bool:
        """A host that answers is healthy."""
        return True

    def memory_budget_bytes(self) -> int:
        """A fixed share of main memory."""
        return int(memory_bytes() * _MEMORY_SHARE)


def last_level_cache_bytes() -> int:
    """Size of the largest cache of core 0, or 32 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
            sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=_FALLBACK_LLC_BYTES)
