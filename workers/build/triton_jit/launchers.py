"""Launchers are C code that Triton has the host's compiler compile for each signature, when a kernel is first launched.

A builder has them compiled too. It cannot load them, since they need NVIDIA's driver.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class Launcher:
    """In place of Triton's launcher: compiles it, and launches nothing."""

    def __init__(self, source: Any, metadata: Any) -> None:
        try:
            _compile_launcher(source, metadata)
        except Exception as error:
            # Only seconds are lost: the first call compiles it.
            _log.info(f"no launcher of a Triton kernel was compiled: {type(error).__name__}: {error}")

    def __call__(self, *_: Any) -> None: ...


def _compile_launcher(source: Any, metadata: Any) -> None:
    """As triton.backends.nvidia.driver.CudaLauncher does, up to the point where it loads the library."""
    from triton.backends.nvidia import driver

    constants = getattr(source, "constants", {})
    names = source.fn.arg_names
    constants = {(names.index(k),) if isinstance(k, str) else k: value for k, value in constants.items()}
    text = driver.make_launcher(constants, dict(source.signature.items()), getattr(metadata, "tensordesc_meta", None))
    compile_library(text, "__triton_launcher")


def compile_library(text: str, name: str) -> None:
    """Compile C code into Triton's cache, where ``triton.runtime.build.compile_module_from_src`` looks for it."""
    from triton.backends.nvidia import driver
    from triton.runtime import build
    from triton.runtime.cache import get_cache_manager

    cache = get_cache_manager(hashlib.sha256((text + build.platform_key()).encode()).hexdigest())
    file = f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if cache.get_file(file) is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.c"
        path.write_text(text, encoding="utf-8")
        # A driver for the linker alone; the real one is there where the library is loaded. It has the functions that
        # are called: some linkers drop a library that nothing needs, and then the real one would not be found.
        stub = Path(folder) / "stub.c"
        called = sorted(set(re.findall(r"\bcu[A-Z]\w*", text)))
        stub.write_text("".join(f"void {name}(void) {{}}\n" for name in called), encoding="utf-8")
        command = [os.environ.get("CC", "gcc"), "-shared", "-fPIC", str(stub), "-o", f"{folder}/libcuda.so.1"]
        subprocess.run([*command, "-Wl,-soname,libcuda.so.1"], check=True, capture_output=True, timeout=60)
        folders = [driver.libdevice_dir, folder]
        library = build._build(name, str(path), folder, folders, driver.include_dirs, driver.libraries, [])
        cache.put(Path(library).read_bytes(), file, binary=True)
