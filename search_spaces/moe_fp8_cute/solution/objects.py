"""Compiles kernels and host functions to objects, and links them; needs the DSL, but no GPU."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .pipeline import Document, symbol
from .workspace import ALIGN

Figures = dict[str, dict[str, int]]
"""Kernel -> ``registers`` and ``spill_bytes``."""


def make(document: Document, folder: Path, keep: bool = False) -> None:
    """Compile a kernel or a host function to ``SYMBOL.o``, and write its kernels' figures to ``SYMBOL.json``.

    Args:
        document: What it is made from, see pipeline.py.
        folder: The folder.
        keep: Also write ``SYMBOL.ptx`` and ``SYMBOL.cubin``.
    """
    import cutlass.cute as cute
    from cutlass import Int64
    from cutlass.cute.runtime import make_fake_stream

    name = symbol(document)
    remarks = folder / f"{name}.yaml"
    # Nothing is made callable here: that is the linked library's part, and where this machine has such a GPU the DSL
    # would generate the code twice and look for functions that are in other objects.
    options = f"--enable-tvm-ffi --gpu-arch {document['target']}"
    with _without_torch(), _without_locations(), _without_collection():
        if document["kind"] == "host":
            from .host import Host

            function, arguments = Host(document), _arguments(document["sizes"])
        else:
            from .kernel import Kernel

            function, arguments = Kernel(document), [Int64(0), make_fake_stream()]
            options += f" --ptxas-options -v remarks{{ptx}} --remark-output {remarks}"
            options += f" --keep-ptx --keep-cubin --dump-dir {folder}" if keep else ""
        compiled = cute.compile(function, *arguments, options=options, no_jit_engine=True)
        compiled.export_to_c(str(folder / f"{name}.o"), function_name=name)
    (folder / f"{name}.json").write_text(json.dumps(read_remarks(remarks.read_text()) if remarks.exists() else {}))
    remarks.unlink(missing_ok=True)
    if keep and document["kind"] != "host":
        (folder / f"{name}.ptx").write_text(compiled.artifacts.PTX)
        (folder / f"{name}.cubin").write_bytes(compiled.artifacts.CUBIN)


def figures_of(name: str, folder: Path) -> Figures:
    """What :func:`make` wrote down of the kernel with this symbol."""
    figures: Figures = json.loads((folder / f"{name}.json").read_text())
    return figures


def link(objects: Sequence[Path], library: Path, names: Mapping[str, str]) -> None:
    """Link object files with the DSL's and tvm-ffi's runtime libraries.

    Args:
        objects: The objects.
        library: The library.
        names: Other name of a function -> its symbol.
    """
    import cutlass.cute as cute

    runtime = cute.runtime.find_runtime_libraries(enable_tvm_ffi=True)
    aliases = [f"-Wl,--defsym=__tvm_ffi_{other}=__tvm_ffi_{name}" for other, name in names.items()]
    command = ["gcc", "-shared", "-o", str(library), *aliases, *map(str, objects), *runtime]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"gcc could not link {library.name}: {done.stderr.strip()[-500:]}")


def read_remarks(text: str) -> Figures:
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


def _arguments(sizes: Mapping[str, Any]) -> list[Any]:
    """Stand-ins for the host function's arguments."""
    import cutlass.cute as cute
    from cutlass import BFloat16, Float8E4M3FN, Float32, Int32, Uint8
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

    def tensor(dtype, *shape, align=16):
        order = tuple(reversed(range(len(shape))))
        return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)

    hidden, inter, local = sizes["hidden"], sizes["intermediate"], sizes["local_experts"]
    tokens = cute.sym_int()
    deepseek = sizes["routing"] == "deepseek"
    return [
        tensor(Float32 if deepseek else BFloat16, tokens, sizes["experts"]),
        tensor(BFloat16, sizes["experts"]) if deepseek else None,
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


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Tracing makes some hundred thousand objects that are all needed; to look for garbage among them takes 4 %."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
