"""Synthetic rows: the shape and number of a busy year, with figures that were never measured.

20 definitions on 4 GPUs, 5 sweeps each; a sweep has 125 trials of 20 workloads in 4 regimes. That makes 400 sweeps,
50,000 trials and 1,000,000 measurements of 30 samples.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HARDWARE = ("NVIDIA H100", "NVIDIA H200", "NVIDIA B200", "NVIDIA GB200")
BOUNDS = ((None, 16), (17, 256), (257, 2048), (2049, None))
SIZES = tuple(round(2 ** (i * 0.75)) + i for i in range(20))
START = 1_700_000_000.0
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Scale:
    """How many of each."""

    definitions: int = 20
    sweeps: int = 5
    trials: int = 125
    workloads: int = len(SIZES)
    samples: int = 30

    @property
    def total(self) -> int:
        """Measurements in all."""
        return self.definitions * len(HARDWARE) * self.sweeps * self.trials * self.workloads


def definition_name(number: int) -> str:
    """Name of a definition, such as lookups ask for."""
    return f"synthetic_moe_{number:02d}"


def columns() -> dict[str, tuple[str, ...]]:
    """Table -> the columns that :func:`rows` fills, parents first."""
    measured = ("status", "samples", "median_us", "low_us", "high_us", "conditions", "message", "measured_at")
    return {
        "definition": ("id", "name", "op_type", "digest", "body"),
        "environment": ("id", "fingerprint", "hardware", "target", "compute_capability", "units", "memory_bytes",
                        "driver", "versions"),
        "method": ("id", "hash", "body"),
        "search_space": ("id", "name", "target", "fingerprint"),
        "workload": ("id", "definition_id", "uuid", "axes", "dataset"),
        "sweep": ("id", "definition_id", "search_space_id", "environment_id", "seed", "settings", "max_trials", "host",
                  "state", "summary", "started_at", "finished_at"),
        "variant": ("id", "search_space_id", "config_hash", "config"),
        "build": ("id", "variant_id", "toolchain", "status", "build_s", "registers", "figures", "log", "built_at"),
        "trial": ("id", "sweep_id", "number", "variant_id", "build_id", "regime", "state", "objective", "reason",
                  "origin", "started_at", "finished_at"),
        "measurement": ("id", "variant_id", "environment_id", "method_id", "workload_id", *measured),
        "trial_measurement": ("trial_id", "measurement_id"),
        "winner": ("id", "sweep_id", "regime", "variant_id", "median_us", "low_us", "high_us", "default_median_us",
                   "size_axis", "min_size", "max_size"),
        "winner_workload": ("winner_id", "workload_id", "median_us", "low_us", "high_us", "default_median_us"),
    }  # fmt: skip


def rows(scale: Scale) -> Iterator[tuple[str, Row]]:
    """(table, row) of everything, parents before children; the same for every database."""
    yield from _named(scale)
    number = 0
    for definition in range(1, scale.definitions + 1):
        for environment in range(1, len(HARDWARE) + 1):
            for _ in range(scale.sweeps):
                number += 1
                yield from _sweep(scale, number, definition, environment)


def _named(scale: Scale) -> Iterator[tuple[str, Row]]:
    for i in range(1, scale.definitions + 1):
        yield "definition", (i, definition_name(i), "moe", f"d{i}", "{}")
        yield "search_space", (i, "synthetic", "sm_90a", f"src{i}")
        for w in range(scale.workloads):
            axes = json.dumps({"seq_len": SIZES[w]})
            yield "workload", ((i - 1) * scale.workloads + w + 1, i, f"w{i}-{w}", axes, "synthetic")
    for i, model in enumerate(HARDWARE, start=1):
        versions = json.dumps({"torch": "2.13.0", "cuda": "13.0", "nvidia-cutlass-dsl": "4.8.1"})
        yield "environment", (i, f"env{i}", model, "sm_90a", "9.0", 132, 141 * 2**30, "580.1", versions)
    yield "method", (1, "m1", json.dumps({"mode": "cuda_graph"}))


def _sweep(scale: Scale, number: int, definition: int, environment: int) -> Iterator[tuple[str, Row]]:
    random_ = random.Random(number)
    at = START + 3600.0 * number
    yield "sweep", (number, definition, definition, environment, number, "{}", scale.trials, "synthetic", "DONE",
                    "{}", at, at + 600)  # fmt: skip
    for t in range(scale.trials):
        yield from _trial(scale, random_, number, t, definition, environment, at)
    best = (number - 1) * scale.trials + 1
    for r, (low, high) in enumerate(BOUNDS):
        winner = (number - 1) * len(BOUNDS) + r + 1
        name = f"{low or 0}-{high or ''}"
        median = random_.uniform(10, 400)
        yield "winner", (winner, number, name, best + r, median, 0.99 * median, 1.01 * median, 1.4 * median,
                         "seq_len", low, high)  # fmt: skip
        for w in range(r * 5, r * 5 + 5):
            uuid = (definition - 1) * scale.workloads + w + 1
            yield "winner_workload", (winner, uuid, median, 0.99 * median, 1.01 * median, 1.4 * median)


def _trial(
    scale: Scale, random_: random.Random, sweep: int, number: int, definition: int, environment: int, at: float
) -> Iterator[tuple[str, Row]]:
    key = (sweep - 1) * scale.trials + number + 1
    config = {"tile_m": 16 << number % 4, "tile_n": 64 << number % 3, "stages": 2 + number % 5, "unique": key}
    regime = BOUNDS[number % len(BOUNDS)]
    yield "variant", (key, definition, f"hash{key}", json.dumps(config))
    yield "build", (key, key, "synthetic", "BUILT", 0.8, 168, "{}", "", at)
    yield "trial", (key, sweep, number, key, key, f"{regime[0] or 0}-{regime[1] or ''}", "PASSED",
                    random_.uniform(2, 6), "", "auto", at + number, at + number + 1)  # fmt: skip
    median = random_.uniform(10, 400)
    samples = struct.pack(f"<{scale.samples}f", *([median] * scale.samples))
    for w in range(scale.workloads):
        measurement = (key - 1) * scale.workloads + w + 1
        workload = (definition - 1) * scale.workloads + w + 1
        yield "measurement", (measurement, key, environment, 1, workload, "PASSED", samples, median, 0.99 * median,
                              1.01 * median, "{}", "", at + number)  # fmt: skip
        yield "trial_measurement", (key, measurement)
