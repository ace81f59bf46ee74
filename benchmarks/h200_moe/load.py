"""Loading compiled code on a machine without the CuTe DSL."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

RUNTIME = "libcute_dsl_runtime.so"


def load_runtime() -> None:
    """Make the DSL's runtime library visible to the objects that need it; found in $MOE_SITE or by the loader's
    path."""
    site = os.environ.get("MOE_SITE")
    if site:
        os.environ.setdefault("CUTE_DSL_LIBS", site)  # where a Solution looks for it
    path = Path(site) / RUNTIME if site and (Path(site) / RUNTIME).is_file() else RUNTIME
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def load_functions(library: Path):
    """The tvm-ffi module of a shared object."""
    import tvm_ffi

    load_runtime()
    return tvm_ffi.load_module(str(library))


def load_variant(folder: Path, entry: str = "main") -> ModuleType:
    """Import ``entry`` of a folder of Solution sources as a package of its own, so that several can live in one
    process."""
    load_runtime()
    name = "variant_" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    if name not in sys.modules:
        spec = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        package = importlib.util.module_from_spec(spec)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{entry}")
