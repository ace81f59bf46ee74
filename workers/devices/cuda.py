"""One NVIDIA GPU as a device: CUDA events, cold L2, graphs, drift reference, clocks and throttling by NVML.

docs/measurement.md says what a sample is and what is done about doubtful ones.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from workers.devices.device import CANDIDATE, COLD, DRIFT_REFERENCE, CaptureError, Device, Run, Sample
from workers.devices.environment import open_nvml
from workers.devices.other_load import OtherLoad
from workers.errors import WorkerError

_L2_FLUSH_FACTOR = 4
"""Size of the buffer that is read to make the L2 cold, in L2 sizes. Reading it takes 60 us at 4 TB/s on an H200."""

_SPIN_CYCLES = 20_000
"""Shortest spin between the flush and the start event: 10 us at 2 GHz. It doubles when the host is late."""

_SPIN_DECAY = 0.99
"""Factor on the spin after each sample that is not late, so that it shrinks again after a busy moment of the host."""

_MAX_SPIN_CYCLES = 640_000
"""Longest spin; also the spin without a flush."""

_MEMORY_SHARE = 0.6

_HARMFUL_REASONS = 0x08 | 0x20 | 0x40 | 0x80
"""Hardware slowdown, software and hardware thermal slowdown, power brake. Not the software power cap (0x04): under
heavy matrix products a card is always at it, and that is its normal speed."""

_OTHERS_EVERY_S = 2.0
"""Seconds between two readings of how other processes use the GPU."""

_DRIFT_SIZE = 4096
_DRIFT_COPY_BYTES = 128 << 20
_DRIFT_SAMPLES = 5


class CudaDevice(Device):
    """The GPU that CUDA shows as number 0.

    A sample is: read a buffer of four L2 sizes, spin, start event, candidate, end event. Flush and spin keep the device
    busy while the host submits what follows: in ``cuda_graph`` mode the sample holds nothing of the host (a sample
    whose start event was reached before its graph was submitted is ``late``); in ``eager`` mode it holds the gaps
    between a candidate's own launches, where its host code is slower than the device.

    Source: triton-lang/triton, python/triton/testing.py (do_bench) for a flush before every sample; nvbench
    (NVIDIA/nvbench, blocking kernel) for keeping the device busy ahead of the first event.
    """

    name = "cuda:0"
    modes = ("eager", "cuda_graph")
    graph_mode = "cuda_graph"
    runs_ahead = True
    retakes = 2

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise WorkerError("no CUDA device is visible to this evaluator")
        self._torch = torch
        self.model = torch.cuda.get_device_name(0)
        properties = torch.cuda.get_device_properties(0)
        l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or (64 << 20)
        self._flush = torch.rand(_L2_FLUSH_FACTOR * l2_bytes // 4, dtype=torch.float32, device=self.name)
        self._sink = torch.zeros((), dtype=torch.float32, device=self.name)
        self._side = torch.cuda.Stream()
        self._present, self._streams = torch._C._cuda_getCurrentRawStream, dict[int, Any]()
        self._spin = _SPIN_CYCLES
        self._flushed_from: Any = None
        self._spans: list[tuple[str, Any, Any]] = []
        self._busy_s: dict[str, float] = defaultdict(float)
        self._drift_reference: Run | None = None
        self._nvml = _open_nvml()
        self._load = OtherLoad()
        self._looked_at = -float("inf")
        self._others: dict[str, float] = {}

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self._torch.cuda.synchronize()

    def mark(self) -> Callable[[], None]:
        """An event on the current stream, to be waited for."""
        reached = self._event()
        return lambda: reached.synchronize()

    def prepare(self, run: Run, mode: str) -> Run:
        """The run, or a graph of it.

        The graph is captured after one run on the capturing stream, so that everything a first call makes exists.
        torch.cuda.graph is not used, since it waits for the device and empties the memory pools on entry.
        """
        if mode != "cuda_graph":
            return run
        torch = self._torch
        current = torch.cuda.current_stream()
        self._side.wait_stream(current)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self._side):
            with self.span(CANDIDATE):
                run()
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                run()
                graph.capture_end()
            except BaseException as error:
                raise CaptureError(error, self._undo_capture(graph, pool)) from error
        current.wait_stream(self._side)

        return _Replay(graph, run)

    def _undo_capture(self, graph: Any, pool: Any) -> bool:
        """End a failed capture, and say whether this process works as before.

        torch leaves its allocator in the capture's pool and its generator in capture mode if a capture fails. The
        allocator can be told; the generator leaves that mode at the end of the next capture that works.
        """
        torch = self._torch
        try:
            graph.capture_end()
        except Exception:
            with contextlib.suppress(Exception):
                torch._C._cuda_endAllocateToPool(0, pool)
                torch._C._cuda_releasePool(0, pool)
        self._side = torch.cuda.Stream()
        try:
            small = torch.zeros(8, device=self.name)
            torch.cuda.synchronize()
            with torch.cuda.stream(self._side):
                again = torch.cuda.CUDAGraph()
                again.capture_begin(capture_error_mode="thread_local")
                small.add_(1)
                again.capture_end()
                again.replay()
            torch.cuda.synchronize()
            drawn = torch.rand(8, device=self.name)
            return bool((small == 1).all()) and bool((drawn < 1).all()) and self.is_healthy()
        except Exception:
            return False

    def ready(self, mode: str, cold_cache: bool) -> None:
        """Read the flush buffer, then spin."""
        torch = self._torch
        self._flushed_from = self._event()
        if cold_cache:
            torch.amax(self._flush, dim=0, out=self._sink)
        spin = self._spin if mode == "cuda_graph" else _SPIN_CYCLES
        torch.cuda._sleep(spin if cold_cache else _MAX_SPIN_CYCLES)

    def hold(self, mode: str) -> None:
        """Spin for long; a graph is submitted in one go and needs none of it."""
        if mode != "cuda_graph":
            self._torch.cuda._sleep(_MAX_SPIN_CYCLES)

    def submit(self, run: Run, mode: str, kind: str = CANDIDATE) -> Sample:
        """Submit one call between two events."""
        start = self._event()
        run()
        end = self._event()
        late = mode == "cuda_graph" and bool(start.query())
        if mode == "cuda_graph":
            # Unchanged in eager mode: the spin hides part of the candidate's host code, always the same part.
            spin = 2 * self._spin if late else int(self._spin * _SPIN_DECAY)
            self._spin = min(max(spin, _SPIN_CYCLES), _MAX_SPIN_CYCLES)
        return _Timed((self._flushed_from, start, end), late, kind, self._busy_s)

    @contextlib.contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """Record events around the block, on the current stream."""
        start = self._event()
        yield
        self._spans.append((kind, start, self._event()))

    def usage(self) -> dict[str, float]:
        """Device seconds by kind of work, including gaps inside a span."""
        for kind, start, end in self._spans:
            end.synchronize()
            self._busy_s[kind] += start.elapsed_time(end) / 1e3
        self._spans.clear()
        found = dict(self._busy_s)
        self._busy_s.clear()
        return found

    def conditions(self) -> Mapping[str, Any]:
        """Clocks, temperature, power and throttle reasons; empty without NVML."""
        if self._nvml is None:
            return {}
        nvml, readers, _ = self._nvml
        found: dict[str, Any] = {}
        for key, read in readers.items():
            # Not every board supports every query; what is missing is left out of the record.
            with contextlib.suppress(nvml.NVMLError):
                found[key] = read()
        return found

    def watch_load(self) -> Callable[[], Mapping[str, Any]]:
        """Watch what other processes use of the cores and, if NVML reports it, of the GPU."""
        cores = self._load.watch()
        return lambda: {**cores(), **self._other_gpu_percent()}

    def is_throttled(self, conditions: Mapping[str, Any]) -> bool:
        """Whether heat or the power supply limits the clock."""
        return bool(int(conditions.get("throttle_reasons", 0)) & _HARMFUL_REASONS)

    def drift_reference_us(self) -> float | None:
        """Median of a few cold samples of the drift reference: a bf16 matrix product and a copy, in one graph."""
        if self._drift_reference is None:
            self._drift_reference = self.prepare(self._make_drift_reference(), "cuda_graph")
            self._drift_reference()
        samples = []
        for _ in range(_DRIFT_SAMPLES):
            self.ready("cuda_graph", cold_cache=True)
            samples.append(self.submit(self._drift_reference, "cuda_graph", DRIFT_REFERENCE).us())
        return float(statistics.median(samples))

    def is_healthy(self) -> bool:
        """Whether a trivial kernel still runs: after an illegal access every later call in the process fails."""
        try:
            self._torch.cuda.synchronize()
            return int(self._torch.ones(8, device=self.name).sum().item()) == 8
        except RuntimeError:
            return False

    def memory_budget_bytes(self) -> int:
        """A fixed share of the GPU's memory."""
        return int(self._torch.cuda.get_device_properties(0).total_memory * _MEMORY_SHARE)

    def release(self) -> None:
        """Empty the allocator's pools."""
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()

    def tidy(self) -> None:
        """Empty the pools if less than a sixth of the memory is left."""
        free, total = self._torch.cuda.mem_get_info()
        if free < total / 6:
            self.release()

    def _other_gpu_percent(self) -> dict[str, float]:
        """Percent of about the last second in which kernels of other processes ran. Read only now and then, since NVML
        averages over that time."""
        now = time.monotonic()
        if self._nvml is None or now - self._looked_at < _OTHERS_EVERY_S:
            return self._others
        self._looked_at, nvml = now, self._nvml[0]
        since_us = int((time.time() - _OTHERS_EVERY_S) * 1e6)
        shares: dict[int, float] = {}
        try:
            for sample in nvml.nvmlDeviceGetProcessUtilization(self._nvml[2], since_us):
                shares[sample.pid] = max(shares.get(sample.pid, 0.0), float(sample.smUtil))
        except nvml.NVMLError:
            shares = {}  # nothing ran, or this board does not report it
        # In a container NVML reports process IDs of the host; the busiest process is then taken to be this one.
        own = os.getpid() if os.getpid() in shares else max(shares, key=lambda pid: shares[pid], default=0)
        self._others = {"other_gpu_percent": sum(share for pid, share in shares.items() if pid != own)}
        return self._others

    def _event(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        # torch.cuda.current_stream takes most of the time that an event does, and thousands are recorded.
        number = self._present(0)
        if number not in self._streams:
            self._streams[number] = self._torch.cuda.current_stream()
        event.record(self._streams[number])
        return event

    def _make_drift_reference(self) -> Run:
        torch = self._torch
        generator = torch.Generator(device=self.name).manual_seed(0)
        shape = (_DRIFT_SIZE, _DRIFT_SIZE)
        a, b = (torch.randn(shape, generator=generator, device=self.name).to(torch.bfloat16) for _ in range(2))
        product = torch.empty(shape, dtype=torch.bfloat16, device=self.name)
        source = torch.rand(_DRIFT_COPY_BYTES // 4, generator=generator, device=self.name)
        target = torch.empty_like(source)

        def drift_reference() -> None:
            torch.mm(a, b, out=product)
            target.copy_(source)

        return drift_reference


class _Replay:
    """A captured graph together with what it was captured from.

    A graph only knows addresses. What the run holds, such as the drift reference's tensors, must not be freed and given
    to others while the graph can still write there.
    """

    def __init__(self, graph: Any, run: Run) -> None:
        self._graph = graph
        self._run = run

    def __call__(self) -> None:
        self._graph.replay()


class _Timed(Sample):
    """A call between two events, with the flush before it."""

    def __init__(self, events: tuple[Any, Any, Any], late: bool, kind: str, busy_s: dict[str, float]) -> None:
        self._flushed_from, self._start, self._end = events
        self.late = late
        self._kind = kind
        self._busy_s = busy_s

    def us(self) -> float:
        self._end.synchronize()
        ms = float(self._start.elapsed_time(self._end))
        self._busy_s[self._kind] += ms / 1e3
        self._busy_s[COLD] += self._flushed_from.elapsed_time(self._start) / 1e3
        return ms * 1e3


def _open_nvml() -> tuple[Any, dict[str, Callable[[], Any]], Any] | None:
    """The NVML library, the queries that it supports, and its handle of the GPU; None without NVML, when timing works
    and the record has no conditions."""
    opened = open_nvml()
    if opened is None:
        return None
    nvml, handle = opened
    # Renamed in driver 535; older bindings have only the old name.
    reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    readers = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "throttle_reasons": lambda: reasons(handle),
    }
    return nvml, readers, handle
