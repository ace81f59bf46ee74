"""``python -m benchmarks.search_physics.forecast``: what the model expects of a GPU that nobody has measured.

A forecast, no measurement. The band goes from the best to the worst that may be found of what is not known of the GPU
(:data:`UNKNOWN`), and 10 % further at each end, about twice what the model is off on an H200.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.search_physics.recorded import ROWS
from benchmarks.search_physics.replay import REGIMES
from search_spaces.moe_fp8_cute.model import predict
from search_spaces.prediction.model import Hardware, WorkloadFeatures
from search_spaces.registry import family
from search_spaces.space import SearchSpace
from tuner.prediction.expected import spread
from tuner.search.config_table import ConfigTable
from tuner.search.expectation import Expectation
from workers.devices.hardware import hardware_of

TEN = 10
OFF = 0.10
"""What the model may be off by itself, at each end."""

UNKNOWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "B200": (
        {"hbm_bytes_per_us": 7.5e6, "sustained_mhz": 1850, "load_latency_us": 1.1, "tmem_load_cycles": 26},
        {
            **{"hbm_bytes_per_us": 6.6e6, "sustained_mhz": 1400, "load_latency_us": 1.6, "tmem_load_cycles": 60},
            **{"tmem_bytes_per_cycle": 197, "programmatic_us": 0.9},
        },
    )
}
"""The best and the worst that may be found of what is [E] or [P] in ``workers/devices/hardware.py`` and matters."""


def doubts_of(hardware: Hardware) -> tuple[Hardware, Hardware]:
    """The GPU as good and as bad as it may turn out; twice the same where it was measured."""
    good, bad = UNKNOWN.get(hardware.name, ({}, {}))
    return replace(hardware, **good), replace(hardware, **bad)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the JSON document, and print tables for docs/b200.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_physics.forecast", description=__doc__)
    parser.add_argument("--definition", type=Path, required=True, help="document of the main definition")
    parser.add_argument("--tokens", type=Path, required=True, help="its workloads: a .jsonl of the dataset")
    parser.add_argument("--hardware", default="B200")
    parser.add_argument("--target", default="sm_100a")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(argv)
    space = family("moe_fp8_cute").space(json.loads(options.definition.read_text()), options.target)
    hardware = hardware_of(options.hardware)
    if hardware is None:
        print(f"forecast: no figures of {options.hardware}", file=sys.stderr)
        return 2
    lines = [json.loads(line)["workload"] for line in options.tokens.read_text().splitlines()]
    like = {
        w["uuid"]: WorkloadFeatures({"seq_len": w["axes"]["seq_len"]}, {"rows_per_expert": tuple(ROWS[w["uuid"]])})
        for w in lines
    }
    regimes = {name: _ten(space, hardware, _inside(like, *bounds)) for name, bounds in REGIMES.items()}
    table = [_row(space, hardware, features, regimes) for features in _by_size(like.values())]
    document = {
        "schema_version": 1,
        "forecast": True,
        "hardware": options.hardware,
        "routing": "synthetic",
        "ten_best": regimes,
        "workloads": table,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    _print(table, regimes)
    return 0


def _by_size(features: Any) -> list[WorkloadFeatures]:
    return sorted(features, key=lambda f: f.axes["seq_len"])


def _inside(like: Mapping[str, WorkloadFeatures], low: int, high: int) -> list[WorkloadFeatures]:
    return [f for f in like.values() if low <= f.axes["seq_len"] <= high]


def _ten(space: SearchSpace, hardware: Hardware, inside: Sequence[WorkloadFeatures]) -> list[dict[str, Any]]:
    """The ten best expected configs of a regime, no two of which the model cannot tell apart.

    As a sweep does, it also looks from the defaults and from the starts of these sizes.
    """
    looked_at = spread(inside)

    def mean_log(config: Mapping[str, Any], gpu: Hardware = hardware) -> float:
        return sum(math.log(predict(config, space.sizes, f, gpu).us) for f in looked_at) / len(looked_at)

    table = ConfigTable.of(space, random.Random(0))
    sizes = [f.axes["seq_len"] for f in inside]
    known = [start.config for start in (*space.defaults, *space.starts) if start.suits(sizes)]
    table.add([table.encoding.point(config) for config in known])
    found: list[dict[str, Any]] = []
    for row in Expectation(table, mean_log).climb():
        config = table.encoding.config([int(code) for code in table.points[row]])
        us = math.exp(mean_log(config))
        if found and us < 1.001 * found[-1]["us"]:
            continue
        good, bad = (math.exp(mean_log(config, gpu)) for gpu in doubts_of(hardware))
        changes = {name: value for name, value in config.items() if value != space.default[name]}
        found.append({"us": us, "low_us": good / (1 + OFF), "high_us": bad * (1 + OFF), "changes": changes})
        if len(found) == TEN:
            break
    return found


def _row(space: SearchSpace, hardware: Hardware, features: WorkloadFeatures, regimes: Mapping[str, Any]) -> dict:
    """One workload with its regime's best config, and the default."""
    tokens = features.axes["seq_len"]
    name = next(name for name, (low, high) in REGIMES.items() if low <= tokens <= high)
    config = {**space.default, **regimes[name][0]["changes"]}
    default = next(c for bound, c in space.default_table if bound is None or tokens <= bound)
    said = predict(config, space.sizes, features, hardware)
    low, high = (predict(config, space.sizes, features, gpu).us for gpu in doubts_of(hardware))
    return {
        "tokens": tokens,
        "rows": sum(features.counts["rows_per_expert"]),
        "regime": name,
        "us": said.us,
        "low_us": low / (1 + OFF),
        "high_us": high * (1 + OFF),
        "default_us": predict(default, space.sizes, features, hardware).us,
        "bound": said.bound,
    }


def _print(table: Sequence[dict], regimes: Mapping[str, Sequence[dict]]) -> None:
    print("| tokens | rows | expected (us) | band (us) | default (us) | bound by |\n|---|---|---|---|---|---|")
    for r in table:
        band = f"{r['low_us']:.0f} to {r['high_us']:.0f}"
        print(f"| {r['tokens']:,} | {r['rows']:,} | {r['us']:.0f} | {band} | {r['default_us']:.0f} | {r['bound']} |")
    for name, ten in regimes.items():
        best = ten[0]
        print(f"\n* **{name}**: {', '.join(f'{k} {v}' for k, v in best['changes'].items())}")


if __name__ == "__main__":
    sys.exit(main())
