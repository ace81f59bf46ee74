"""Compiles the configs of the table into one shared object, on a machine that needs no GPU."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .budget import GemmPlan
from .budget_sm100 import BlackwellPlan
from .config import SIZES, TABLE, TARGET
from .plans import launches
from .workspace import ALIGN

MANIFEST = "manifest.json"
LIBRARY = "moe_kernels.so"
TOLERATED_SPILL_BYTES = 64
"""Most bytes of spill stores that a kernel may have: a few values outside the main loop (tile table, addresses)."""


class Rejected(RuntimeError):  # noqa: N818 - the builder knows it by this name
    """The static figures say that the variant is hopeless or cannot run; the message says why."""


def function_name(config: dict[str, Any]) -> str:
    """Name of a config's host function in the library."""
    return "moe_" + hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def build(out_dir: str) -> dict[str, Any]:
    """Compile every distinct config of TABLE for TARGET into ``out_dir``.

    Returns:
        ``registers`` (largest per thread at launch), ``spill_bytes``, ``smem_bytes`` (largest per CTA), ``stages``, on
        Blackwell ``tmem_columns`` and ``acc_stages``, and per kernel registers and spills under ``kernels``.

    Raises:
        Rejected: A plan exceeds the hardware, or a GEMM spills.
    """
    configs = {function_name(config): config for _, config in TABLE}
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    kernels: dict[str, dict[str, int]] = {}
    objects = []
    for name, config in configs.items():
        for _, plan in launches(config, SIZES):
            problem = plan.problem()
            if problem is not None:
                raise Rejected(problem)
        with _without_torch():
            figures = compile_config(name, config, out)
        refuse_hangs(figures, dict(launches(config, SIZES)))
        objects.append(out / f"{name}.o")
        for kernel, figure in figures.items():
            kernels[f"{name}.{kernel}" if len(configs) > 1 else kernel] = figure
    for kernel, figure in kernels.items():
        if "gemm" in kernel and figure["spill_bytes"] > TOLERATED_SPILL_BYTES:
            raise Rejected(f"{kernel} spills {figure['spill_bytes']} bytes")
    _link(objects, out / LIBRARY)
    for path in objects:
        path.unlink()
    (out / MANIFEST).write_text(
        json.dumps({"target": TARGET, "functions": sorted(configs), "kernels": kernels}, indent=1)
    )
    every = [plan for config in configs.values() for _, plan in launches(config, SIZES)]
    blackwell = [plan for plan in every if isinstance(plan, BlackwellPlan)]
    tensor_memory = {
        "tmem_columns": max((p.tmem_columns for p in blackwell), default=0),
        "acc_stages": max((p.acc_stages for p in blackwell), default=0),
    }
    return {
        "registers": max(k["registers"] for k in kernels.values()),
        "spill_bytes": sum(k["spill_bytes"] for k in kernels.values()),
        "smem_bytes": max(p.smem_bytes for p in every),
        "stages": max(p.stages for p in every),
        **(tensor_memory if blackwell else {}),
        "kernels": kernels,
    }


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """tvm-ffi imports torch where it finds it. The compiler has no use for it, and where many compile side by side its
    import takes longer than a compilation and twice the memory."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Where remarks are asked for, the DSL finds the source line of every operation, a third of a build and more. Of
    the remarks only ptxas's figures are read, and they name no line.

    The name is private to the DSL (4.8.1); where it does not exist, builds are slower and nothing else.
    """
    dsl, name = sys.modules.get("cutlass.base_dsl.dsl"), "_set_enable_frame_filtering"
    original = getattr(dsl, name, None)
    if original is None:
        yield
        return
    setattr(dsl, name, lambda enable: original(False))
    try:
        yield
    finally:
        setattr(dsl, name, original)


