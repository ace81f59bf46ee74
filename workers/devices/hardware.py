"""What predictions need to know of a GPU beside the data sheet's peak rates, each figure with where it comes from.

``[D]`` data sheet, ``[A]`` architecture documents, ``[M]`` measured here (docs/results), ``[F]`` fitted to recorded
sweeps (docs/results/search-physics.md), ``[P]`` published by others, ``[E]`` estimated: nobody knows yet.
"""

from __future__ import annotations

import re

from search_spaces.prediction.model import Hardware

_PORT_BYTES = 64
"""[A, P] Bytes a cycle that an SM reads from the L2, Hopper; taken for Blackwell too [E]."""


def _hopper(name: str, hbm_bytes_per_us: float, sustained_mhz: float) -> Hardware:
    return Hardware(
        name=name,
        sms=132,  # [D] SXM
        boost_mhz=1980,  # [M] nvidia-smi under light load
        sustained_mhz=sustained_mhz,
        hbm_bytes_per_us=hbm_bytes_per_us,
        l2_bytes_per_us=132 * _PORT_BYTES * 1980,
        l2_bytes=50e6,  # [D]
        load_latency_us=0.98,  # [F] under load; 0.6 to 0.7 idle [P]
        tensor_flop_per_cycle=8192,  # [A] 1,979 TFLOP/s dense FP8 of the data sheet at 1,830 MHz
        fma_per_cycle=128,  # [A]
        smem_bytes_per_cycle=128,  # [A]
        tmem_bytes_per_cycle=0,
        tmem_load_cycles=0,
        launch_us=3.0,  # [M] docs/kernels.md: a tiny kernel shows 4.1, of which 3 are no kernel's own
        dependency_us=1.5,  # [F]
        programmatic_us=0.6,  # [F] by an earlier fit; only its sum with others tells in later ones
    )


_BY_NAME = {
    hardware.name: hardware
    for hardware in (
        _hopper("H100", hbm_bytes_per_us=0.96 * 3.35e6, sustained_mhz=1450),  # [D] times the share of an H200
        _hopper("H200", hbm_bytes_per_us=0.96 * 4.8e6, sustained_mhz=1450),  # [D, F]; GEMM 1 ran at 1.51 GHz [M]
        Hardware(
            name="B200",
            sms=148,  # [D]
            boost_mhz=1965,  # [D]
            sustained_mhz=1600,  # [E] 1,850 under others' MXF8 GEMMs [P], less with float32 promotion beside them
            hbm_bytes_per_us=7.2e6,  # [P] 7.2 to 7.5 of 8.0 TB/s
            l2_bytes_per_us=148 * _PORT_BYTES * 1965,
            l2_bytes=126e6,  # [D]
            load_latency_us=1.3,  # [E] Hopper's, and 300 cycles to the other die [P]
            tensor_flop_per_cycle=16384,  # [A] tcgen05 FP8
            fma_per_cycle=128,  # [A]
            smem_bytes_per_cycle=128,  # [A]
            tmem_bytes_per_cycle=512,  # [A] 16 lanes x 4 bytes x 4 partitions x 2; others report 197 [P]
            tmem_load_cycles=40,  # [E] 26 would be hidden by four buffers, 60 would not (docs/b200.md)
            launch_us=3.0,  # [E] Hopper's
            dependency_us=1.5,  # [E] Hopper's
            programmatic_us=0.6,  # [E] Hopper's
            measured=False,
        ),
    )
}
"""Ray accelerator type -> figures."""

KNOWN = tuple(_BY_NAME)
"""The GPUs whose figures are known."""


_OTHERS = re.compile(r"\b(PCIe|NVL)\b", re.IGNORECASE)
"""Variants of a model that have other memory, or fewer units."""


def hardware_of(reported: str) -> Hardware | None:
    """The figures of a GPU as its driver or a user names it (``NVIDIA H200``); None where nobody has filled them in."""
    found = [hardware for name, hardware in _BY_NAME.items() if re.search(rf"\b{name}\b", reported, re.IGNORECASE)]
    return None if _OTHERS.search(reported) or not found else found[0]
