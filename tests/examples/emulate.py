"""The PTX of an RMS norm example, executed with data by the emulator."""

import json
import re
from pathlib import Path

import numpy as np
import torch

from search_spaces.dataset import PATH
from search_spaces.directory import DirectoryFamily
from workers.emulator.machine import Launch, run
from workers.emulator.memory import GlobalMemory
from workers.emulator.program import Program
from workers.emulator.ptx import read

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEFINITION = json.loads((PATH / "definitions" / "rmsnorm" / "rmsnorm_h1024.json").read_text())
ROWS = 5
"""No multiple of a block's rows, so that some threads have none."""


def space(example: str):
    """The example for rows of 1,024."""
    return DirectoryFamily(EXAMPLES / example).space(DEFINITION, "sm_90a")


def rmsnorm(ptx: str, rows_of_a_block: int, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel leaves and what the reference gives, both [ROWS, 1024] bfloat16.

    Args:
        ptx: Text with one kernel; its parameters are the three tensors, then the number of rows.
        rows_of_a_block: Rows of one block.
        threads: Threads of one block.
    """
    smem = 0
    for name, size in re.findall(r"\.shared [^;]*?(\w+)\[(\d+)\];", ptx):  # the emulator knows the dynamic one alone
        ptx, smem = ptx.replace(name, "__dynamic_shmem__0"), int(size)
    ((name, kernel),) = read(ptx).items()
    torch.manual_seed(0)
    x, weight = torch.randn(ROWS, 1024).bfloat16(), torch.randn(1024).bfloat16()
    places = {"x": 1 << 40, "weight": 1 << 41, "out": 1 << 42}
    memory = GlobalMemory.of(
        {n: (place, 2048 if n == "weight" else 2048 * ROWS) for n, place in places.items()},
        {"x": x.view(torch.int16).numpy(), "weight": weight.view(torch.int16).numpy()},
    )
    # CuTe DSL passes the number of rows behind the address of a tensor that has them, too.
    arguments = [np.array([place, ROWS], np.uint64).tobytes() for place in places.values()]
    arguments.append(np.int32(ROWS).tobytes())
    blocks = -(-ROWS // rows_of_a_block)
    run(Program(kernel), Launch(name, arguments, (blocks, 1, 1), threads, 1, smem, False), memory)
    out = torch.from_numpy(memory.by_name["out"].data.view(np.int16).copy()).view(torch.bfloat16)
    scope: dict = {}
    exec(DEFINITION["reference"], scope)
    return out.reshape(ROWS, 1024), scope["run"](x, weight)
