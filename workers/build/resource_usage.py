"""What compiled CUDA kernels need: registers, stack and shared memory, as NVIDIA's ``cuobjdump`` reads them."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

TOOL = "cuobjdump"

_RESERVED_BYTES = 1024
"""Shared memory that CUDA keeps for itself in each block since compute capability 9.0, and that no kernel asked for.

Source: CUDA C++ Programming Guide, section "Shared Memory" of compute capability 9.0.
"""

_KERNEL = re.compile(r"^ *Function (.+):\n *REG:(\d+) STACK:(\d+) SHARED:(\d+)", re.MULTILINE)
_TARGET = re.compile(r"^arch = (\S+)$", re.MULTILINE)


def tool(toolkit: Path | None = None) -> str | None:
    """Path of ``cuobjdump``: the one that the environment names or Triton brings along, that on PATH, a toolkit's."""
    found = importlib.util.find_spec("triton")
    inside = () if found is None else found.submodule_search_locations or ()
    places = [Path(folder) / "backends" / "nvidia" / "bin" for folder in inside]
    named = os.environ.get("TRITON_CUOBJDUMP_PATH") or shutil.which(TOOL, path=os.pathsep.join(map(str, places)))
    there = None if toolkit is None else shutil.which(TOOL, path=str(toolkit / "bin"))
    return named or shutil.which(TOOL) or there


def kernels_in(binary: Path, toolkit: Path | None = None, target: str | None = None) -> list[dict[str, Any]] | None:
    """The kernels of a cubin, or of a library that holds some.

    Args:
        binary: The file.
        toolkit: Folder of a CUDA toolkit, where the tool may lie.
        target: Only kernels for this one, such as ``sm_90a``, where a library has every kernel once for each of several
            targets.

    Returns:
        ``name`` as it is linked, ``registers`` per thread, ``spill_bytes`` of stack per thread, and static
        ``smem_bytes`` per block of each; None where the tool is not on this machine or cannot read the file.
    """
    command = tool(toolkit)
    if command is None:
        return None
    try:
        arguments = [command, "--dump-resource-usage", str(binary)]
        text = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        _log.info(f"no registers of {binary.name}: {type(error).__name__}: {error}")
        return None
    if target is not None:
        _, *sections = _TARGET.split(text)
        text = "".join(rest for name, rest in zip(sections[::2], sections[1::2], strict=True) if name == target)
    return [
        {
            "name": name,
            "registers": int(registers),
            "spill_bytes": int(stack),
            "smem_bytes": max(0, int(shared) - _RESERVED_BYTES),
        }
        for name, registers, stack, shared in _KERNEL.findall(text)
    ]


def figures(kernels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Static figures of all kernels: the largest numbers of registers (per thread) and bytes of shared memory (per
    block), the sum of stack frames, which is where spills go; and each kernel by itself."""
    found: dict[str, Any] = {"kernels": list(kernels)} if kernels else {}
    for key, total in (("registers", max), ("spill_bytes", sum), ("smem_bytes", max)):
        values = [k[key] for k in kernels if key in k]
        if values:
            found[key] = total(values)
    return found
