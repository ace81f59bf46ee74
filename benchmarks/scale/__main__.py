"""Command line: ``python -m benchmarks.scale [--trials 10000] [--out FILE.json]``; see docs/scale.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale.model import ENVIRONMENT
from benchmarks.scale.queries import measure_own, measure_queries
from benchmarks.scale.run import DEFINITION, run
from workers.devices.environment import cpu_model

LONG_EVALUATORS = 1000
LONG_WORKLOADS = 11
"""With no trial raced out, 100,000 trials, of which 94 in a hundred pass, make a million measurements."""


def main() -> None:
    """Run the chosen parts and write what they cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="random,auto,queries", help="of random, auto, long, queries")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--long-trials", type=int, default=100_000, help="with a thousand evaluators")
    parser.add_argument("--measurements", type=int, default=1_000_000, help="in the database of the queries")
    parser.add_argument("--out", type=Path, help="JSON file; parts that are in it and not run now stay")
    options = parser.parse_args()
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    document["timings"] = "modelled by benchmarks/scale/model.py, not measured on a GPU"
    document["machine"] = {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()}
    for part in options.parts.split(","):
        document[part] = _part(part, options)
        document[part]["load_average"] = round(os.getloadavg()[0], 1)
        print(json.dumps({part: document[part]}, indent=2), flush=True)
        if options.out:
            options.out.write_text(json.dumps(document, indent=2) + "\n")


def _part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    if part == "queries":
        return measure_queries(options.measurements)
    kind: dict[str, Any] = {"sampler": part, "evaluators": 8}
    trials = options.trials
    if part == "long":
        kind = {"sampler": "random", "evaluators": LONG_EVALUATORS, "workloads": LONG_WORKLOADS}
        kind["race_factor"] = math.inf
        trials = options.long_trials
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/results.db"
        found = {"sampler": kind["sampler"], "evaluators": kind["evaluators"], **run(url, trials, **kind).document()}
        if part == "long":
            found |= measure_own(url, DEFINITION, ENVIRONMENT.hardware)
        # A few trials more, so that there is something to go on with.
        found["resume_s"] = round(run(url, trials + 16, **kind, sweep_id=1).start_s, 2)
    return found


if __name__ == "__main__":
    main()
