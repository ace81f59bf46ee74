"""C++ and CUDA for a named target, on machines without it, with headers and libraries of packages; what a build lacks.

flashinfer-bench's builders ask the GPU of the machine for its architecture, and know no include folders but their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from search_spaces.targets import target_named
from workers.build import resource_usage
from workers.devices.libraries import package_named
from workers.errors import CompileError, RejectedError
from workers.fib import adapter as fib
from workers.fib.dataset import Document
from workers.records import Variant

_ARCHITECTURES = ("TVM_FFI_CUDA_ARCH_LIST", "TORCH_CUDA_ARCH_LIST")

_RESOLVED = ("-Wl,-z,now",)
"""All symbols are looked up when the library is loaded. Without it, one that nothing defines ends the whole process
when it is first called, with exit code 127 and no word about the reason."""

_MISSING_FILE = re.compile(r"(?:fatal )?error: ([\w./+-]+): No such file or directory")
_MISSING_SOURCE = re.compile(r'cannot open source file "([\w./+-]+)"')
_MISSING_LIBRARY = re.compile(r"cannot find -l:?([\w.+-]+)")
_MISSING_SYMBOL = re.compile(r"undefined symbol: (\w+)")

_TOO_LARGE = re.compile(r"Entry function '(\S+)' uses too much shared data \((0x\w+) bytes, (0x\w+) max\)")
"""The limit is the assembler's for declared shared memory; with some toolkits it is below what a block may have."""

_MISTAKE = re.compile(
    r"^(?P<file>[^\s:(][^\n:(]*)(?:\((?P<line>\d+)\)|:(?P<row>\d+)(?::\d+)?): [\w ]*error(?: #\S+)?: (?P<what>.+)$"
    r"|^(?P<tool>ptxas|nvlink)[^\n:]* (?:error|fatal)\s*: (?P<fault>.+)$",
    re.MULTILINE,
)
"""What nvcc (``FILE(LINE): error: ...``), other compilers (``FILE:LINE:COLUMN: error: ...``) and NVIDIA's assembler and
linker write."""

_PACKAGES = {
    "cublas": "nvidia-cublas", "cudnn": "nvidia-cudnn-cu13", "curand": "nvidia-curand", "cusparse": "nvidia-cusparse",
    "cusolver": "nvidia-cusolver", "cufft": "nvidia-cufft", "nccl": "nvidia-nccl-cu13", "cub/": "nvidia-cuda-cccl",
    "thrust/": "nvidia-cuda-cccl", "cuda/": "nvidia-cuda-cccl", "cuda_runtime": "nvidia-cuda-runtime",
    "cutlass/": "a package with CUTLASS's headers", "cute/": "a package with CUTLASS's headers",
}  # fmt: skip
"""Start of the name of a header, library or function -> package that has it."""


def build(variant: Variant, definition: Document) -> Any:
    """The entry point of a C++ or CUDA Solution, compiled for the variant's target (or loaded, if it was before).

    Raises:
        CompileError: It does not compile; the first line says what is missing, else where it stops, if that shows.
        RejectedError: A kernel declares more shared memory than the assembler allows for the target.
    """
    if variant.binding == "torch" and variant.language == "cuda" and not _torch_is_for_cuda():
        raise CompileError("binding torch needs a torch that is made for CUDA; the one on this machine is for CPUs")
    with built_for(variant):
        try:
            return fib.build(variant, definition)
        except Exception as error:
            _refuse_too_large(str(error), variant)
            why = lacks(str(error), variant.dependencies) or first_error(str(error))
            if why:
                raise CompileError(f"{why}\n{error}") from error
            raise


def has_figures(variant: Variant) -> bool:
    """Whether a variant is compiled to kernels whose needs can be read from its library."""
    return variant.is_native and variant.language == "cuda"


def figures(variant: Variant, folder: Path) -> tuple[dict[str, Any], str]:
    """Static figures of the kernels in the libraries that were built below a folder, and a remark where they are not
    known."""
    if not has_figures(variant):
        return {}, ""
    libraries = sorted((folder / "fib").rglob("*.so"))
    read = [resource_usage.kernels_in(library, toolkit(), variant.target) for library in libraries]
    if None in read:
        why = "can read nothing of it" if resource_usage.tool(toolkit()) else "is not on this machine"
        remark = f"its registers, spills and shared memory are not known, since {resource_usage.TOOL} {why}"
        return {"remark": remark}, remark
    kernels = [{**k, "name": _readable(k["name"])} for found in read for k in found or ()]
    return resource_usage.figures(kernels), ""


def _refuse_too_large(log: str, variant: Variant) -> None:
    """Raise if the assembler refused a kernel for its shared memory, which is an answer about the target."""
    found = _TOO_LARGE.search(log)
    if found is not None:
        used, limit = int(found[2], 16), int(found[3], 16)
        what = f"{_readable(found[1])} declares {used} bytes of shared memory, {limit} are allowed"
        raise RejectedError(f"a kernel cannot be assembled for {variant.target}: {what}", {"smem_bytes": used})


def _torch_is_for_cuda() -> bool:
    import torch

    return torch.version.cuda is not None


