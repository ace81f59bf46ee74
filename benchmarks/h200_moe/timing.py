"""Device time of a callable: cold L2, CUDA-graph replay or eager calls, samples by events, clocks read beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

FLUSH_BYTES = 256 << 20
"""Over four times the 60 MB L2 of an H200."""


@dataclass(frozen=True)
class Timing:
    """Samples in microseconds; ``low_us`` and ``high_us`` bound the median at 95 % by order statistics."""

    samples_us: list[float] = field(repr=False)
    median_us: float
    low_us: float
    high_us: float


class Timer:
    """Times callables on the current device.

    Before each sample the L2 is filled with other lines: ``read`` streams a buffer through it, which leaves clean
    lines (as weights and activations of other layers would); ``write`` zeroes the buffer and leaves dirty ones, whose
    write-back the candidate then pays for. That kernel also keeps the device busy while the host enqueues the sample,
    so that host launch time is not measured in graph mode and, in eager mode, only where it exceeds the flush.
    """

    def __init__(self, flush: str = "read"):
        self.flush = flush
        self.buffer = torch.zeros(FLUSH_BYTES // 4, device="cuda", dtype=torch.float32)
        self.sink = torch.zeros((), device="cuda", dtype=torch.float32)

    def flush_l2(self) -> None:
        if self.flush == "write":
            self.buffer.zero_()
        else:
            torch.amax(self.buffer, dim=0, out=self.sink)

    def samples(self, call: Callable[[], object], count: int) -> list[float]:
        """Microseconds of ``count`` calls, each with a cold L2."""
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for begin, end in events:
            self.flush_l2()
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e3 for begin, end in events]

    def time(self, call: Callable[[], object], count: int = 50, graph: bool = True) -> Timing:
        """Median of ``count`` samples after 5 that are thrown away."""
        if graph:
            call = capture(call).replay
        self.samples(call, 5)
        return summary(self.samples(call, count))


def capture(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of one call; a call before it loads modules and sizes workspaces."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    torch.cuda.synchronize()
    return graph


def summary(samples: list[float]) -> Timing:
    """Median and its 95 % interval from order statistics (normal approximation of the binomial)."""
    ordered = sorted(samples)
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    reach = 0.98 * math.sqrt(n)
    low = ordered[max(0, math.floor(n / 2 - reach))]
    high = ordered[min(n - 1, math.ceil(n / 2 + reach) - 1 if n > 1 else 0)]
    return Timing(samples, middle, low, high)


def kernel_times(call: Callable[[], object], timer: Timer, repeats: int = 10) -> dict[str, float]:
    """Mean device microseconds per call of each kernel that ``call`` launches, cold L2, from torch's profiler.

    Kernels that overlap through programmatic dependent launch are counted in full, so the sum can exceed the whole.
    """
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as base:
        for _ in range(repeats):
            timer.flush_l2()
        torch.cuda.synchronize()
    own = {event.key for event in base.key_averages()}
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(repeats):
            timer.flush_l2()
            call()
        torch.cuda.synchronize()
    rows = (e for e in trace.key_averages() if e.key not in own)
    return {e.key: e.self_device_time_total / repeats for e in rows if e.self_device_time_total > 0}


class Conditions:
    """Clocks, temperature, power and throttle reasons through NVML; empty readings where NVML is missing."""

    def __init__(self, index: int = 0):
        try:
            import pynvml

            pynvml.nvmlInit()
            self.nvml = pynvml
            self.handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except Exception as error:
            self.nvml = None
            self.why = f"{type(error).__name__}: {error}"

    def read(self) -> dict[str, float | str]:
        if self.nvml is None:
            return {"unavailable": self.why}
        n, h = self.nvml, self.handle
        return {
            "sm_mhz": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
            "memory_mhz": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
            "temperature_c": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
            "power_w": n.nvmlDeviceGetPowerUsage(h) / 1000,
            "throttle_reasons": hex(n.nvmlDeviceGetCurrentClocksThrottleReasons(h)),
        }
