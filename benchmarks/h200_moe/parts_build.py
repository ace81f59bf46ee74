"""Compile routing, permute and combine alone, for checks and timings of these kernels by themselves (no GPU needed).

    python benchmarks/h200_moe/parts_build.py OUT [--problem NAME] [--pdl]

OUT gets one shared object per problem with all parts in it and parts.json, which names the functions and their choices.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("CUTE_DSL_ARCH", "sm_90a")

import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int32
from cutlass.cute.runtime import find_runtime_libraries, make_fake_compact_tensor, make_fake_stream
from problems import PROBLEMS, Problem

FAMILY = Path(__file__).resolve().parents[2] / "search_spaces" / "moe_fp8_cute"
sys.path.insert(0, str(FAMILY))

from solution.combine import Cast, Finalize, Zero  # noqa: E402
from solution.permute import Permute  # noqa: E402
from solution.routing import Routing  # noqa: E402


def fake(dtype, *shape, align=4):
    """A row-major stand-in tensor."""
    order = tuple(reversed(range(len(shape))))
    return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)


def parts(problem: Problem, pdl: bool):
    """Function name, kernel object and stand-in arguments of every part."""
    e, k, h = problem.local, problem.top_k, problem.hidden
    t, p = cute.sym_int(), cute.sym_int()
    method = "renorm" if problem.renorm else "deepseek"
    for align, batched in ((1, False), (16, False), (128, False), (64, True)):
        routing = Routing(
            problem.experts, e, k, method, problem.n_group, problem.topk_group, align, batched, use_pdl=pdl
        )
        logits = fake(BFloat16 if problem.renorm else Float32, t, problem.experts, align=16)
        bias = None if problem.renorm else fake(BFloat16, problem.experts, align=16)
        arguments = [
            *(logits, bias, Int32(0), Float32(0), Int32(0)),
            *(fake(Int32, e), fake(Int32, e + 1), fake(Int32, p), fake(Float32, p), fake(Int32, t, k)),
            *(fake(Int32, routing.scratch_ints, align=16), fake(Int32, 1)),
        ]
        yield f"routing_a{align}{'_batched' if batched else ''}", routing, arguments
    token_row, weight, out = fake(Int32, t, k), fake(Float32, p), fake(BFloat16, t, h, align=16)
    for name, dtype, splits, weighted in (
        ("bf16", BFloat16, 1, True),
        ("f32", Float32, 1, True),
        ("split4", Float32, 4, True),
        ("plain", BFloat16, 1, False),
    ):
        y = fake(dtype, *((splits,) if splits > 1 else ()), p, h, align=16)
        yield (
            f"finalize_{name}",
            Finalize(h, k, weighted, splits, pdl, e == problem.experts),
            [y, token_row, weight, out],
        )
    yield "zero_f32", Zero(h, pdl), [fake(Float32, t, h, align=16)]
    yield "cast", Cast(h, pdl), [fake(Float32, t, h, align=16), out]
    x, x_rows = fake(Float8E4M3FN, t, h, align=16), fake(Float8E4M3FN, p, h, align=16)
    scales = fake(Float32, h // 128, t), fake(Float32, h // 128, p)
    yield "permute", Permute(h, k, pdl), [x, scales[0], token_row, None, None, x_rows, scales[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--problem", choices=sorted(PROBLEMS), action="append")
    parser.add_argument("--pdl", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    listing = {}
    for name in args.problem or sorted(PROBLEMS):
        objects = []
        for function, kernel, arguments in parts(PROBLEMS[name], args.pdl):
            stream = make_fake_stream(use_tvm_ffi_env_stream=True)
            compiled = cute.compile(kernel, *arguments, stream, options="--enable-tvm-ffi --gpu-arch sm_90a")
            objects.append(args.out / f"{name}-{function}.o")
            compiled.export_to_c(str(objects[-1]), function_name=function)
            listing.setdefault(name, []).append(function)
        library = args.out / f"{name}.so"
        runtime = find_runtime_libraries(enable_tvm_ffi=True)
        subprocess.run(["gcc", "-shared", "-o", str(library), *map(str, objects), *runtime], check=True)
        for path in objects:
            path.unlink()
        print(f"{library} with {len(objects)} parts", flush=True)
    (args.out / "parts.json").write_text(json.dumps(listing, indent=1))


if __name__ == "__main__":
    main()