def refuse_hangs(figures: dict[str, dict[str, int]], named: Mapping[str, GemmPlan]) -> None:
    """Refuse GEMMs whose warpgroups would wait for registers that the CTA was not launched with.

    Raises:
        Rejected: Such a GEMM is among the figures.
    """
    for kernel, figure in figures.items():
        gemm = re.match(r"(moe_gemm_[12](_many|_small)?)_\d", kernel)
        problem = named[gemm[1]].launch_problem(figure["registers"]) if gemm else None
        if problem is not None:
            raise Rejected(problem)


def _arguments() -> list[Any]:
    """Stand-ins for the host function's arguments."""
    import cutlass.cute as cute
    from cutlass import BFloat16, Float8E4M3FN, Float32, Int32, Uint8
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

    def tensor(dtype, *shape, align=16):
        order = tuple(reversed(range(len(shape))))
        return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)

    s = SIZES
    hidden, inter, local = s["hidden"], s["intermediate"], s["local_experts"]
    tokens = cute.sym_int()
    deepseek = s["routing"] == "deepseek"
    return [
        tensor(Float32 if deepseek else BFloat16, tokens, s["experts"]),
        tensor(BFloat16, s["experts"]) if deepseek else None,
        tensor(Float8E4M3FN, tokens, hidden),
        tensor(Float32, hidden // 128, tokens, align=4),
        tensor(Float8E4M3FN, local, 2 * inter, hidden),
        tensor(Float32, local, 2 * inter // 128, hidden // 128, align=4),
        tensor(Float8E4M3FN, local, hidden, inter),
        tensor(Float32, local, hidden // 128, inter // 128, align=4),
        Int32(0),
        Float32(1.0),
        tensor(BFloat16, tokens, hidden),
        tensor(Uint8, cute.sym_int64(), align=ALIGN),
        Int32(0),
        Int32(0),
        make_fake_stream(use_tvm_ffi_env_stream=True),
    ]


def compile_config(name: str, config: dict[str, Any], out: Path, keep: bool = False) -> dict[str, dict[str, int]]:
    """Compile one config to ``name.o``, with ``keep`` also PTX and cubin; static figures per kernel."""
    os.environ.setdefault("CUTE_DSL_ARCH", TARGET)
    import cutlass.cute as cute

    from .host import Moe

    remarks = out / f"{name}.yaml"
    options = f"--enable-tvm-ffi --gpu-arch {TARGET} --ptxas-options -v remarks{{ptx}} --remark-output {remarks}"
    if keep:
        options += f" --keep-ptx --keep-cubin --dump-dir {out}"
    with _without_locations():
        compiled = cute.compile(Moe(config, SIZES), *_arguments(), options=options)
    compiled.export_to_c(str(out / f"{name}.o"), function_name=name)
    if keep:
        (out / f"{name}.ptx").write_text(compiled.artifacts.PTX)
        (out / f"{name}.cubin").write_bytes(compiled.artifacts.CUBIN)
    return read_remarks(remarks.read_text())


def read_remarks(text: str) -> dict[str, dict[str, int]]:
    """Registers and spills per kernel out of the compiler's remarks (ptxas -v in YAML strings)."""
    flat = re.sub(r"\s+", " ", text.replace("\\n", " "))
    figures = {}
    for part in flat.split("Compiling entry function")[1:]:
        kernel = re.search(r"'+([\w$]+)'+ for", part)
        registers = re.search(r"Used (\d+) registers", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        if kernel and registers and spills:
            spill = int(spills[1]) + int(spills[2])
            figures[kernel[1]] = {"registers": int(registers[1]), "spill_bytes": spill}
    return figures


def _link(objects: list[Path], library: Path) -> None:
    """Link object files with the DSL's and tvm-ffi's runtime libraries."""
    import cutlass.cute as cute

    runtime = cute.runtime.find_runtime_libraries(enable_tvm_ffi=True)
    command = ["gcc", "-shared", "-o", str(library), *map(str, objects), *runtime]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"gcc could not link {library.name}: {done.stderr.strip()[-500:]}")
