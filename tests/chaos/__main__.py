"""``python -m tests.chaos --seeds 0-499``: sweeps under attack, one per seed, and what did not hold."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.arena import Arena, new_folder
from tests.chaos.scenario import Outcome, Run


def main() -> int:
    """Run the seeds; 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0-39", help="first-last, or numbers with commas between")
    parser.add_argument("--out", type=Path, help="JSON file for the outcomes")
    options = parser.parse_args()
    began, outcomes = time.monotonic(), []
    arena = Arena(new_folder())
    try:
        for seed in _seeds(options.seeds):
            if arena.place(seed) == "small disk" and not arena.can_mount:
                print(f"{seed:4d} left out: a small disk is a tmpfs, which only root may mount")
                continue
            outcomes.append(run_seed(arena, seed))
            print(_line(outcomes[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(_document(outcomes, time.monotonic() - began), indent=1) + "\n")
    finally:
        arena.close()
    bad = [o for o in outcomes if o.violations]
    print(f"{len(outcomes)} runs, {sum(len(o.violations) for o in bad)} violations in {len(bad)} of them")
    return 1 if bad else 0


def run_seed(arena: Arena, seed: int) -> Outcome:
    """One run in a folder of its own, which is removed."""
    folder = new_folder()
    run = Run(arena, seed, folder)
    try:
        return run.run()
    finally:
        run.close()


def _seeds(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def _line(outcome: Outcome) -> str:
    head = f"{outcome.seed:4d} {outcome.place:10s} {outcome.wall_s:5.1f} s, {outcome.processes} processes"
    lines = [f"{head}, {outcome.trials} trials  {outcome.faults}", *(f"     VIOLATION {v}" for v in outcome.violations)]
    lines[1:1] = [f"     ended with {' '.join(end.split())}" for end in outcome.ends]
    return "\n".join(lines)


def _document(outcomes: list[Outcome], wall_s: float) -> dict[str, object]:
    return {
        "chaos_runs": len(outcomes),
        "invariant_violations": sum(len(o.violations) for o in outcomes),
        "first_seed": outcomes[0].seed,
        "last_seed": outcomes[-1].seed,
        "wall_s": round(wall_s, 1),
        "runs_by_place": dict(Counter(o.place for o in outcomes)),
        "faults": dict(sorted(Counter(kind for o in outcomes for kind in o.struck).items())),
        "sweep_processes": sum(o.processes for o in outcomes),
        "trials": sum(o.trials for o in outcomes),
        "violations": {str(o.seed): o.violations for o in outcomes if o.violations},
    }


if __name__ == "__main__":
    sys.exit(main())