@contextlib.contextmanager
def built_for(variant: Variant) -> Iterator[None]:
    """Builds in this context are for the variant's target, with the headers and libraries of its dependencies."""
    target = target_named(variant.target)
    settings: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        if target.capability is not None:
            # "sm_90a" -> "9.0a": instructions of one architecture alone need the letter.
            digits, letter = re.fullmatch(r"sm_(\d+)([a-z]?)", target.name).groups()  # type: ignore[union-attr]
            settings = dict.fromkeys(_ARCHITECTURES, f"{digits[:-1]}.{digits[-1]}{letter}")
        includes, libraries = _folders(variant.dependencies)
        home = toolkit() if variant.language == "cuda" else None
        if home is not None:
            settings["CUDA_HOME"] = str(home)
        for name, value in settings.items():
            stack.callback(_put_back, name, os.environ.get(name))
            os.environ[name] = value
        flags = [f for folder in libraries for f in (f"-L{folder}", f"-Wl,-rpath,{folder}")]
        if home is not None:
            # Toolkits from packages have lib, those of NVIDIA's installer lib64.
            flags += [f for folder in ("lib", "lib64") for f in (f"-L{home / folder}", f"-Wl,-rpath,{home / folder}")]
        flags += ["-Wl,--as-needed"] if libraries else []
        flags += [f"-l:{path.name}" for folder in libraries for path in sorted(folder.glob("lib*.so*"))]
        _add_to_builders(stack, [str(folder) for folder in includes], [*flags, *_RESOLVED])
        yield


def lacks(log: str, dependencies: tuple[str, ...]) -> str:
    """What a failed build lacks, as far as its log shows, in one line; empty if it shows nothing."""
    if "Could not find CUDA installation" in log or "nvcc: not found" in log:
        return "this machine has no CUDA compiler (nvcc)"
    for pattern in (_MISSING_FILE, _MISSING_SOURCE, _MISSING_LIBRARY, _MISSING_SYMBOL):
        found = pattern.search(log)
        if found is None:
            continue
        name = _readable(found[1])
        package = next((p for start, p in _PACKAGES.items() if name.removeprefix("lib").startswith(start)), "")
        if not package:
            return f"{name} was not found"
        if package not in dependencies:
            return f"{name} was not found; name {package} in 'dependencies'"
        return f"{name} was not found; install {package} on the machines that build"
    return ""


def first_error(log: str) -> str:
    """The first mistake that a compiler or assembler names, in one line with file and line; empty if none does."""
    found = _MISTAKE.search(log)
    if found is None:
        return ""
    if found["tool"]:
        return f"{found['tool']}: {found['fault'].strip()}"
    return f"{Path(found['file']).name}, line {found['line'] or found['row']}: {found['what'].strip()}"


def _readable(symbol: str) -> str:
    """A C++ symbol as its source writes it, ``scale(float)`` for ``_Z5scalef``; other names as they are."""
    if not symbol.startswith("_Z"):
        return symbol
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return symbol
    demangle.restype = ctypes.c_void_p
    status = ctypes.c_int()
    written = demangle(symbol.encode(), None, None, ctypes.byref(status))
    return ctypes.string_at(written).decode() if written else symbol


@functools.lru_cache
def toolkit() -> Path | None:
    """The folder of the CUDA toolkit whose nvcc is found first, even through a link or a script; None without one."""
    given = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if given:
        return Path(given)
    try:
        command = ["nvcc", "--dryrun", "-x", "cu", os.devnull]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    top = re.search(r"^#\$ TOP=(.+)$", told, re.MULTILINE)
    return Path(top[1]).resolve() if top else None


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _folders(dependencies: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Include folders and library folders of the installed packages of these names."""
    includes: dict[Path, None] = {}
    libraries: dict[Path, None] = {}
    for name in dependencies:
        try:
            files = metadata.distribution(package_named(name)).files or []
        except (metadata.PackageNotFoundError, ValueError):
            continue
        for file in files:
            path = Path(str(file.locate()))
            if "include" in file.parts[:-1]:
                below = len(file.parts) - file.parts.index("include") - 2
                includes[path.parents[below]] = None
            elif re.search(r"^lib.*\.so(\.\d+)*$", file.name):
                libraries[path.parent] = None
    return list(includes), list(libraries)


def _add_to_builders(stack: contextlib.ExitStack, includes: list[str], flags: list[str]) -> None:
    """Hand folders and flags to the functions with which flashinfer-bench's builders compile."""
    for module, name in (("tvm_ffi.cpp", "build"), ("torch.utils.cpp_extension", "load")):
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            continue
        holder = importlib.import_module(module)
        plain = getattr(holder, name)
        stack.callback(setattr, holder, name, plain)
        setattr(holder, name, _with_more(plain, includes, flags))


def _with_more(build: Callable[..., Any], includes: list[str], flags: list[str]) -> Callable[..., Any]:
    @functools.wraps(build)
    def built(*args: Any, extra_include_paths: Any = None, extra_ldflags: Any = None, **kwargs: Any) -> Any:
        given = [*(extra_include_paths or ()), *includes], [*(extra_ldflags or ()), *flags]
        return build(*args, extra_include_paths=given[0], extra_ldflags=given[1], **kwargs)

    return built
