"""Check and time routing, permute and combine by themselves on a GPU.

    python benchmarks/h200_moe/parts_check.py FOLDER [--time]

FOLDER is what parts_build.py wrote. Prints one line per failed check, then a table of times; exits with 1 if any
failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache, cached_property
from pathlib import Path

import torch
from load import load_functions
from problems import MAIN, PROBLEMS, SCALING, SHAPES, Case, Problem, routing_logits
from reference import route
from timing import Timer

SIZES = (0, 1, 2, 7, 14, 57, 80, 127, 128, 129, 200, 901, 1023, 1025, 4096, 11948, 14107, 16384)
SCRATCH_CTAS = 128
POISON_INT = -0x35014542
FINALIZE = (
    ("bf16", torch.bfloat16, 1),
    ("f32", torch.float32, 1),
    ("split4", torch.float32, 4),
    ("plain", torch.bfloat16, 1),
)


def poisoned(shape, dtype) -> torch.Tensor:
    """A tensor full of NaN bytes (floats) or a wild number (integers)."""
    if dtype == torch.int32:
        return torch.full(shape, POISON_INT, dtype=dtype, device="cuda")
    size = torch.empty((), dtype=dtype).element_size()
    return torch.full((*shape[:-1], shape[-1] * size), 0xFF, dtype=torch.uint8, device="cuda").view(dtype)


@cache
def inputs(problem: Problem, case: Case):
    """Logits and bias of a case, kept for the other layouts."""
    return routing_logits(problem, case, "cuda")


class RoutingRun:
    """Buffers of one routing call. ``barrier`` is shared by all calls of a process, as in the real workspace."""

    def __init__(self, problem: Problem, function, case: Case, align: int, batched: bool, barrier: torch.Tensor):
        self.problem, self.case, self.align, self.batched, self.function = problem, case, align, batched, function
        t, e, k = case.seq_len, problem.local, problem.top_k
        self.logits, self.bias = inputs(problem, case)
        self.max_m = -(-max(t, 1) // align) * align
        pairs = t * min(k, e)
        rows = e * self.max_m if batched else pairs + min(pairs, e) * (align - 1)
        self.counts, self.m_indptr = poisoned((e,), torch.int32), poisoned((e + 1,), torch.int32)
        self.row_token, self.row_weight = poisoned((rows + 1,), torch.int32), poisoned((rows + 1,), torch.float32)
        self.token_row = poisoned((t, k), torch.int32)
        self.scratch, self.barrier = poisoned((e * SCRATCH_CTAS,), torch.int32), barrier

    def __call__(self) -> None:
        self.function(
            *(self.logits, self.bias, self.case.offset, SCALING, self.max_m),
            *(self.counts, self.m_indptr, self.row_token, self.row_weight, self.token_row, self.scratch, self.barrier),
        )

    @cached_property
    def expected(self):
        """counts, m_indptr, row_token, row_weight (NaN and wild where unwritten), token_row with -1 where not local."""
        e, device = self.problem.local, "cuda"
        chosen, weight = route(self.problem, self.logits, self.bias, SCALING)
        local = chosen - self.case.offset
        token, slot = torch.nonzero((local >= 0) & (local < e), as_tuple=True)
        expert = local[token, slot]
        member = torch.zeros(self.case.seq_len, e, dtype=torch.int64, device=device)
        member[token, expert] = 1
        counts, rank = member.sum(dim=0), member.cumsum(dim=0) - 1
        filled = (counts + self.align - 1) // self.align * self.align
        starts = torch.zeros(e + 1, dtype=torch.int64, device=device)
        starts[1:] = torch.arange(1, e + 1, device=device) * self.max_m if self.batched else filled.cumsum(0)
        row_token = poisoned(self.row_token.shape, torch.int32)
        row_weight = poisoned(self.row_weight.shape, torch.float32)
        behind = counts[:, None] + torch.arange(self.align, device=device)
        filling = (starts[:e, None] + behind)[behind < filled[:, None]]
        row_token[filling], row_weight[filling] = -1, 0.0
        rows = starts[expert] + rank[token, expert]
        row_token[rows], row_weight[rows] = token.int(), weight[token, slot]
        token_row = torch.full_like(chosen, -1)
        token_row[token, slot] = rows
        return counts, starts, row_token, row_weight, token_row

    def problems_found(self) -> list[str]:
        counts, starts, row_token, row_weight, token_row = self.expected
        found = []
        for name, got, want in (
            ("counts", self.counts, counts),
            ("m_indptr", self.m_indptr, starts),
            ("row_token", self.row_token, row_token),
            ("token_row", self.token_row.sort(dim=1).values, token_row.sort(dim=1).values),
        ):
            wrong = got.long() != want.long()
            if bool(wrong.any()):
                where = torch.nonzero(wrong)[0].tolist()
                found.append(
                    f"{name}: {int(wrong.sum())} of {wrong.numel()} wrong, first at {where}: {got[tuple(where)]}"
                )
        written = ~row_weight.isnan()
        if bool((self.row_weight.isnan() != ~written).any()):
            found.append("row_weight: written rows differ")
        elif bool(written.any()):
            gap = (self.row_weight[written] - row_weight[written]).abs() / row_weight[written].abs().clamp(min=1e-20)
            if float(gap.max()) > 1e-5:
                found.append(f"row_weight: relative error {float(gap.max()):.2e}")
        return found


def check_routing(problem: Problem, module, names: list[str], failures: list[str]) -> int:
    """All sizes and shapes, twice each without clearing anything between the runs."""
    barrier = torch.zeros(1, dtype=torch.int32, device="cuda")
    done = 0
    for name in (n for n in names if n.startswith("routing")):
        align, batched = int(name.split("_")[1][1:]), name.endswith("batched")
        for i, size in enumerate(SIZES if problem is MAIN else SIZES[::2]):
            for j, shape in enumerate(SHAPES):
                inside = max(problem.experts - problem.local, 1)
                offset = (
                    0 if problem.renorm else (i * 37 + j * 11) % inside if j else problem.experts - problem.local // 2
                )
                run = RoutingRun(problem, module[name], Case(size, offset, shape, 7 * i + j), align, batched, barrier)
                for attempt in range(2):
                    run()
                    done += 1
                    for text in run.problems_found():
                        failures.append(f"{name} T={size} {shape} offset={offset} run {attempt}: {text}")
    return done


def token_map(problem: Problem, tokens: int, share: float):
    """A random token_row with every row used once, and the number of rows."""
    keep = torch.rand(tokens, problem.top_k, device="cuda") < share
    rows = int(keep.sum())
    token_row = torch.full((tokens, problem.top_k), -1, dtype=torch.int32, device="cuda")
    token_row[keep] = torch.randperm(rows, device="cuda", dtype=torch.int32)
    return token_row, rows


def check_combine(problem: Problem, module, failures: list[str]) -> int:
    """Finalize in all its forms, zero, cast and permute on random maps, some tokens without rows."""
    done, h = 0, problem.hidden
    for tokens in (1, 5, 130, 901):
        for share in (0.0, 0.125, 1.0):
            token_row, rows = token_map(problem, tokens, share)
            weight = torch.rand(max(rows, 1), device="cuda")
            index = token_row.long().clamp(min=0)
            local = token_row >= 0
            for name, dtype, splits in FINALIZE:
                y = torch.randn(splits, max(rows, 1), h, device="cuda").to(dtype)
                out = poisoned((tokens, h), torch.bfloat16)
                module[f"finalize_{name}"](y if splits > 1 else y[0], token_row, weight, out)
                factor = torch.where(local, weight[index] if name != "plain" else torch.ones_like(weight)[index], 0.0)
                want = (y.double().sum(0)[index] * factor[..., None]).sum(1)
                gap = float((out.double() - want).abs().max())
                if not gap <= 0.02 * max(1.0, float(want.abs().max())):
                    failures.append(f"finalize_{name} T={tokens} share={share}: error {gap}")
                done += 1
            failures.extend(check_copies(problem, module, token_row, rows))
            done += 3
    return done


def check_copies(problem: Problem, module, token_row: torch.Tensor, rows: int) -> list[str]:
    """Zero and cast of a [T, H] tensor, and permute along the map: exact."""
    tokens, h = len(token_row), problem.hidden
    acc, out = poisoned((tokens, h), torch.float32), poisoned((tokens, h), torch.bfloat16)
    found = []
    module["zero_f32"](acc)
    if bool((acc.view(torch.int32) != 0).any()):
        found.append(f"zero T={tokens}")
    acc = torch.randn(tokens, h, device="cuda")
    module["cast"](acc, out)
    if not torch.equal(out, acc.bfloat16()):
        found.append(f"cast T={tokens}")
    x = torch.randint(0, 256, (tokens, h), dtype=torch.uint8, device="cuda")
    scale = torch.randn(h // 128, tokens, device="cuda")
    x_rows = torch.zeros(max(rows, 1), h, dtype=torch.uint8, device="cuda")
    x_scale = torch.zeros(h // 128, max(rows, 1), device="cuda")
    fp8 = torch.float8_e4m3fn
    module["permute"](x.view(fp8), scale, token_row, None, None, x_rows.view(fp8), x_scale)
    token, slot = torch.nonzero(token_row >= 0, as_tuple=True)
    row = token_row[token, slot].long()
    if not torch.equal(x_rows[row], x[token]) or not torch.equal(x_scale[:, row], scale[:, token]):
        found.append(f"permute T={tokens} rows={rows}")
    return found


def times(problem: Problem, module, sizes: tuple[int, ...]) -> None:
    """Graph replay, cold L2, of each part alone."""
    timer = Timer()
    tiny = torch.empty(1, problem.hidden, device="cuda")
    print(f"one tiny kernel in a graph: {timer.time(lambda: module['zero_f32'](tiny)).median_us:.2f} us")
    for size in sizes:
        medians = [f"{name} {timer.time(call).median_us:.2f}" for name, call in timed_calls(problem, module, size)]
        print(f"T={size}:", ", ".join(medians), flush=True)


def timed_calls(problem: Problem, module, size: int):
    """Name and callable of each part at ``size`` tokens with natural routing."""
    barrier = torch.zeros(1, dtype=torch.int32, device="cuda")
    run = RoutingRun(problem, module["routing_a16"], Case(size, 0, seed=1), 16, False, barrier)
    run()
    rows, local = len(run.row_token), int((run.token_row >= 0).sum())
    yield f"{local} rows: routing", run
    y = torch.randn(rows, problem.hidden, device="cuda")
    y16 = y.bfloat16()
    out = torch.empty(size, problem.hidden, device="cuda", dtype=torch.bfloat16)
    yield "finalize bf16", lambda: module["finalize_bf16"](y16, run.token_row, run.row_weight, out)
    yield "finalize f32", lambda: module["finalize_f32"](y, run.token_row, run.row_weight, out)
    acc = torch.empty(size, problem.hidden, device="cuda")
    yield "zero", lambda: module["zero_f32"](acc)
    yield "cast", lambda: module["cast"](acc, out)
    fp8 = torch.float8_e4m3fn
    x = torch.zeros(size, problem.hidden, dtype=torch.uint8, device="cuda").view(fp8)
    x_rows = torch.zeros(rows, problem.hidden, dtype=torch.uint8, device="cuda").view(fp8)
    scale = torch.randn(problem.hidden // 128, size, device="cuda")
    x_scale = torch.empty(problem.hidden // 128, rows, device="cuda")
    yield "permute", lambda: module["permute"](x, scale, run.token_row, None, None, x_rows, x_scale)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    failures: list[str] = []
    for name, functions in json.loads((args.folder / "parts.json").read_text()).items():
        problem, module = PROBLEMS[name], load_functions(args.folder / f"{name}.so")
        before = len(failures)
        done = check_routing(problem, module, functions, failures) + check_combine(problem, module, failures)
        print(f"{name}: {done} checks, {len(failures) - before} failed", flush=True)
        if args.time and len(failures) == before:
            times(problem, module, (1, 7, 16, 57, 80, 128, 129, 901, 4096, 14107) if problem is MAIN else (1, 57, 901))
    print("\n".join(failures[:40]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
