"""The one table of targets: what a kernel can be built for, what runs it, and how it is timed there.

A new GPU is a row here and a search space that has it among its targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Limits of a target as kernels count them; zero for a CPU.

    Args:
        shared_memory_bytes: Shared memory that one block may have.
        registers: Registers of 32 bits of a multiprocessor.
        units: Multiprocessors of the first of the target's accelerators.

    Source: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability"; NVIDIA's data sheets.
    """

    shared_memory_bytes: int = 0
    registers: int = 0
    units: int = 0


@dataclass(frozen=True)
class Accelerator:
    """A GPU model with the peak rates of its data sheet, without sparsity.

    Args:
        name: Ray accelerator type.
        terabytes_per_s: Rate of its memory.
        bf16_teraflop_per_s: Rate of its matrix units in bfloat16, half of that in FP8.
        variants: Words after the name that the driver reports -> memory and bfloat16 rate of that variant.

    Source: NVIDIA's data sheets of H100, H200, HGX B200 and GB200 NVL72.
    """

    name: str
    terabytes_per_s: float | None = None
    bf16_teraflop_per_s: float | None = None
    variants: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What variants are built for and timed on.

    Args:
        name: As ``--target`` takes it.
        device: ``cpu`` or ``cuda``, as torch and flashinfer-bench call it.
        modes: How a variant may be timed, the default first.
        capability: CUDA's compute capability of the GPUs that run it.
        accelerators: The GPU models that run it.
        limits: What its kernels are limited by; constraints of spaces may read it.
    """

    name: str
    device: str
    modes: tuple[str, ...]
    capability: tuple[int, int] | None = None
    accelerators: tuple[Accelerator, ...] = ()
    limits: Limits = Limits()


_CUDA_MODES = ("cuda_graph", "eager")

TARGETS = (
    Target("cpu", "cpu", ("host",)),
    Target(
        "sm_90a",
        "cuda",
        _CUDA_MODES,
        (9, 0),
        (
            Accelerator("H100", 3.35, 989.5, {"PCIe": (2.0, 756.5), "NVL": (3.9, 835.5)}),
            Accelerator("H200", 4.8, 989.5),
            Accelerator("H20"),
            Accelerator("GH200"),
        ),
        Limits(shared_memory_bytes=232448, registers=65536, units=132),
    ),
    Target(
        "sm_100a",
        "cuda",
        _CUDA_MODES,
        (10, 0),
        (Accelerator("B200", 8.0, 2250.0), Accelerator("GB200", 8.0, 2500.0)),
        Limits(shared_memory_bytes=232448, registers=65536, units=148),
    ),
)

NAMES = tuple(target.name for target in TARGETS)

_BY_NAME = {target.name: target for target in TARGETS}


def target_named(name: str) -> Target:
    """The row of a target.

    Raises:
        ValueError: There is none of this name; the message says which there are.
    """
    if name not in _BY_NAME:
        raise ValueError(f"target {name!r} is unknown; allowed are {', '.join(NAMES)}")
    return _BY_NAME[name]


def is_cuda(name: str) -> bool:
    """Whether the target is a GPU that is used through CUDA."""
    return target_named(name).device == "cuda"


def accelerators_of(name: str) -> tuple[str, ...]:
    """Ray accelerator types that run the target; none for the CPU, which every machine has."""
    return tuple(a.name for a in target_named(name).accelerators)


def target_of_accelerator(accelerator: str) -> str | None:
    """The target whose kernels a GPU model runs, None for a model that is not known."""
    return next((t.name for t in TARGETS for a in t.accelerators if a.name == accelerator), None)


def target_of_capability(capability: tuple[int, int]) -> str | None:
    """The target whose kernels run on GPUs of a compute capability, None if there is none."""
    return next((t.name for t in TARGETS if t.capability == capability), None)
