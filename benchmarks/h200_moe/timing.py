"""The product's GPU timer for calls without a definition and a workload, and times per kernel."""

from __future__ import annotations

from collections.abc import Callable

import product  # noqa: F401
import torch

from workers.devices.cuda import CudaDevice
from workers.devices.device import Device, Run
from workers.judge.timing.timer import Timing, measure
from workers.records import Method

MOST_S = 60.0
"""Seconds after which no sample is started."""


class Timer:
    """Times calls with a cold L2 before each sample; workers/devices/cuda.py says what a sample is.

    Args:
        device: Where they run; the GPU by default.
    """

    def __init__(self, device: Device | None = None) -> None:
        self.device = device or CudaDevice()

    def capture(self, call: Callable[[], object]) -> Run:
        """The replay of a CUDA graph of one call, after a call that loads modules and sizes workspaces.

        Raises:
            CaptureError: It cannot be captured; the process is of no use afterwards.
        """
        return self.device.prepare(call, "cuda_graph")

    def samples(self, replay: Run, count: int) -> list[float]:
        """Microseconds of ``count`` replays, without those that the host submitted too late, if any are left."""
        taken = []
        for _ in range(count):
            self.device.ready("cuda_graph", cold_cache=True)
            taken.append(self.device.submit(replay, "cuda_graph"))
        us = [sample.us() for sample in taken]
        return [t for t, sample in zip(us, taken, strict=True) if not sample.late] or us

    def time(self, call: Callable[[], object], count: int = 50, graph: bool = True) -> Timing:
        """``count`` samples of a call, taken again if they were throttled or drifted."""
        mode = self.device.modes[-1 if graph else 0]  # of a GPU: eager, cuda_graph
        method = Method(mode=mode, min_samples=count, max_samples=count, budget_s=MOST_S)
        return measure(self.device.prepare(call, mode), method, self.device)


def kernel_times(call: Callable[[], object], timer: Timer, repeats: int = 10) -> dict[str, float]:
    """Mean device microseconds per call of each kernel that ``call`` launches, cold L2, from torch's profiler.

    Kernels that overlap through programmatic dependent launch are counted in full, so the sum can exceed the whole.
    """
    from torch.profiler import ProfilerActivity, profile

    def trace(run: Callable[[], object]):
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(repeats):
                timer.device.ready("eager", cold_cache=True)
                run()
            torch.cuda.synchronize()
        return found.key_averages()

    call()
    torch.cuda.synchronize()
    own = {event.key for event in trace(lambda: None)}
    rows = (e for e in trace(call) if e.key not in own)
    return {e.key: e.self_device_time_total / repeats for e in rows if e.self_device_time_total > 0}
