"""What racecheck says of kernels that cannot race, to read its reports on the GEMMs by.

    python benchmarks/h200_moe/racecheck_control.py build FOLDER      # anywhere: FOLDER/control.so
    compute-sanitizer --tool racecheck python3 benchmarks/h200_moe/racecheck_control.py run FOLDER

A ring of one stage, as the GEMMs use it for token scales: a producer warp copies 512 bytes by ``cp.async.bulk`` and
arrives at ``full`` with the bytes to expect; 128 consumers wait for ``full``, read, and arrive at ``empty``, for which
the producer waits before it copies again. Four kernels differ in two things that change nothing in the order of
accesses: who copies (``elect``: the elected lane; ``lane``: lane 0 of a branch), and who arrives at ``empty``
(``warp``: one lane after the warp's barrier; ``all``: every lane). The run also says whether the values were right.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAME = "control"
FLOATS = 128
ROUNDS = 8
KINDS = [(copier, arrival) for copier in ("elect", "lane") for arrival in ("warp", "all")]


def build(folder: Path) -> int:
    """Compile the four kernels and one host function for sm_90a."""
    import cutlass
    import cutlass.cute as cute
    from cutlass import Float32, Int32, Int64
    from cutlass.cute.runtime import find_runtime_libraries, make_fake_compact_tensor, make_fake_stream
    from cutlass.memory import SmemAllocator

    class Ring:
        """One of the four kernels."""

        def __init__(self, copier: str, arrival: str):
            self.copier = copier
            self.arrival = arrival

        @cute.jit
        def copy(self, source, values, full):
            cute.arch.inline_ptx(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{$r0}], [{$r1}], {$r2}, [{$r3}];",
                read_only_args=[values.iterator.toint(), source.toint(), Int32(4 * FLOATS), full.toint()],
            )
            cute.arch.mbarrier_arrive_and_expect_tx(full, 4 * FLOATS)

        @cute.kernel
        def kernel(self, source, target):
            thread = cute.arch.thread_idx()[0]
            lane = cute.arch.lane_idx()
            smem = SmemAllocator()
            values = smem.allocate_tensor(Float32, cute.make_layout(FLOATS), byte_alignment=128)
            bars = smem.allocate_array(Int64, 2)
            full, empty = bars, bars + 1
            if thread == 0:
                cute.arch.mbarrier_init(full, 1)
                cute.arch.mbarrier_init(empty, FLOATS // 32 if self.arrival == "warp" else FLOATS)
            cute.arch.mbarrier_init_fence()
            cute.arch.sync_threads()
            if thread < FLOATS:
                total = Float32(0.0)
                for i in cutlass.range(ROUNDS, unroll=1):
                    cute.arch.mbarrier_wait(full, i & 1)
                    total = total + values[thread]
                    if cutlass.const_expr(self.arrival == "warp"):
                        cute.arch.sync_warp()
                        if lane == 0:
                            cute.arch.mbarrier_arrive(empty)
                    else:
                        cute.arch.mbarrier_arrive(empty)
                target[thread] = total
            else:
                for i in cutlass.range(ROUNDS, unroll=1):
                    cute.arch.mbarrier_wait(empty, (i & 1) ^ 1)
                    row = source.iterator + i * FLOATS
                    if cutlass.const_expr(self.copier == "elect"):
                        with cute.arch.elect_one():
                            self.copy(row, values, full)
                    else:
                        if lane == 0:
                            self.copy(row, values, full)

    kernels = [Ring(*kind) for kind in KINDS]

    @cute.jit
    def host(source, target, stream):
        for i in cutlass.range_constexpr(len(KINDS)):
            name = "moe_control_" + "_".join(KINDS[i])
            kernels[i].kernel.set_name_prefix(name, remove_cutlass_symbol=True, keep_mangled_name=False)
            row = cute.make_tensor(target.iterator + i * FLOATS, cute.make_layout(FLOATS))
            kernels[i].kernel(source, row).launch(grid=(1, 1, 1), block=(FLOATS + 32, 1, 1), stream=stream)

    shapes = ((ROUNDS, FLOATS), (len(KINDS), FLOATS))
    tensors = [make_fake_compact_tensor(cutlass.Float32, s, stride_order=(1, 0), assumed_align=16) for s in shapes]
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    compiled = cute.compile(host, *tensors, stream, options="--enable-tvm-ffi --gpu-arch sm_90a")
    folder.mkdir(parents=True, exist_ok=True)
    compiled.export_to_c(str(folder / f"{NAME}.o"), function_name=NAME)
    runtime = find_runtime_libraries(enable_tvm_ffi=True)
    subprocess.run(["gcc", "-shared", "-o", folder / f"{NAME}.so", folder / f"{NAME}.o", *runtime], check=True)
    return 0


def run(folder: Path) -> int:
    """One launch of each; 0 if all sums are right."""
    import ctypes

    import torch
    import tvm_ffi

    ctypes.CDLL("libcute_dsl_runtime.so", mode=ctypes.RTLD_GLOBAL)
    function = tvm_ffi.load_module(str(folder / f"{NAME}.so"))[NAME]
    source = torch.randn(ROUNDS, FLOATS, device="cuda")
    target = torch.full((len(KINDS), FLOATS), float("nan"), device="cuda")
    function(source, target)
    torch.cuda.synchronize()
    right = [bool(torch.allclose(row, source.sum(0), rtol=1e-4, atol=1e-4)) for row in target]
    print(f"sums right: {right}")
    return 0 if all(right) else 1


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("build", "run"):
        sys.exit(__doc__)
    sys.exit({"build": build, "run": run}[sys.argv[1]](Path(sys.argv[2])))
