"""What surrounds a measurement on a GPU costs how much: `python -m benchmarks.gpu_sweep.overheads`, ten seconds, JSON.

Wall microseconds of host calls, device microseconds of our own kernels on tensors as large as the MoE's, and the wall
time of a whole measurement beside what the device did in it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

_WEIGHTS_BYTES = 1_409_286_144
_OUTPUT = (14_107, 7_168)


def main() -> None:
    """Measure and print."""
    import torch

    from workers.devices.cuda import CudaDevice
    from workers.judge.outputs import check, memory
    from workers.judge.outputs.expected import plain
    from workers.judge.timing.timer import measure
    from workers.records import Method

    device = CudaDevice()
    weights = torch.randint(0, 255, (_WEIGHTS_BYTES,), dtype=torch.uint8, device=device.name)
    output = torch.randn(_OUTPUT, device=device.name).to(torch.bfloat16)
    small = torch.randn(64, 7_168, device=device.name).to(torch.bfloat16)
    large_truth, small_truth = plain([output]), plain([small])
    rows = weights.view(torch.int64).view(-1, memory._DIGEST_ROW)
    on_device: dict[str, Callable[[], Any]] = {
        "flush": lambda: torch.amax(device._flush, dim=0, out=device._sink),
        "digest rows": lambda: rows.sum(1),
        "digest columns": lambda: rows.sum(0),
        "digest": lambda: memory.digest(weights),
        "quick digest": lambda: memory.digest(weights, thorough=False),
        "compare large": lambda: check.begin_compare([output], large_truth),
        "compare small": lambda: check.begin_compare([small], small_truth),
        "poison large": lambda: memory.poison([output], 0),
    }
    found: dict[str, Any] = {"device": device.model, "device_us": {}, "host_us": {}, "measurement": []}
    for name, work in on_device.items():
        work()
        times = [device.time_us(work, "eager", cold_cache=False) for _ in range(7)]
        found["device_us"][name] = round(statistics.median(times), 1)
    readers = device._nvml[1] if device._nvml is not None else {}
    on_host: dict[str, Callable[[], Any]] = {
        **{f"nvml {name}": read for name, read in readers.items()},
        "conditions": device.conditions,
        "capture": lambda: device.prepare(lambda: [small.add_(1) for _ in range(5)], "cuda_graph"),
        "synchronize": device.synchronize,
        "healthy": device.is_healthy,
        "tidy": device.tidy,
        "small verdict": lambda: check.compare([small], small_truth),
    }
    for name, call in on_host.items():
        found["host_us"][name] = round(_wall_us(call), 1)
    found["anchor_us"] = [device.drift_reference_us() for _ in range(20)]
    for mode in ("cuda_graph", "eager"):
        for cycles in (50_000, 400_000, 4_000_000):
            device.usage()
            began = time.perf_counter()
            spin = device.prepare(lambda n=cycles: torch.cuda._sleep(n), mode)  # type: ignore[misc]
            timing = measure(spin, Method(mode=mode, min_samples=10), device)
            wall_s = time.perf_counter() - began
            found["measurement"].append(
                {
                    "mode": mode,
                    "median_us": round(timing.interval.median, 1),
                    "samples": len(timing.samples_us),
                    "late": timing.conditions.get("late", 0),
                    "wall_ms": round(wall_s * 1e3, 2),
                    "device_ms": {k: round(v * 1e3, 2) for k, v in device.usage().items()},
                }
            )
    print(json.dumps(found, indent=1))


def _wall_us(call: Callable[[], Any], repeats: int = 15) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    main()
