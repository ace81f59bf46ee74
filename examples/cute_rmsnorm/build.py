"""The compile step: builders call ``build`` once for each variant, on machines that need no GPU."""

import json
import os
import re
import subprocess
from pathlib import Path

from .config import SIZES, TABLE, TARGET

LIBRARY = "rmsnorm.so"


class Rejected(RuntimeError):  # noqa: N818 - the builder knows it by this name
    """A config that is not worth measuring, by its static figures."""


def function_name(config):
    """Name of a config's function in the library."""
    return "_".join(["rmsnorm", *(str(value) for value in config.values())])


def build(out_dir):
    """Compile every config of the table into one library; its static figures go into the record."""
    out = Path(out_dir)
    figures = {}
    for config in {json.dumps(c): c for _, c in TABLE}.values():
        figures[function_name(config)] = compile_config(config, out)
    link(out)
    spilled = sum(f["spill_bytes"] for f in figures.values())
    if spilled:
        raise Rejected(f"{spilled} bytes of registers are spilled")
    return {"registers": max(f["registers"] for f in figures.values()), "spill_bytes": spilled, "smem_bytes": 0}


def compile_config(config, out):
    """An object file for one config; what the assembler says of it."""
    os.environ.setdefault("CUTE_DSL_ARCH", TARGET)
    import cutlass.cute as cute
    from cutlass import BFloat16
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

    from .kernel import RmsNorm

    hidden = SIZES["hidden_size"]
    rows = cute.sym_int()
    x, y = (make_fake_compact_tensor(BFloat16, (rows, hidden), stride_order=(1, 0), assumed_align=16) for _ in "xy")
    weight = make_fake_compact_tensor(BFloat16, (hidden,), stride_order=(0,), assumed_align=16)
    name = function_name(config)
    said = out / f"{name}.yaml"
    options = f"--enable-tvm-ffi --gpu-arch {TARGET} --ptxas-options -v remarks{{ptx}} --remark-output {said}"
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    compiled = cute.compile(RmsNorm(hidden, **config), x, weight, y, stream, options=options)
    compiled.export_to_c(str(out / f"{name}.o"), function_name=name)
    text = re.sub(r"\s+", " ", said.read_text().replace("\\n", " "))
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", text)
    return {
        "registers": max(map(int, re.findall(r"Used (\d+) registers", text))),
        "spill_bytes": sum(map(int, spills)),
    }


def link(out):
    """One library of all object files, which are then removed."""
    import cutlass.cute as cute

    objects = sorted(out.glob("*.o"))
    runtime = cute.runtime.find_runtime_libraries(enable_tvm_ffi=True)
    # The DSL loads a library for good, with its names visible to all that come later. Each is to use its own.
    command = ["gcc", "-shared", "-Wl,-Bsymbolic", "-o", out / LIBRARY, *objects, *runtime]
    subprocess.run(command, check=True)
    for path in objects:
        path.unlink()
