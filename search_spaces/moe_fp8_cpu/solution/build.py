"""The compile step: kernels of every config of this folder into Numba's cache beside the sources."""

import shutil
import time
from pathlib import Path


def build(out_dir):
    """Compile, and leave the machine code in ``__pycache__`` beside the sources, where Numba looks for it.

    A process that imports ``main`` from a copy of this folder, at any path, on the same kind of CPU, loads the code
    and compiles nothing. On another kind of CPU Numba's key does not match and it compiles anew.

    Args:
        out_dir: Folder of the artifact. If it does not belong to the folder of the sources, it gets a copy of the
            machine code.

    Returns:
        Measured figures: ``compile_s`` and ``compile_cpu_s``; ``cache_hits`` and ``cache_misses`` of Numba;
        ``llvm_ir_bytes`` (after optimisation) and ``fma_instructions`` of the kernels; ``object_bytes`` on disk.
    """
    from .compiled import kernels as kernels_of
    from .config import TABLE

    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    kernels = {kernel for _, config in TABLE for kernel in kernels_of(config)}
    compile_s, compile_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    source = Path(__file__).resolve().parent / "__pycache__"
    target = Path(out_dir).resolve() / "__pycache__"
    files = [file for file in source.iterdir() if file.suffix in (".nbi", ".nbc")]
    if source.parent not in target.parents:
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy2(file, target / file.name)
    return {
        "compile_s": round(compile_s, 3),
        "compile_cpu_s": round(compile_cpu_s, 3),
        "cache_hits": sum(sum(k.stats.cache_hits.values()) for k in kernels),
        "cache_misses": sum(sum(k.stats.cache_misses.values()) for k in kernels),
        "llvm_ir_bytes": sum(len(text) for k in kernels for text in k.inspect_llvm().values()),
        "fma_instructions": sum(text.count("vfmadd") for k in kernels for text in k.inspect_asm().values()),
        "object_bytes": sum(file.stat().st_size for file in files if file.suffix == ".nbc"),
    }
