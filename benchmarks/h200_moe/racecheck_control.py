"""What racecheck says of a bulk copy that is synchronised as PTX prescribes, to read its reports on the GEMMs by.

    python benchmarks/h200_moe/racecheck_control.py build FOLDER      # anywhere: FOLDER/control.so
    compute-sanitizer --tool racecheck python3 benchmarks/h200_moe/racecheck_control.py run FOLDER

One CTA: a thread starts a ``cp.async.bulk`` of 512 bytes, arrives at a barrier with the bytes to expect, and all
threads wait for the barrier's phase before they read. A hazard reported here is one that the tool would report for any
kernel of this form, since a race is impossible. The run also says whether the values were right.
"""

from __future__ import annotations

import sys
from pathlib import Path

BYTES = 512
NAME = "control"


def build(folder: Path) -> None:
    """Compile the kernel and its host function for sm_90a."""
    import subprocess

    import cutlass
    import cutlass.cute as cute
    from cutlass import Float32, Int32, Int64
    from cutlass.cute.runtime import find_runtime_libraries, make_fake_compact_tensor, make_fake_stream
    from cutlass.memory import SmemAllocator

    @cute.kernel
    def kernel(source, target):
        thread = cute.arch.thread_idx()[0]
        smem = SmemAllocator()
        values = smem.allocate_tensor(Float32, cute.make_layout(BYTES // 4), byte_alignment=128)
        barrier = smem.allocate_array(Int64, 1)
        if thread == 0:
            cute.arch.mbarrier_init(barrier, 1)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()
        if thread == 0:
            cute.arch.inline_ptx(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{$r0}], [{$r1}], {$r2}, [{$r3}];",
                read_only_args=[values.iterator.toint(), source.iterator.toint(), Int32(BYTES), barrier.toint()],
            )
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, BYTES)
        cute.arch.mbarrier_wait(barrier, Int32(0))
        target[thread] = values[thread]

    @cute.jit
    def host(source, target, stream):
        kernel.set_name_prefix("moe_control", remove_cutlass_symbol=True, keep_mangled_name=False)
        kernel(source, target).launch(grid=(1, 1, 1), block=(BYTES // 4, 1, 1), stream=stream)

    tensors = [make_fake_compact_tensor(cutlass.Float32, (BYTES // 4,), assumed_align=16) for _ in range(2)]
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    compiled = cute.compile(host, *tensors, stream, options="--enable-tvm-ffi --gpu-arch sm_90a")
    folder.mkdir(parents=True, exist_ok=True)
    compiled.export_to_c(str(folder / f"{NAME}.o"), function_name=NAME)
    runtime = find_runtime_libraries(enable_tvm_ffi=True)
    subprocess.run(["gcc", "-shared", "-o", folder / f"{NAME}.so", folder / f"{NAME}.o", *runtime], check=True)


def run(folder: Path) -> int:
    """One launch; 0 if the values arrived."""
    import ctypes

    import torch
    import tvm_ffi

    ctypes.CDLL("libcute_dsl_runtime.so", mode=ctypes.RTLD_GLOBAL)
    function = tvm_ffi.load_module(str(folder / f"{NAME}.so"))[NAME]
    source = torch.randn(BYTES // 4, device="cuda")
    target = torch.full_like(source, float("nan"))
    function(source, target)
    torch.cuda.synchronize()
    right = torch.equal(source, target)
    print(f"values right: {right}")
    return 0 if right else 1


if __name__ == "__main__":
    action, where = {"build": build, "run": run}[sys.argv[1]], Path(sys.argv[2])
    sys.exit(action(where))
