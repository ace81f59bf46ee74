"""One NVIDIA GPU as a device: CUDA events, cold L2, graphs, and what NVML says about clocks and throttling."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from workers.device import Device, Run
from workers.environment import nvml_handle
from workers.errors import WorkerError

_BUSY_CYCLES = 400_000
"""Length of the spin that keeps the GPU busy while the host enqueues: about 0.2 ms at 1.98 GHz. Long enough for a
start event and a few launches, short against a sample with its flush."""

_L2_FLUSH_FACTOR = 4
_MEMORY_SHARE = 0.6


class CudaDevice(Device):
    """The GPU that CUDA shows as number 0.

    A sample is: flush L2, spin, start event, candidate, end event. The spin lets the host run ahead, so that in
    ``eager`` mode the gap before the candidate's first launch is not measured while gaps between its own launches are;
    in ``cuda_graph`` mode launches cost what a graph's do.

    Source: triton-lang/triton, python/triton/testing.py (do_bench) for the L2 flush before every sample; nvbench
    (NVIDIA/nvbench, blocking kernel) for keeping the device busy ahead of the first event.
    """

    name = "cuda:0"
    modes = ("eager", "cuda_graph")

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise WorkerError("no CUDA device is visible to this evaluator")
        self._torch = torch
        properties = torch.cuda.get_device_properties(0)
        l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or (64 << 20)
        self._flush = torch.zeros(_L2_FLUSH_FACTOR * l2_bytes // 4, dtype=torch.int32, device=self.name)
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)
        self._nvml = _open_nvml()

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self._torch.cuda.synchronize()

    def prepare(self, run: Run, mode: str) -> Run:
        """The run, or a graph of it, captured after three runs on a side stream: first calls do more."""
        if mode != "cuda_graph":
            return run
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def flush_cache(self) -> None:
        """Overwrite a buffer of four times the L2."""
        self._flush.zero_()

    def time_us(self, run: Run, cold_cache: bool) -> float:
        """Device time between two events around one call."""
        if cold_cache:
            self.flush_cache()
        self._torch.cuda._sleep(_BUSY_CYCLES)
        self._start.record()
        run()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1e3

    def conditions(self) -> Mapping[str, Any]:
        """Clocks, temperature, power and throttle reasons; empty without NVML."""
        if self._nvml is None:
            return {}
        nvml, handle = self._nvml
        found: dict[str, Any] = {}
        readers = {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        }
        for key, read in readers.items():
            # Not every board answers every question; what is missing is not in the record.
            with contextlib.suppress(nvml.NVMLError):
                found[key] = read()
        return found

    def is_healthy(self) -> bool:
        """Whether a trivial kernel still runs: after an illegal access every later call in the process fails."""
        try:
            self._torch.cuda.synchronize()
            return int(self._torch.ones(8, device=self.name).sum().item()) == 8
        except Exception:
            return False

    def memory_budget_bytes(self) -> int:
        """A fixed share of the GPU's memory."""
        return int(self._torch.cuda.get_device_properties(0).total_memory * _MEMORY_SHARE)


def _open_nvml() -> tuple[Any, Any] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, nvml_handle(pynvml)
    except Exception:
        # Timing works without NVML; the conditions are then absent from the record, which says so itself.
        return None
