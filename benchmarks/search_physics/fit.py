"""Fits the constants of the model, and of the GPU what no data sheet says, to a few sizes of recorded sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_physics.recorded import Recorded, Timed
from search_spaces.moe_fp8_cute.model import predict
from search_spaces.moe_fp8_cute.model_gemm import FittedConstants
from search_spaces.prediction.model import Hardware

SIZES = (1, 16, 56, 901, 14107)
"""Tokens of the workloads that are fitted to: one or two of each regime."""
LOOKED_AT = "2e69caee-ae5c-473b-aa99-5dc6659829d4"
"""The workload of 15 tokens: what the model got wrong on its random configs was looked at, so it is not held out."""
KERNELS = tuple(f.name for f in fields(FittedConstants))
GPU = ("hbm_bytes_per_us", "load_latency_us", "dependency_us")
"""``programmatic_us`` is not among them: only its sum with others tells."""
BOUNDS = {
    "sharpness": (2.0, 12.0),
    "power": (0.3, 1.0),
    "lag": (0.02, 0.6),
    "hbm_bytes_per_us": (4.0e6, 4.75e6),
    "clearing": (0.3, 1.5),
    "fma_cycles": (1.0, 4.0),
    "swapped_fma_cycles": (1.5, 12.0),
    "small_share": (0.3, 0.9),
}
"""What physics allows; the others have none."""
SLOW = 3.0
"""How fast a config's weight falls with its distance from the best: the model is for finding fast ones."""


def fitted_to(recorded: Recorded, sweeps: Sequence[str], sizes: Sequence[int] = SIZES) -> list[Timed]:
    """The measurements that a fit sees."""
    wanted = {u for u, f in recorded.features.items() if f.axes["seq_len"] in sizes}
    return [t for t in recorded.timed if t.sweep in sweeps and t.workload in wanted]


def fit(recorded: Recorded, seen: Sequence[Timed], hardware: Hardware) -> tuple[FittedConstants, Hardware]:
    """Constants and GPU figures with the smallest weighted squares of log ratios, from those in the sources."""
    from scipy.optimize import least_squares

    names = (*KERNELS, *GPU)
    start = np.log([getattr(FittedConstants(), n) for n in KERNELS] + [getattr(hardware, n) for n in GPU])
    low = np.array([np.log(BOUNDS[n][0]) if n in BOUNDS else -9.0 for n in names])
    high = np.array([np.log(BOUNDS[n][1]) if n in BOUNDS else 20.0 for n in names])
    best: dict[str, float] = {}
    for t in seen:
        best[t.workload] = min(best.get(t.workload, t.us), t.us)
    weights = np.array([1 / (1 + SLOW * np.log(t.us / best[t.workload])) for t in seen])

    def unpack(x: NDArray[np.float64]) -> tuple[FittedConstants, Hardware]:
        values = [float(v) for v in np.exp(x)]
        constants = FittedConstants(**dict(zip(KERNELS, values, strict=False)))
        return constants, replace(hardware, **dict(zip(GPU, values[len(KERNELS) :], strict=True)))

    def off(x: NDArray[np.float64]) -> NDArray[np.float64]:
        constants, gpu = unpack(x)
        said = [predict(t.config, recorded.space.sizes, recorded.features[t.workload], gpu, constants).us for t in seen]
        return np.log(np.array(said) / np.array([t.us for t in seen])) * weights * 10

    clipped = np.clip(start, low + 0.01, high - 0.01)
    found = least_squares(off, clipped, bounds=(low, high), loss="soft_l1", max_nfev=40, diff_step=0.02)
    return unpack(found.x)
