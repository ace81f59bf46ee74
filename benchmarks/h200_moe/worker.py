"""Checks and times built variants one after the other in one process; meant to be started and watched by drive.py.

    python benchmarks/h200_moe/worker.py OPTIONS_JSON FOLDER [FOLDER ...]

Every step first writes a line ``{"event": "step", ...}`` to stdout, so that the watcher knows what was under way when
a variant hangs or takes the process down; every variant ends with a line ``{"event": "result", ...}``. A device error
that poisons the process ends it with code 3 after the result line.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from judge import judge
from load import load_variant
from problems import MAIN, PROBLEMS, Case, Problem, public_cases, random_cases
from reference import Answer, Inputs, Weights, answer, make_inputs, make_weights
from timing import Timer, kernel_times

DEVICE = "cuda"
"""torch's name of the device; tests set another one."""
STICKY_EXIT = 3
KEPT_ZERO_BYTES = 1024
"""Head of a variant's workspace that holds its zeroed-once counters and is not poisoned."""
KEPT_WORKSPACE_BYTES = 1 << 30
"""Workspaces beyond it are given back after a case: a padded layout at 14,107 tokens takes tens of GB."""
OTHER_SIZES = (1, 16, 57, 80, 901, 4096)
"""Tokens at which problems without public workloads are timed."""


@dataclass(frozen=True)
class Options:
    """What to do with each variant.

    Args:
        random_cases: Number of random cases beside the public workloads.
        seed: Of the random cases.
        largest: Most tokens of a random case.
        time: Whether to time correct variants.
        samples: Samples per workload.
        graph: CUDA-graph replay, else eager calls.
        profile: Whether to add mean times per kernel.
        sizes: Time only workloads of these token counts; empty for all.
        public: Whether to check the public workloads.
    """

    random_cases: int = 20
    seed: int = 1
    largest: int = 4096
    time: bool = True
    samples: int = 50
    graph: bool = True
    profile: bool = False
    sizes: tuple[int, ...] = ()
    public: bool = True


@dataclass
class Resident:
    """A problem's weights and the cases made so far, kept on the device for all variants."""

    problem: Problem
    weights: Weights
    cases: dict[Case, tuple[Inputs, Answer]] = field(default_factory=dict)

    def get(self, case: Case) -> tuple[Inputs, Answer]:
        if case not in self.cases:
            inputs = make_inputs(self.problem, case, self.weights, DEVICE)
            self.cases[case] = inputs, answer(self.problem, inputs)
        return self.cases[case]


def problem_of(sizes: Mapping) -> Problem:
    """The problem that a variant's SIZES describe.

    Raises:
        LookupError: None of the known definitions has these sizes.
    """
    for p in PROBLEMS.values():
        key = (p.experts, p.local, p.top_k, p.hidden, p.intermediate)
        if key == tuple(sizes[n] for n in ("experts", "local_experts", "top_k", "hidden", "intermediate")):
            return p
    raise LookupError(f"no definition has the sizes {dict(sizes)}")


def choices(module, name: str) -> tuple[Mapping, Callable[[int], Mapping]]:
    """SIZES and the config for a token count: of config.py, or of a baseline's sizes.py, whose config is its name."""
    try:
        config = importlib.import_module(module.__package__ + ".config")
    except ModuleNotFoundError:
        return importlib.import_module(module.__package__ + ".sizes").SIZES, lambda tokens: {"solution": name}
    return config.SIZES, config.select


def checksum(inputs: Inputs) -> int:
    """Changes if a byte of the inputs that belong to a case does."""
    parts = (inputs.logits, inputs.hidden, inputs.hidden_scale)
    return sum(int(p.view(torch.uint8).sum(dtype=torch.int64)) for p in parts if p.numel())


def poison(module) -> None:
    """NaN bytes into the variant's workspaces, apart from the counters at their head."""
    for made in getattr(module, "_workspaces", {}).values():
        for workspace in made:
            workspace[KEPT_ZERO_BYTES:].fill_(0xFF)


def shrink(module, keep: int) -> None:
    """Give a variant's workspaces back where they are larger than ``keep`` bytes together."""
    for made in getattr(module, "_workspaces", {}).values():
        if sum(workspace.numel() for workspace in made) > keep:
            made.clear()
            torch.cuda.empty_cache()


def check_case(module, problem: Problem, inputs: Inputs, want: Answer) -> dict:
    """Two runs with poisoned output and workspace; ``problem`` is empty if all is well.

    The second run calls twice without a pause: launched programmatically, the second call's first kernels may start
    while the first call's last ones still run.
    """
    tokens, before, outputs = len(inputs.hidden), checksum(inputs), []
    for calls in (1, 2):
        out = torch.full((tokens, problem.hidden), float("nan"), dtype=torch.bfloat16, device=DEVICE)
        poison(module)
        for _ in range(calls):
            module.run(*inputs.arguments(problem), out)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        verdict = judge(out, want)
        outputs.append(out)
        if not verdict.passed:
            break
    found = verdict.message if verdict.passed or len(outputs) == 1 else f"second run: {verdict.message}"
    if not found and checksum(inputs) != before:
        found = "inputs were modified"
    same = len(outputs) == 2 and torch.equal(outputs[0], outputs[1])
    return {
        "problem": found,
        "matched_ratio": verdict.matched_ratio,
        "frobenius": verdict.frobenius,
        "frobenius_exact": verdict.frobenius_exact,
        "same_bits": same,
    }


