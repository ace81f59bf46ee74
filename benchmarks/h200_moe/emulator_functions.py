"""Measure a GPU's ``rcp.approx.ftz.f32`` and ``ex2.approx.ftz.f32``, which no document defines to the last bit.

    python benchmarks/h200_moe/emulator_functions.py build OUT [--target sm_90a]      (with the DSL, no GPU)
    python3 benchmarks/h200_moe/emulator_functions.py measure OUT/functions.so FILE.npz   (on the GPU)

FILE gets, as steps from the correctly rounded value: ``rcp`` of every float32 in [1, 2), ``ex2`` of every multiple of
2**-23 in [0, 1); and ``x``, ``ex2_x``, ``rcp_x``: random arguments with the results as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

COUNT = 1 << 23


def build(out: Path, target: str) -> None:
    """Compile the probe."""
    os.environ["CUTE_DSL_ARCH"] = target
    import cutlass.cute as cute
    from cutlass import Float32
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

    @cute.kernel
    def kernel(x, rcp, ex2):
        at = cute.arch.block_idx()[0] * 256 + cute.arch.thread_idx()[0]
        value = x[at]
        rcp[at] = cute.arch.inline_ptx(
            "rcp.approx.ftz.f32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[value]
        )
        ex2[at] = cute.arch.inline_ptx(
            "ex2.approx.ftz.f32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[value]
        )

    @cute.jit
    def launch(x, rcp, ex2, stream):
        kernel(x, rcp, ex2).launch(grid=(COUNT // 256, 1, 1), block=(256, 1, 1), stream=stream)

    def tensor():
        return make_fake_compact_tensor(Float32, (COUNT,), assumed_align=16)

    options = f"--enable-tvm-ffi --gpu-arch {target}"
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    compiled = cute.compile(launch, tensor(), tensor(), tensor(), stream, options=options)
    out.mkdir(parents=True, exist_ok=True)
    compiled.export_to_c(str(out / "functions.o"), function_name="functions")
    runtime = cute.runtime.find_runtime_libraries(enable_tvm_ffi=True)
    subprocess.run(["gcc", "-shared", "-o", str(out / "functions.so"), str(out / "functions.o"), *runtime], check=True)
    (out / "functions.o").unlink()


def measure(library: Path, file: Path) -> None:
    """Run the probe three times."""
    import torch
    from load import load_functions

    function = load_functions(library)["functions"]

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = torch.from_numpy(x).cuda()
        rcp, ex2 = torch.empty_like(given), torch.empty_like(given)
        function(given, rcp, ex2)
        torch.cuda.synchronize()
        return rcp.cpu().numpy(), ex2.cpu().numpy()

    def steps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
        return (found.view(np.int32) - exact.astype(np.float32).view(np.int32)).astype(np.int8)

    fractions = np.arange(COUNT, dtype=np.float64) / COUNT
    rcp = steps(run((1.0 + fractions).astype(np.float32))[0], 1.0 / (1.0 + fractions))
    ex2 = steps(run(fractions.astype(np.float32))[1], np.exp2(fractions))
    rng = np.random.default_rng(0)
    x = (rng.uniform(-40, 40, COUNT) * rng.choice([1.0, 0.1, 0.01, 1e-4], COUNT)).astype(np.float32)
    rcp_x, ex2_x = run(x)
    keep = slice(0, 1 << 18)
    np.savez_compressed(file, rcp=rcp, ex2=ex2, x=x[keep], rcp_x=rcp_x[keep], ex2_x=ex2_x[keep])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "measure"))
    parser.add_argument("path", type=Path)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--target", default="sm_90a")
    args = parser.parse_args()
    if args.what == "build":
        build(args.path, args.target)
    elif args.file is None:
        sys.exit("measure wants a file for the results")
    else:
        measure(args.path, args.file)


if __name__ == "__main__":
    main()
