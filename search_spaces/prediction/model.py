"""What a space family may say ahead of any measurement: how long a config takes, and what holds it up.

A prediction is a model's word and never a measurement: searches look first where it is good, and believe it as far as
measurements confirm it. Predicting is arithmetic, without a GPU and without a compiler, in well under a millisecond.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hardware:
    """What a model needs to know of a GPU: rates by data sheet or microbenchmark.

    Args:
        name: Ray accelerator type.
        sms: Streaming multiprocessors.
        boost_mhz: Clock where power does not limit it.
        sustained_mhz: Clock at which the power limit holds a kernel that keeps the tensor cores busy.
        hbm_bytes_per_us: Rate at which device memory can be read.
        l2_bytes_per_us: Rate at which all SMs together read the L2.
        l2_bytes: Size of the L2.
        load_latency_us: From the request of a tile in device memory to its arrival, memory busy.
        tensor_flop_per_cycle: FP8 multiplications and additions of an SM's tensor cores.
        fma_per_cycle: Float32 multiply-adds of an SM.
        smem_bytes_per_cycle: Bytes that an SM's shared memory port moves.
        tmem_bytes_per_cycle: Bytes that an SM reads from tensor memory, 0 where it has none.
        tmem_load_cycles: Latency of one load from tensor memory, 0 where there is none.
        launch_us: What timing one empty kernel by graph replay shows.
        dependency_us: From the end of a kernel to the first load of one that waits for it.
        programmatic_us: The same with programmatic dependent launch.
        measured: Whether kernels were ever timed on it here; else every prediction for it is a forecast.
    """

    name: str
    sms: int
    boost_mhz: float
    sustained_mhz: float
    hbm_bytes_per_us: float
    l2_bytes_per_us: float
    l2_bytes: float
    load_latency_us: float
    tensor_flop_per_cycle: float
    fma_per_cycle: float
    smem_bytes_per_cycle: float
    tmem_bytes_per_cycle: float
    tmem_load_cycles: float
    launch_us: float
    dependency_us: float
    programmatic_us: float
    measured: bool = True


@dataclass(frozen=True)
class WorkloadFeatures:
    """What a workload is like, as far as the time of a kernel depends on it.

    Args:
        axes: Variable axis -> size.
        counts: What only the inputs' values tell: the lists among the figures that the space's input generator
            describes them by, such as ``rows_per_expert``. Missing where nobody looked; a model then assumes something
            usual.
    """

    axes: Mapping[str, int]
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((tuple(sorted(self.axes.items())), tuple(sorted(self.counts.items()))))


@dataclass(frozen=True)
class KernelPrediction:
    """One kernel of a config.

    Args:
        name: As profilers show it.
        us: What it adds to the whole.
        resources_us: Resource -> microseconds that it would take if nothing but this resource limited it.
        losses_us: What is lost inside these -> microseconds: the tail of the last wave, filling rows, the start.
    """

    name: str
    us: float
    resources_us: Mapping[str, float]
    losses_us: Mapping[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self.resources_us, key=lambda name: self.resources_us[name], default="unknown")


@dataclass(frozen=True)
class Prediction:
    """A config on a workload.

    Args:
        kernels: In the order in which they run.
        fixed_us: What belongs to no kernel: launch and timing.
    """

    kernels: tuple[KernelPrediction, ...]
    fixed_us: float = 0.0

    @property
    def us(self) -> float:
        """Microseconds of the whole."""
        return self.fixed_us + sum(kernel.us for kernel in self.kernels)

    @property
    def resources_us(self) -> dict[str, float]:
        """Resource -> microseconds, added over the kernels; the sum of several may exceed the whole, they overlap."""
        total: dict[str, float] = {}
        for kernel in self.kernels:
            for name, us in kernel.resources_us.items():
                total[name] = total.get(name, 0.0) + us
        return total

    @property
    def bound(self) -> str:
        """The resource that takes longest in the longest kernel."""
        return max(self.kernels, key=lambda kernel: kernel.us).bound if self.kernels else "launch"

    @property
    def bound_us(self) -> float:
        """Microseconds that the bounding resource of each kernel takes: what is left if all else is hidden."""
        return sum(max(kernel.resources_us.values(), default=0.0) for kernel in self.kernels)


class Model(ABC):
    """A family's expectations for one space. Models hold no state that a caller could see, and threads share them."""

    @abstractmethod
    def predict(self, config: Mapping[str, Any], features: WorkloadFeatures, hardware: Hardware) -> Prediction:
        """What a valid config should take on a workload; whatever it raises means that it does not know."""
