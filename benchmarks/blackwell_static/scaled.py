"""What scaled MMAs (``scaled_1``, ``scaled_2``) save where experts have many rows, by arithmetic and from the SASS.

    python -m benchmarks.blackwell_static.scaled --out docs/results/blackwell-scaled.json

The default of many tokens, pairs of 256 x 256, in both forms and with one and two K blocks a stage. For each GEMM: the
SM cycles of a K block that each unit is busy, the instructions that all warps issue for it in the loops that go with it
(promotion and MMA warps; scale and MMA warps), and the model's forecast for the two prefill workloads. No GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.blackwell_static.promotion import PACKAGE, cycles, kernels_of, loops_of
from benchmarks.blackwell_static.sample import TARGET, main_definition, stage
from benchmarks.search_physics.recorded import ROWS
from search_spaces.moe_fp8.reading import POWER_OF_TWO
from search_spaces.moe_fp8_cute.model import predict
from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.moe_fp8_cute.space_sm100 import PAIRS
from search_spaces.prediction.model import WorkloadFeatures
from workers.devices.hardware import hardware_of

TWO_BLOCKS = {"k_tile_1": 256, "stages_1": 3, "k_tile_2": 256, "stages_2": 3}
SCALED = {"scaled_1": True, "scaled_2": True, "acc_stages_1": 1, "acc_stages_2": 1}
FORMS: dict[str, dict[str, Any]] = {
    "promoted, K 128": PAIRS,
    "scaled, K 128": {**PAIRS, **SCALED},
    "promoted, K 256": {**PAIRS, **TWO_BLOCKS},
    "scaled, K 256": {**PAIRS, **TWO_BLOCKS, **SCALED},
}
TOKENS = {9_197: 11_948, 19_382: 14_107}
"""Rows of the prefill workloads (synthetic routing) -> their tokens."""


def issued(text: str, plan: BlackwellPlan) -> dict[str, float]:
    """Instructions per K block in the loop of each role, of one warp."""
    mma = len(loops_of(text, "UTCQMMA")[0]) / plan.k_per_stage
    if not plan.scaled:
        return {"mma": mma, "promotion": len(loops_of(text)[0])}
    return {"mma": mma, "scale": len(loops_of(text, "STS.128")[0]) / plan.k_per_stage}


def forecast(config: dict[str, Any], sizes: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Tokens -> microseconds of the pipeline and of its GEMMs."""
    hardware, found = hardware_of("B200"), {}
    assert hardware is not None
    for rows in (r for r in ROWS.values() if sum(r) in TOKENS):
        tokens = TOKENS[sum(rows)]
        features = WorkloadFeatures({"seq_len": tokens}, {"rows_per_expert": tuple(rows)})
        expected = predict(config, sizes, features, hardware)
        gemms = {k.name: round(k.us, 1) for k in expected.kernels if "gemm" in k.name}
        found[str(tokens)] = {"pipeline": round(expected.us, 1), **gemms}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    space = FAMILY.space({**main_definition(), "tags": [POWER_OF_TWO]}, TARGET)
    records = []
    with tempfile.TemporaryDirectory() as root:
        stage(space, Path(root))
        for form, changes in FORMS.items():
            config = {**space.default, **changes}
            assert space.violation(config) is None, space.violation(config)
            plans = dict(launches(config, space.sizes))
            record: dict[str, Any] = {"form": form, "changes": changes, "forecast_us": forecast(config, space.sizes)}
            record["gemms"] = [
                {
                    **{"launch": launch, "cycles": cycles(plans[launch], plans[launch].tile_t)},
                    **{"issued": issued(text, plans[launch]), "spill_bytes": spilled},
                    **{"smem_bytes": plans[launch].smem_bytes, "tmem_columns": plans[launch].tmem_columns},
                }
                for launch, text, spilled in kernels_of(Path(root) / PACKAGE, config)
            ]
            records.append(record)
            print(json.dumps(record))
    arguments.out.write_text(json.dumps({"target": TARGET, "forecast": True, "forms": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
