"""Compare what a GPU left (emulator_dump.py) with what the emulator makes of the same PTX and inputs.

    python benchmarks/h200_moe/emulator_compare.py PACKED RESULTS [--out FILE.json] [--only NAME ...] [--cases N]

PACKED is emulator_pack.py's folder, RESULTS the dump. Kernel by kernel, each on the GPU's bytes of the kernel before,
so that a difference shows where it is made. Sections whose sums have a fixed order are compared bit for bit; sums by
atomics within the rounding of their other orders. What is not equal is counted with its largest distance in units in
the last place: ``ex2.approx`` and ``rcp.approx`` are the correctly rounded functions here, the GPU's differ in the last
bits, and that reaches the activations' scales. What the GPU left is also held against what the kernel must leave
(``wrong``): of a variant with a planted mistake this says that the GPU's numbers are wrong too, and where.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import product  # noqa: F401
from emulator_pack import small_space

from search_spaces.emulated_case import StageError
from search_spaces.moe_fp8_cute.solution.plans import row_capacity
from search_spaces.moe_fp8_cute.solution.workspace import sections
from search_spaces.moe_fp8_cute.stages import CHECKS, MoeProblem, bfloat, real_rows
from workers.emulator.host.launches import Host, compile_mock, opened
from workers.emulator.pipeline import Module, fresh_memory, short_name, steps

LEFT = {
    "combineZero": (),
    "routing": ("counts", "m_indptr", "row_token", "row_weight", "token_row"),
    "permute": ("x_rows", "x_scale"),
    "moe_gemm_1": ("partial", "act", "act_scale"),
    "moe_act_quant": ("act", "act_scale"),
    "moe_gemm_2": ("y", "acc", "out"),
    "combineFinalize": ("out",),
    "combineCast": ("out",),
}
"""Kernel -> what it leaves."""
BY_ROW = {"act": 0, "y": 0, "x_rows": 0, "act_scale": 1, "x_scale": 1, "partial": 1}
"""Tensors of the row space: their axis of rows. Filling rows hold nothing that anybody reads."""


def gpu_memory(problem: MoeProblem, dumped: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sections that the GPU left, and its output."""
    rows = row_capacity(problem.config, problem.sizes, problem.tokens)
    offsets = list(sections(problem.config, problem.sizes, problem.tokens, rows).items())
    if offsets[-1][1] != dumped["workspace"].size:
        raise ValueError(f"the workspace has {dumped['workspace'].size} bytes, by its config {offsets[-1][1]}")
    found = {name: dumped["workspace"][at:end] for (name, at), (_, end) in itertools.pairwise(offsets)}
    return {**found, "out": dumped["out"].reshape(-1).view(np.uint8)}


