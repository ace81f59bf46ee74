"""A tile of a Blackwell GEMM in cycles: what lies between two tiles, and how much of it the next MMAs hide.

A forecast: every constant is arithmetic on the SASS of kernels that were compiled, none was measured on a B200.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan

ROWS_CYCLES, SWAPPED_CYCLES = 400.0, 850.0
"""Between two tiles of a promotion warp, whatever its epilogue: tokens as M, weights as M. These and the next ones come
from ``forms`` in docs/results/blackwell-epilogue.json: within a third of every form, a tenth of the largest tiles."""
REGISTER_CYCLES: Mapping[str, float] = {
    **{"act": 13.0, "finalize": 5.0, "atomic_bf16": 12.0, "partial": 6.0, "atomic_f32": 14.0}
}
"""Tokens as M: the same for each of its accumulator registers, by what the epilogue writes."""
HANDED_CYCLES = 3.5
"""The same where rows are handed over (``handover``): 853 cycles for 128 registers in place of 1,932."""
TOKEN_CYCLES: Mapping[str, float] = {
    **{"act": 40.0, "finalize": 9.0, "atomic_bf16": 17.5, "partial": 7.0, "atomic_f32": 180.0}
}
"""Weights as M: the same for each token column, whose row, routing weight or maximum a thread asks for."""
SHARED_CYCLES = 88.0
"""The same of ``act`` where CTAs of a cluster exchange maxima of a block of columns: 12,114 cycles for 128 tokens."""
HANDED_BACK = 0.75
"""Where in a K block's promotion its accumulator goes back to the MMAs: 0.64 to 0.89 in the same file, by form."""
STORED: Mapping[str, float] = {**{"act": 0.5, "finalize": 2.0, "atomic_bf16": 2.0, "partial": 0.0, "atomic_f32": 0.0}}
"""Bytes of an accumulated element that an epilogue writes to shared memory, and reads from there again."""


def between_cycles(plan: BlackwellPlan, rows: float) -> float:
    """Cycles of a promotion warp between the last K block of a tile and the first of the next.

    ``fallback`` adds nothing: what it decides is decided once a launch, by warps that load and multiply. The same file
    has the default's two forms of many rows with it: 11 and 143 cycles more between two tiles, of 10,000 and 30,000.

    Args:
        plan: Of the launch.
        rows: Token rows of a tile that are multiplied, on average.
    """
    if plan.swap:
        return SWAPPED_CYCLES + (SHARED_CYCLES if plan.amax_ctas > 1 else TOKEN_CYCLES[plan.out]) * rows
    registers = rows * plan.tile_w / (128 * plan.groups)
    return ROWS_CYCLES + (HANDED_CYCLES if plan.handover else REGISTER_CYCLES[plan.out]) * registers


def stored_bytes(plan: BlackwellPlan, rows: float) -> float:
    """Bytes that a tile's epilogue moves through the shared memory port, where rows are turned over or handed on."""
    return 2 * STORED[plan.out] * rows * plan.tile_w


def tile_cycles(plan: BlackwellPlan, mma: float, promotion: float, between: float, port: float, read: float) -> float:
    """Cycles from one tile's last MMA to the next one's, loads aside.

    While a promotion warp is between two tiles, the MMAs go on until every accumulator waits to be promoted.

    Args:
        plan: Of the launch.
        mma: Of a K block's MMAs: tensor cores or shared memory port, of all CTAs of the SM.
        promotion: Of a K block's promotion; with a single accumulator its MMAs included, which wait for it.
        between: See :func:`between_cycles`.
        port: That a whole tile keeps the shared memory port busy, epilogue included.
        read: Of scaled MMAs: until the sums are out of tensor memory.
    """
    blocks = plan.k_blocks
    if plan.scaled:
        # Sums that are in registers leave room for the next tile's; a second accumulator has it in any case.
        return max(blocks * mma + (read if plan.acc_stages == 1 else 0.0), between, port)
    if plan.acc_stages == 1:
        return max(blocks * max(mma, promotion) + between, port)
    exposed = between + (1 + HANDED_BACK) * promotion - plan.acc_stages * mma
    return max(blocks * mma + max(0.0, exposed), blocks * promotion + between, port)
