"""Mistakes planted in the sources of the Hopper kernels that are safe to run on a GPU: no barrier is left out, nothing
outside the tensors is touched, no result depends on who is first.

Each is built as a variant of its own (``emulator_pack.py --mistakes``), and run on the GPU and on the emulator:
both must leave the same wrong numbers. They are the kinds of tests/search_spaces/moe_fp8_cute/mistakes.py, which plants
in PTX what no GPU should run, such as missing waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SourceMistake:
    """``old`` becomes ``new`` in a file of the Solution; ``kernel`` is the first one that leaves something wrong."""

    name: str
    kernel: str
    file: str
    old: str
    new: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def planted(self, sources: Mapping[str, str]) -> dict[str, str]:
        """The sources with the mistake.

        Raises:
            ValueError: The place is not there, or there are several.
        """
        text = sources[self.file]
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.old)} places, not one")
        return {**sources, self.file: text.replace(self.old, self.new)}


PERMUTED = {"gather": "kernel"}
ADDED = {"combine": "atomic_bf16"}
_WEIGHTS = "box = (None, (weight_tile, part * p.k_blocks + k, expert))"

MISTAKES = (
    SourceMistake(
        "weights of another expert", "moe_gemm_1", "producer.py", _WEIGHTS, _WEIGHTS.replace("expert)", "expert ^ 1)")
    ),
    SourceMistake(
        "K of the weights does not advance", "moe_gemm_1", "producer.py", _WEIGHTS, _WEIGHTS.replace(" + k,", ",")
    ),
    SourceMistake(
        "weight scale of another block",
        "moe_gemm_1",
        "scales.py",
        "offset=k_block & 31)",
        "offset=(k_block ^ 1) & 31)",
    ),
    SourceMistake(
        "token scale of another row",
        "moe_gemm_1",
        "scales.py",
        "values[2 * t + 1] = sS[row + self.plan.cta_m * t + 8, stage]",
        "values[2 * t + 1] = sS[row + self.plan.cta_m * t, stage]",
        PERMUTED,
    ),
    SourceMistake(
        "up and gate are exchanged",
        "moe_gemm_1",
        "epilogue.py",
        "return acc[2 * t], acc[2 * t + 1], 0",
        "return acc[2 * t + 1], acc[2 * t], 0",
    ),
    SourceMistake(
        "no K step accumulates",
        "moe_gemm_1",
        "gemm_sm90.py",
        "main.mma[0] if k == 0 else main.mma[1]",
        "main.mma[0]",
    ),
    SourceMistake(
        "the last K step is the one before",
        "moe_gemm_1",
        "gemm_sm90.py",
        "at = (None, None, k, stage)",
        "at = (None, None, min(k, 2), stage)",
        PERMUTED,
    ),
    SourceMistake(
        "cp.async forgets the swizzle",
        "moe_gemm_1",
        "producer.py",
        "((chunk ^ (row & 7)) << 4)",
        "(chunk << 4)",
    ),
    SourceMistake(
        "halves of an FP8 pair are exchanged",
        "moe_gemm_1",
        "act_quant.py",
        "{$w0}, {$r1}, {$r0};",
        "{$w0}, {$r0}, {$r1};",
    ),
    SourceMistake(
        "magnitudes forget negative values",
        "moe_gemm_1",
        "epilogue.py",
        "largest = cute.arch.fmax(largest, cute.arch.fmax(v, -v))",
        "largest = cute.arch.fmax(largest, v)",
    ),
    SourceMistake(
        "rows come from the token before",
        "permute",
        "permute.py",
        "(token * self.hidden + piece",
        "(cutlass.max(token - 1, 0) * self.hidden + piece",
        PERMUTED,
    ),
    SourceMistake(
        "the combine takes the weight of the row before",
        "combineFinalize",
        "combine.py",
        "r_weight[k] = row_weight[r_row[k]]",
        "r_weight[k] = row_weight[cutlass.max(r_row[k] - 1, 0)]",
    ),
    SourceMistake(
        "sums go to the token before",
        "moe_gemm_2",
        "epilogue.py",
        "target_row[step] = operands.row_token[first + lane // 8 + 4 * step]",
        "target_row[step] = cutlass.max(operands.row_token[first + lane // 8 + 4 * step] - 1, -1)",
        ADDED,
    ),
)
