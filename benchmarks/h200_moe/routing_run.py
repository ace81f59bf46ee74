"""Times built variants and baselines side by side over routing profiles and sizes, on one GPU, interleaved.

    python benchmarks/h200_moe/routing_run.py FOLDER [FOLDER ...] --out FILE [--profiles ...] [--sizes ...]

Each FOLDER holds variants (or baselines) as drive.py wants them. At every point each of them is captured in a CUDA
graph whose output is checked against the reference, and timed in turn: ``--rounds`` rounds of ``--samples`` replays
with a cold L2 each. FILE is a JSON list with a record per point, with all samples round by round; what was wrong or
could not run has a message. DeepGEMM's wrapper gets its number of rows, which it would read back, beforehand.

``--ranges FILE`` says at which sizes a variant is worth its time: JSON, name -> [smallest, largest]. ``--best N --of
RECORDS`` leaves out those that were not among the N fastest of earlier records at a point. ``--warm`` calls
the baselines once at every point and times nothing: their compilation takes longer than the measurement, and several
such processes at once share their caches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from judge import judge
from load import load_variant
from problems import MAIN, PROFILES, Case, profile_case
from reference import answer, make_inputs, make_weights
from timing import Timer, kernel_times
from worker import KEPT_WORKSPACE_BYTES, check_case, checksum, poison, shrink

SIZES = (1, 7, 14, 16, 32, 57, 80, 128, 256, 512, 901, 2048, 4096, 8192, 11948, 14107)


KEPT = ("default", "baseline_deepgemm", "baseline_triton")
"""Timed however slow they are."""


def fix_rows(module, arguments: list) -> None:
    """Let DeepGEMM's wrapper be captured: the number of rows is read once, outside of the graph."""
    routing = importlib.import_module(module.__package__ + ".routing")
    original = getattr(routing, "original_sorted_rows", routing.sorted_rows)
    routing.original_sorted_rows, routing.sorted_rows = original, original
    seen: list[int] = []

    def spy(*args):
        rows = original(*args)
        seen.append(int(rows.total_rows))
        return rows

    routing.sorted_rows = spy
    module.run(*arguments)
    capacity = max(seen[-1], 1)
    routing.sorted_rows = lambda *args: replace(original(*args), capacity=capacity)


def prepare(module, name: str, inputs, want, timer: Timer, full: bool) -> tuple[Callable[[], None] | None, str]:
    """(replay of a captured call, "") of a variant that is right at this point, else (None, why)."""
    unavailable = getattr(module, "unavailable", lambda: None)()
    if unavailable is not None:
        return None, f"skipped: {unavailable}"
    out = torch.full((len(inputs.hidden), MAIN.hidden), float("nan"), dtype=torch.bfloat16, device="cuda")
    arguments = [*inputs.arguments(MAIN), out]
    try:
        if full:
            found = check_case(module, MAIN, inputs, want)["problem"]
            if found:
                return None, found
        if "deepgemm" in name:
            fix_rows(module, arguments)
        poison(module)
        replay = timer.capture(lambda: module.run(*arguments))
        out.fill_(float("nan"))
        replay()
        torch.cuda.synchronize()
        verdict = judge(out, want)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"[:300]
    if not verdict.passed:
        return None, f"in a graph: {verdict.message}"
    return replay, ""


def point(modules: dict, case: Case, weights, timer: Timer, options) -> dict:
    """Medians of every variant at one profile and size, in microseconds."""
    inputs = make_inputs(MAIN, case, weights, "cuda")
    want, before = answer(MAIN, inputs), checksum(inputs)
    replays, problems = {}, {}
    for name, module in modules.items():
        replay, why = prepare(module, name, inputs, want, timer, not options.quick)
        if replay is None:
            problems[name] = why
        else:
            replays[name] = replay
    warm = {name: min(timer.samples(replay, 2)) for name, replay in replays.items()}
    for name in [n for n, us in warm.items() if us > options.within * min(warm.values()) and n not in KEPT]:
        problems[name] = f"not timed: {warm[name]:.1f} us when warming up"
        del replays[name]
    samples: dict[str, list[list[float]]] = {name: [] for name in replays}
    order = list(replays)
    for turn in range(options.rounds):
        # Whoever comes after a hungry neighbour finds a slower card: everybody has other neighbours in every round.
        random.Random(turn).shuffle(order)
        for name in order:
            samples[name].append([round(us, 2) for us in timer.samples(replays[name], options.samples)])
    record = {"seq_len": case.seq_len, "uuid": case.uuid, "rows": want.rows, "active": want.active_experts}
    record["floor_us"] = MAIN.floor_us(want.active_experts, want.rows)
    record["times_us"] = {
        name: round(statistics.median(us for turn in found for us in turn), 2) for name, found in samples.items()
    }
    record["samples_us"] = samples
    if options.steady:
        record["steady"] = {name: steady(replay, timer, options.steady) for name, replay in replays.items()}
    if options.kernels:
        record["kernels_us"] = {name: kernel_times(replay, timer) for name, replay in replays.items()}
    if checksum(inputs) != before:
        problems["all"] = "inputs were modified"
    return record | {"problems": problems}