class Worker:
    """State shared by all variants of the process."""

    def __init__(self, options: Options, timer: Timer | None = None):
        self.options = options
        self.timer = timer or Timer()
        self.resident: dict[str, Resident] = {}

    def emit(self, event: str, **fields) -> None:
        print(json.dumps({"event": event, **fields}), flush=True)

    def of(self, problem: Problem) -> Resident:
        """The problem's resident data; another problem's is dropped first, since weights are large."""
        if problem.name not in self.resident:
            self.resident.clear()
            torch.cuda.empty_cache()
            self.resident[problem.name] = Resident(problem, make_weights(problem, 7, DEVICE))
        return self.resident[problem.name]

    def cases(self, problem: Problem) -> list[Case]:
        o = self.options
        public = public_cases() if problem is MAIN and o.public else []
        return public + random_cases(problem, o.random_cases, o.seed, o.largest)

    def timed(self, problem: Problem) -> list[Case]:
        cases = public_cases() if problem is MAIN else [Case(tokens, 0, seed=tokens) for tokens in OTHER_SIZES]
        return [c for c in cases if not self.options.sizes or c.seq_len in self.options.sizes]

    def variant(self, folder: Path) -> dict:
        """Everything about one variant. Exceptions of the variant are left to the caller."""
        self.emit("step", variant=folder.name, phase="load")
        module = load_variant(folder)
        why = module.unavailable() if hasattr(module, "unavailable") else None
        if why is not None:
            return {"variant": folder.name, "status": "SKIPPED", "message": why}
        sizes, select = choices(module, folder.name)
        problem = problem_of(sizes)
        resident = self.of(problem)
        checks = []
        for case in self.cases(problem):
            self.emit("step", variant=folder.name, phase="check", case=asdict(case))
            checks.append({"case": asdict(case), **check_case(module, problem, *resident.get(case))})
            shrink(module, KEPT_WORKSPACE_BYTES)
            if checks[-1]["problem"]:
                break
        wrong = [c for c in checks if c["problem"]]
        result = {"variant": folder.name, "definition": problem.name, "checks": len(checks)}
        result["status"] = "INCORRECT_NUMERICAL" if wrong else "PASSED"
        result["failed"] = wrong
        result["worst_frobenius"] = max((c["frobenius"] for c in checks), default=None)
        result["same_bits"] = all(c["same_bits"] for c in checks)
        if self.options.time and not wrong:
            result["times"] = [self.measure(folder, module, select, resident, c) for c in self.timed(problem)]
        shrink(module, 0)
        return result

    def measure(self, folder: Path, module, select: Callable, resident: Resident, case: Case) -> dict:
        """One workload's figures.

        Raises:
            RuntimeError: The output of the last timed run is wrong.
        """
        o, problem = self.options, resident.problem
        self.emit("step", variant=folder.name, phase="time", case=asdict(case))
        inputs, want = resident.get(case)
        out = torch.empty(case.seq_len, problem.hidden, dtype=torch.bfloat16, device=DEVICE)
        arguments = [*inputs.arguments(problem), out]
        module.run(*arguments)
        t = self.timer.time(lambda: module.run(*arguments), o.samples, o.graph)
        verdict = judge(out, want)
        if not verdict.passed:
            raise RuntimeError(f"{case.seq_len} tokens: the timed runs left a wrong output: {verdict.message}")
        figures = {
            "seq_len": case.seq_len,
            "offset": case.offset,
            "rows": want.rows,
            "active_experts": want.active_experts,
            "floor_us": problem.floor_us(want.active_experts, want.rows),
            "median_us": t.interval.median,
            "low_us": t.interval.low,
            "high_us": t.interval.high,
            "config": select(case.seq_len),
            "conditions": t.conditions,
        }
        if o.profile:
            figures["kernels_us"] = kernel_times(lambda: module.run(*arguments), self.timer)
        return figures


def copy_tb_s(timer: Timer) -> float:
    """Bytes read and written by a large device-to-device copy, in TB/s: the memory ceiling of this card."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timer.time(lambda: target.copy_(source), 10).interval.median / 1e6


def main() -> int:
    torch.backends.cuda.matmul.allow_tf32 = False
    options = json.loads(sys.argv[1])
    worker = Worker(Options(**{**options, "sizes": tuple(options.get("sizes", ()))}))
    tiny = torch.zeros(32, device="cuda")
    empty = worker.timer.time(lambda: tiny.zero_())
    found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_tb_s": copy_tb_s(worker.timer)}
    worker.emit("start", **found, one_tiny_kernel_us=empty.interval.median, options=options)
    for name in sys.argv[2:]:
        folder = Path(name)
        try:
            result = worker.variant(folder)
        except Exception as error:
            trace = traceback.format_exc()[-1500:]
            text = f"{type(error).__name__}: {error}"[:500]
            result = {"variant": folder.name, "status": "RUNTIME_ERROR", "message": text, "trace": trace}
        worker.emit("result", **result)
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return STICKY_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
