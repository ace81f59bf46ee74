"""``python -m benchmarks.search_physics``: the model of moe_fp8_cute against recorded sweeps, and searches with it.

Example:
    ``python -m benchmarks.search_physics --sweeps starts.db.gz no-starts.db.gz --others later.replay.json.gz``
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.search_physics.fit import GPU, KERNELS, LOOKED_AT, SIZES, fit, fitted_to
from benchmarks.search_physics.live import again, alone, live, whole
from benchmarks.search_physics.noise import noise_of
from benchmarks.search_physics.page import CROWDED, RANDOM, WIDE, held_out, page
from benchmarks.search_physics.recorded import configs_on_all, name_of, read
from benchmarks.search_physics.replay import replay, replay_wide
from benchmarks.search_physics.validate import agreement
from search_spaces.moe_fp8_cute.model import FITTED
from workers.devices.hardware import hardware_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
NOT_MEASURED = ("trials_240_s", "vs_stock_whole_run")
SHOWN = ("model", "none", "random")
"""Kinds of searches on the wide recordings."""
LONGER = (24, 56, 120, 240, 400)
"""Trials of the wide search after which its best is looked at."""
FITTED_TO = 2
"""The first sweeps, to which the constants were fitted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``search-physics.json`` and ``.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_physics", description=__doc__)
    parser.add_argument(
        "--sweeps", type=Path, nargs="+", required=True, help="databases or recordings of sweeps of all workloads"
    )
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="the same of other workloads")
    parser.add_argument(
        "--latest",
        type=Path,
        nargs=4,
        help="the newest sweeps: databases without starts, with them, of a minute, and `tuner bench --json` of both",
    )
    parser.add_argument(
        "--alone",
        type=Path,
        nargs=2,
        help="the newest sweep without starts, nothing beside it: its database, and the CSV of its GPU's utilisation",
    )
    parser.add_argument("--wide-seeds", type=int, default=10, help="replays of each kind on the wide recordings")
    parser.add_argument("--whole", type=Path, help="result of the stage `whole` of benchmarks.gpu_sweep")
    parser.add_argument("--before", type=Path, help="results of an earlier model, to be shown beside")
    parser.add_argument("--keep", nargs="*", default=[], help="parts that are kept from the results that are there")
    parser.add_argument("--builds", type=Path, help="JSON object of what builds cost (benchmarks.builds)")
    parser.add_argument("--seeds", type=int, default=10, help="replays of each kind in each regime")
    parser.add_argument("--fit", action="store_true", help="fit the constants again and print them; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(argv)
    recorded = read([*options.sweeps, *options.others])
    sweeps = list(dict.fromkeys(name_of(path) for path in options.sweeps))
    hardware = hardware_of(recorded.hardware)
    if hardware is None:
        print(f"search_physics: no figures of {recorded.hardware}", file=sys.stderr)
        return 2
    if options.fit:
        constants, gpu = fit(recorded, fitted_to(recorded, sweeps[:FITTED_TO]), hardware)
        print({n: float(f"{getattr(constants, n):.3g}") for n in KERNELS})
        print({n: float(f"{getattr(gpu, n):.3g}") for n in GPU})
        return 0
    document: dict[str, Any] = {"card": recorded.hardware, "fitted_sizes": list(SIZES), "looked_at": LOOKED_AT}
    # What was recorded with later kernels does not repeat what came before: some configs are faster, others are not.
    alike = replace(recorded, timed=tuple(t for t in recorded.timed if t.sweep not in CROWDED))
    noise = noise_of(alike)
    document["noise"] = {workload: asdict(found) for workload, found in noise.items()}

    def ranked(sweeps: Sequence[str]) -> list[dict]:
        return [asdict(a) for a in agreement(recorded, hardware, FITTED, sweeps, noise)]

    document["agreement"] = ranked([s for s in recorded.tried if s not in (*WIDE, *CROWDED)])
    document["wide"], document["crowded"] = ranked(WIDE), ranked(CROWDED)
    document["configs"] = configs_on_all(recorded, (*WIDE, *CROWDED))
    document["longer"] = _longer(recorded)
    document["by_sweep"] = {s: ranked([s]) for s in recorded.tried}
    earlier = json.loads((options.out / "search-physics.json").read_text()) if options.keep else {}
    document |= {part: earlier[part] for part in options.keep}
    if "fitted_to_the_other_sweep" not in document:
        document["fitted_to_the_other_sweep"] = _crossed(recorded, hardware, sweeps[:FITTED_TO])
    if options.before:
        document["before"] = _before(json.loads(options.before.read_text()))
    if options.alone:
        document["alone"] = alone(*options.alone)
    if options.latest:
        without, with_starts, minute, beside = options.latest
        document["latest"] = {**live(without, with_starts, beside), "minute": again(minute)}
    if options.whole:
        document["whole_run"] = whole(options.whole)
    if options.builds:
        document["builds"] = json.loads(options.builds.read_text())
    if "replay" not in document:
        document["replay"] = [asdict(c) for c in replay(recorded, hardware, sweeps, options.seeds)]
    if "replay_wide" not in document and document["wide"]:
        curves = replay_wide(recorded, hardware, (*WIDE, *CROWDED), options.wide_seeds, SHOWN)
        document["replay_wide"] = [asdict(c) for c in curves]
        document["wide_seeds"] = options.wide_seeds
    document = json.loads(json.dumps(document))  # numbers of trials are text, as in what was kept
    document = {**_headline(document), "seeds": options.seeds, **document}
    (options.out / "search-physics.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.out / "search-physics.md").write_text(page(document), encoding="utf-8")
    return 0


def _longer(recorded: Any) -> dict[int, float]:
    """Trials -> the best objective so far of the wide search, over its best."""
    found = [math.inf if t.objective is None else t.objective for t in recorded.tried.get(WIDE[-1], ())]
    return {n: math.exp(min(found[:n]) - min(found)) for n in LONGER if n < len(found)}


def _crossed(recorded: Any, hardware: Any, sweeps: Sequence[str]) -> dict[str, list[dict]]:
    """Constants fitted to the other sweeps alone, judged on each."""
    out = {}
    for sweep in sweeps:
        others = [s for s in sweeps if s != sweep]
        constants, gpu = fit(recorded, fitted_to(recorded, others), hardware)
        out[sweep] = [asdict(a) for a in agreement(recorded, gpu, constants, [sweep])]
    return out


def _before(earlier: dict[str, Any]) -> dict[str, Any]:
    """What an earlier model reached on the same configs."""
    random = earlier["by_sweep"][RANDOM[-1]]
    wanted = ("workload", "tokens", "spearman", "best_of_ten")
    return {
        "agreement": [{name: a[name] for name in wanted} for a in earlier["agreement"]],
        "random": [{name: a[name] for name in wanted} for a in random],
    }


def _not_measured(document: dict[str, Any]) -> dict[str, str]:
    """Why a figure that is asked for is not there."""
    ended = "no live sweep was given"
    if newest := document.get("alone"):
        ended = f"the newest live sweep ended after {newest['trials']} trials"
    stock = "no whole runs were given"
    if "whole_run" in document:
        stock = "stock's second call did not come to its end"
    return dict(zip(NOT_MEASURED, (ended, stock), strict=True))


def _headline(document: dict[str, Any]) -> dict[str, Any]:
    """The figures that are asked for, those called ``rel`` as a share above the best; null where not measured."""
    unseen = held_out(document)
    of_random = [a for sweep in RANDOM for a in document["by_sweep"].get(sweep, ())]
    random = [a for a in of_random if a["workload"] != LOOKED_AT]
    found, newest = document.get("latest"), document.get("alone")
    wide = [a for a in document["wide"] if a["workload"] != LOOKED_AT]
    crowded = document["crowded"]
    replayed = document.get("replay_wide") or document["replay"]
    after = {n: [c["median"][str(n)] for c in replayed if c["kind"] == "model"] for n in (60, 100, 200)}
    whole_sweep = newest is not None and newest["trials"] == newest["max_trials"]
    figures = {
        "schema_version": 1,
        "spearman_min": min(a["spearman"] for a in unseen),
        "spearman_ceiling_min": min(a["spearman_ceiling"] for a in unseen),
        "spearman_min_random_configs": min((a["spearman"] for a in random), default=None),
        "spearman_min_wide": min((a["spearman"] for a in wide), default=None),
        "top10_share_wide": sum(a["best_of_ten"] <= 1.05 for a in wide) / len(wide) if wide else None,
        "spearman_min_later": min((a["spearman"] for a in crowded), default=None),
        "top10_share_later": sum(a["best_of_ten"] <= 1.05 for a in crowded) / len(crowded) if crowded else None,
        "configs_on_eight_workloads": document["configs"]["measured"],
        "top10_share": sum(a["best_of_ten"] <= 1.05 for a in unseen) / len(unseen),
        "top10_share_random_configs": sum(a["best_of_ten"] <= 1.05 for a in random) / len(random) if random else None,
        "replay_rel_60": max(after[60]) - 1,
        "replay_rel_100": max(after[100]) - 1,
        "replay_rel_200": max(after[200]) - 1,
        "trials_240_s": newest["search_s"] if newest and whole_sweep else None,
        "vs_stock_whole_run": document.get("whole_run", {}).get("vs_stock_whole_run"),
        "live_rel_without_starts": found["rel_without_starts"] if found else None,
        "gpu_busy_real_sweep": newest["gpu_busy_search"] if newest else None,
        "build_cpu_s": newest["build_cpu_s"] if newest else None,
    }
    reasons = {name: why for name, why in _not_measured(document).items() if figures[name] is None}
    return {**figures, "not_measured": reasons}


if __name__ == "__main__":
    sys.exit(main())