def steady(replay: Callable[[], None], timer: Timer, seconds: float) -> dict:
    """What the card settles at when a call is replayed back to back: microseconds per replay in the second half of
    ``seconds``, with a warm L2, and clock and power at their end."""

    def run(until: float) -> float:
        begin, count = time.monotonic(), 0
        while time.monotonic() < until:
            for _ in range(20):
                replay()
            torch.cuda.synchronize()
            count += 20
        return 1e6 * (time.monotonic() - begin) / max(count, 1)

    begin = time.monotonic()
    run(begin + seconds / 2)
    us = run(begin + seconds)
    return {"us": round(us, 2), **timer.device.conditions()}


def too_slow(records: list[dict], most: int) -> dict[tuple[str, int], set[str]]:
    """(profile, size) -> variants that were not among the fastest there."""
    found = {}
    for record in records:
        order = sorted(record["times_us"], key=record["times_us"].__getitem__)
        found[record["profile"], record["seq_len"]] = {*order[most:], *record["problems"]} - set(KEPT)
    return found


def call_once(modules: dict, case: Case, weights) -> None:
    """Call every module, so that it compiles what it needs for this case."""
    arguments = make_inputs(MAIN, case, weights, "cuda").arguments(MAIN)
    for name, module in modules.items():
        try:
            module.run(*arguments, torch.empty(case.seq_len, MAIN.hidden, dtype=torch.bfloat16, device="cuda"))
        except RuntimeError as error:
            print(f"{name} at {case.seq_len}: {str(error)[:200]}", flush=True)
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), choices=list(PROFILES))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--offset", type=int, default=96, help="first local expert")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--within", type=float, default=4.0, help="drop what is more than this many times slower than the best"
    )
    parser.add_argument("--kernels", action="store_true", help="also mean times per kernel from torch's profiler")
    parser.add_argument("--steady", type=float, default=0.0, help="seconds of replays back to back: clock and power")
    parser.add_argument("--quick", action="store_true", help="check the graph's output only")
    parser.add_argument("--ranges", type=Path, help="JSON: name of a variant -> [smallest, largest] size")
    parser.add_argument("--best", type=int, default=6, help="with --of: how many of each point")
    parser.add_argument("--of", type=Path, help="records of an earlier run over the same points")
    parser.add_argument("--warm", action="store_true", help="only have the baselines compiled")
    parser.add_argument("--total-s", type=float, default=500.0, help="no point is started after this")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    begin = time.monotonic()
    found = sorted(path.parent for folder in options.folders for path in folder.glob("*/main.py"))
    ranges = json.loads(options.ranges.read_text()) if options.ranges else {}
    slow = too_slow(json.loads(options.of.read_text()), options.best) if options.of else {}
    modules = {path.name: load_variant(path) for path in found if not options.warm or "baseline" in path.name}
    weights, timer, records = make_weights(MAIN, 7, "cuda"), Timer(), []
    for size in options.sizes:
        for profile in options.profiles:
            if time.monotonic() - begin > options.total_s:
                print(f"out of time before {profile} {size}", flush=True)
                return 1
            case = profile_case(profile, size, options.offset, options.seed)
            if options.warm:
                call_once(modules, case, weights)
                continue
            here = {n: m for n, m in modules.items() if n not in ranges or ranges[n][0] <= size <= ranges[n][1]}
            here = {n: m for n, m in here.items() if n not in slow.get((profile, size), ())}
            record = {"profile": profile, **point(here, case, weights, timer, options)}
            records.append(record | {"conditions": timer.device.conditions(), "device": torch.cuda.get_device_name()})
            options.out.write_text(json.dumps(records, indent=1))
            best = sorted(record["times_us"].items(), key=lambda item: item[1])[:4]
            print(
                f"{profile:9} {size:6} rows {record['rows']:6} floor {record['floor_us']:7.1f} | "
                + "  ".join(f"{name[:10]} {us:.1f}" for name, us in best)
                + f" | problems {[p for p in record['problems'].values() if 'not timed' not in p]}",
                flush=True,
            )
            for module in modules.values():
                shrink(module, KEPT_WORKSPACE_BYTES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