def distance(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Steps between floats of a format (float32, or bfloat16 and FP8 as unsigned codes)."""
    bits = 8 * mine.dtype.itemsize
    a, b = (v.view(f"u{v.dtype.itemsize}").astype(np.int64) for v in (mine, theirs))
    half = 1 << (bits - 1)
    a, b = (np.where(v >= half, half - v, v) for v in (a, b))
    return np.abs(a - b)


def _leaves(kernel: str, name: str, memory: dict[str, np.ndarray]) -> bool:
    """Whether a kernel of this config leaves that tensor."""
    if kernel == "moe_gemm_2" and name == "out":
        return "y" not in memory and "acc" not in memory
    if kernel == "moe_gemm_1" and name != "partial":
        return "partial" not in memory
    return name in memory


def compare(problem: MoeProblem, kernel: str, mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> list[dict]:
    """One record for each section that the kernel leaves."""
    records = []
    for name in LEFT[kernel]:
        if not _leaves(kernel, name, mine):
            continue
        a, b = (problem.view(m, name) for m in (mine, theirs))
        if name in BY_ROW:
            rows, _ = real_rows(problem, theirs)
            a, b = (np.take(v, rows, BY_ROW[name]) for v in (a, b))
        if name == "row_weight":  # of filling rows it is 0, behind them nothing
            a, b = (v[problem.view(theirs, "row_token") >= 0] for v in (a, b))
        far = distance(a, b)
        by_atomics = name in ("acc", "out") and kernel == "moe_gemm_2"
        share = _share(a, b) if by_atomics else 0.0
        records.append(
            {
                "kernel": kernel,
                "tensor": name,
                "elements": int(a.size),
                "different": int((far > 0).sum()),
                "largest_ulp": int(far.max(initial=0)),
                "by_atomics": by_atomics,
                "largest_share": share,
                "equal": bool(share <= (2.0**-6 if name == "out" else 2.0**-19))
                if by_atomics
                else _is_equal(name, far),
            }
        )
    return records


ROUNDED = {"row_weight": 4, "act_scale": 4, "act": 1}
"""Behind ``ex2.approx`` and ``rcp.approx``: steps that their last bits can make."""


def _is_equal(name: str, far: np.ndarray) -> bool:
    """Bit for bit, or as near as the approximate functions let it."""
    return bool(far.max(initial=0) <= ROUNDED.get(name, 0) and (name != "act" or (far > 0).mean() < 1e-3))


def _share(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of sums, as a share of the largest sum."""
    x, y = (bfloat(v) if v.dtype == np.uint16 else v.astype(np.float64) for v in (a, b))
    return float(np.abs(x - y).max(initial=0) / max(np.abs(y).max(initial=0), 1e-30))


def compare_case(host: Host, ptx: Path, problem: MoeProblem, case: dict[str, Any], dumped: dict) -> list[dict]:
    """All kernels of a call: the records of :func:`compare`, and what is wrong with what the GPU's kernel left."""
    theirs = gpu_memory(problem, dumped)
    call = host.call(problem.tokens, None, problem.offset, problem.scaling)
    given = {name: value for name, value in case.items() if name not in ("offset", "scaling")}
    memory = fresh_memory(call, given)
    records = []
    for launch in steps(Module(ptx / f"{call.function}.ptx"), call, memory):
        kernel = short_name(launch.kernel)
        mine = {name: r.data for name, r in memory.by_name.items()}
        found = compare(problem, kernel, mine, theirs)
        for name in LEFT[kernel]:
            # The next kernel works on what the GPU's kernel left.
            if _leaves(kernel, name, mine):
                size = min(mine[name].size, theirs[name].size)
                mine[name][:size] = theirs[name][:size]
        records += [{**record, "wrong": _wrong(problem, kernel, mine)} for record in found]
    return records


def _wrong(problem: MoeProblem, kernel: str, memory: dict[str, np.ndarray]) -> str:
    """The element that is not what the kernel must leave, "" if all are."""
    try:
        CHECKS[kernel](problem, memory)
    except StageError as error:
        return str(error)
    return ""


def built_for(package: Path) -> dict[str, Any]:
    """Sizes and routing constants that a package was built for: the definition may have been read otherwise since."""
    scope: dict[str, Any] = {}
    exec(compile((package / "config.py").read_text(), str(package / "config.py"), "exec"), scope)
    found: dict[str, Any] = scope["SIZES"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--cases", nargs="*", help="names of inputs; all by default")
    args = parser.parse_args()
    space = small_space(args.target)
    weights = dict(np.load(args.packed / "inputs" / "weights.npz"))
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        mock = compile_mock(Path(scratch))
        for folder in sorted(args.results.iterdir()):
            if not folder.is_dir() or (args.only and folder.name not in args.only):
                continue
            package = args.packed / "variants" / folder.name
            # Parameters that came after the variant was built: their defaults leave the kernels as they were.
            config = {**space.default, **json.loads((package / "variant.json").read_text())}
            sizes = built_for(package)
            with opened(mock, package) as host:
                for path in sorted(folder.glob("*.npz")):
                    if args.cases and path.stem not in args.cases:
                        continue
                    case = {**weights, **dict(np.load(args.packed / "inputs" / path.name))}
                    problem = MoeProblem(config, sizes, args.target, len(case["logits"]), int(case["offset"]))
                    dumped = dict(np.load(path))
                    records = compare_case(host, args.packed / "ptx" / folder.name, problem, case, dumped)
                    found.setdefault(folder.name, []).extend({"case": path.stem, **r} for r in records)
                    other = [f"{r['tensor']} {r['different']}/{r['elements']}" for r in records if r["different"]]
                    verdict = "equal" if all(r["equal"] for r in records) else "DIFFERENT"
                    print(folder.name, path.stem, verdict, "; ".join(other), flush=True)
                    if args.out:
                        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
