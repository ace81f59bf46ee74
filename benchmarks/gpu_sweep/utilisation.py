"""Samples what NVML says about every GPU while the campaign runs: an independent look at whether the GPU is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

_EVERY_S = 0.2
"""NVML's utilisation is the share of the past 1/6 s to 1 s in which a kernel ran: sampling faster tells nothing new."""


class Sampler:
    """Writes a line for each GPU and moment to a CSV file; without NVML it writes none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[tuple[float, int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def mean(self, gpu: int | None, began: float, ended: float) -> float | None:
        """Mean utilisation (0 to 1) of a GPU, or of GPU 0, between two times; None without readings."""
        return mean(self._rows, gpu or 0, began, ended)

    def _run(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception:  # no driver, no library, no device: the campaign is a rehearsal
            return
        with self._path.open("a", buffering=1) as file:
            file.write("time,gpu,utilisation,memory_used_mib,sm_mhz,power_w,temperature_c,throttle_reasons\n")
            while not self._stop.wait(_EVERY_S):
                for index, handle in enumerate(handles):
                    with suppress(pynvml.NVMLError):
                        self._sample(pynvml, index, handle, file)

    def _sample(self, nvml: Any, index: int, handle: Any, file: Any) -> None:
        now, busy = time.time(), nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        self._rows.append((now, index, busy))
        used = nvml.nvmlDeviceGetMemoryInfo(handle).used >> 20
        clock = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        power = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        temperature = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        file.write(f"{now:.3f},{index},{busy},{used},{clock},{power:.0f},{temperature},{reasons}\n")


def mean(rows: Iterable[tuple[float, int, int]], gpu: int, began: float, ended: float) -> float | None:
    """Mean of the readings of one GPU between two times, as a share."""
    values = [busy for at, index, busy in rows if index == gpu and began <= at <= ended]
    return sum(values) / len(values) / 100 if values else None
