"""Entry point of the Solution: FP8 block-scale mixture of experts, all kernels in CuTe DSL."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import tempfile
from importlib import metadata
from pathlib import Path

import torch

from .config import SIZES, TARGET, select
from .plans import batch_rows, row_capacity
from .workspace import ALIGN, MAX_TOKENS, sections

HERE = Path(__file__).resolve().parent
RUNTIME = "libcute_dsl_runtime.so"

_workspaces: dict[int, list[torch.Tensor]] = {}
"""Per device, the workspaces made so far, the largest last. None is ever freed: a CUDA graph may hold its address."""


def run(*args) -> None:
    """Inputs in the definition's order, then the output [T, H] bfloat16, which is written.

    DeepSeek routing: routing_logits, routing_bias, hidden_states, hidden_states_scale, gemm1_weights,
    gemm1_weights_scale, gemm2_weights, gemm2_weights_scale, local_expert_offset, routed_scaling_factor, output.
    Renormalised softmax: the same without routing_bias, local_expert_offset and routed_scaling_factor.

    Raises:
        ValueError: There are more tokens than the routing kernel has room for.
        RuntimeError: The workspace does not fit into the device's memory, or the compiled code cannot be loaded.
    """
    if SIZES["routing"] == "deepseek":
        logits, bias, x, xs, w13, s13, w2, s2, offset, scaling, out = args
    else:
        logits, x, xs, w13, s13, w2, s2, out = args
        bias, offset, scaling = None, 0, 1.0
    tokens = x.shape[0]
    if tokens == 0:
        return
    if tokens > MAX_TOKENS:
        raise ValueError(f"{tokens} tokens; a call takes at most {MAX_TOKENS}")
    config = select(tokens)
    rows = row_capacity(config, SIZES, tokens)
    workspace = _workspace(x.device, sections(config, SIZES, tokens, rows)["total"])
    _function(_key(tokens))(
        logits,
        bias,
        x,
        xs,
        w13,
        s13,
        w2,
        s2,
        int(offset),
        float(scaling),
        out,
        workspace,
        rows,
        batch_rows(config, tokens),
    )


def preload() -> None:
    """Load the compiled code before the first call; evaluators do, while the GPU works on something else."""
    _library()


def _workspace(device: torch.device, size: int) -> torch.Tensor:
    """At least ``size`` bytes on the device, reused by every call; it only grows.

    The compiled code wants it at a multiple of ``ALIGN``; torch's allocator gives multiples of 512.
    """
    made = _workspaces.setdefault(device.index or 0, [])
    if not made or made[-1].numel() < size:
        try:
            room = torch.zeros(size + ALIGN, dtype=torch.uint8, device=device)
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(f"the workspace needs {size} bytes of device memory, which is not there") from error
        made.append(room[-room.data_ptr() % ALIGN :][:size])
    return made[-1]


@functools.cache
def _key(tokens: int) -> str:
    """Name of the compiled function for a token count."""
    from .build import function_name

    return function_name(select(tokens))


@functools.cache
def _function(name: str):
    """The compiled host function."""
    return _library()[name]


@functools.cache
def _library():
    """The shared object with all configs: from ``artifacts/`` beside this file, else from the user's cache."""
    import tvm_ffi

    from .build import LIBRARY

    _load_runtime()
    path = HERE / "artifacts" / LIBRARY
    if not path.is_file():
        path = _cached(LIBRARY)
    return tvm_ffi.load_module(str(path))


def _cached(library: str) -> Path:
    """Build into a folder of the user's cache that is named after the sources and the compiler's version."""
    digest = hashlib.sha256(TARGET.encode())
    for package in ("nvidia-cutlass-dsl", "apache-tvm-ffi"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            digest.update(metadata.version(package).encode() + b"\0")
    for source in sorted(HERE.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe_fp8_cute"
    folder = root / digest.hexdigest()[:24]
    if not (folder / library).is_file():
        from .build import build

        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=root))
        build(str(staging))
        # Another process may be faster; its result is the same.
        with contextlib.suppress(OSError):
            staging.rename(folder)
    return folder / library


def _load_runtime() -> None:
    """Load the DSL's runtime library so that the compiled object finds it; the compiler itself is not needed."""
    candidates = [Path(p) / RUNTIME for p in os.environ.get("CUTE_DSL_LIBS", "").split(":") if p]
    spec = importlib.util.find_spec("nvidia_cutlass_dsl")
    for root in (spec.submodule_search_locations or []) if spec else []:
        candidates += [Path(root) / cuda / "lib" / RUNTIME for cuda in ("cu13", "cu12")]
    for path in [*map(str, filter(Path.is_file, candidates)), RUNTIME]:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError as error:
            failure = error
    raise RuntimeError(
        f"{RUNTIME} cannot be loaded ({failure}); install nvidia-cutlass-dsl or set CUTE_DSL_LIBS to its folder"
    )
