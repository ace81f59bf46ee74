"""The host function of a config: every kernel of the pipeline, launched back to back on one stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64

from .act_quant import ActQuant
from .budget import GemmPlan
from .budget_sm100 import BlackwellPlan
from .combine import Cast, Finalize, Zero
from .gemm_sm90 import F8, GroupedGemm
from .gemm_sm100 import GroupedGemmSm100
from .operands import Operands
from .permute import Permute
from .plans import blocks, launches, plans, row_align, sm_count
from .routing import Routing
from .workspace import ready_ints, sections


class Moe:
    """The pipeline: (zero) -> routing -> (permute) -> GEMM 1 -> (SwiGLU and requant) -> GEMM 2 -> (combine).

    Each GEMM is one launch, or two where ``split_rows`` divides the experts by their rows.

    Every kernel reads and writes the caller's tensors and sections of one workspace (workspace.py); nothing is
    allocated and nothing comes back to the host, so a CUDA graph can hold it.
    """

    def __init__(self, config: Mapping[str, Any], sizes: Mapping[str, Any]):
        self.config = dict(config)
        self.sizes = dict(sizes)
        first, second = plans(config, sizes)
        self.plans = first, second
        batched, pdl = config["layout"] == "batched", config["pdl"]
        hidden, experts, align = sizes["hidden"], sizes["local_experts"], row_align(config)
        self.routing = Routing(
            sizes["experts"],
            experts,
            sizes["top_k"],
            sizes["routing"],
            sizes["groups"],
            sizes["topk_groups"],
            align,
            batched,
            pdl,
        )
        self.gemms = [self._gemm(plan, name) for name, plan in launches(config, sizes)]
        self.permute = None
        if not all(gemm.plan.gather or gemm.plan.copies for gemm in self.gemms if gemm.plan.paired):
            above = config["split_rows"] if config["gather"] == "many" else 0
            self.permute = Permute(hidden, sizes["top_k"], pdl, experts, above)
        self.act = None
        if first.out == "partial":
            ctas = 4 * sm_count(config)
            self.act = ActQuant(sizes["intermediate"], experts, align, batched, first.split_k, ctas, pdl)
        self.finalize = None
        if second.out == "finalize":
            self.finalize = Finalize(hidden, sizes["top_k"], use_pdl=pdl, all_local=experts == sizes["experts"])
        self.zero = Zero(hidden, use_pdl=pdl) if second.out == "atomic_f32" else None
        self.cast = Cast(hidden, use_pdl=pdl) if second.out == "atomic_f32" else None

    def _gemm(self, plan: GemmPlan, name: str) -> GroupedGemm | GroupedGemmSm100:
        """The mainloop of the plan's architecture."""
        return GroupedGemmSm100(plan, name) if isinstance(plan, BlackwellPlan) else GroupedGemm(plan, name)

    @cute.jit
    def __call__(self, logits, bias, x, xs, w13, s13, w2, s2, offset, scaling, out, workspace, rows, max_m, stream):
        """Launch the pipeline.

        Shapes:
            logits: [T, E] float32 or bfloat16. bias: [E] bfloat16 or None. x: [T, H] FP8. xs: [H/128, T] float32.
            w13: [E_local, 2 I, H] FP8. s13: [E_local, 2 I/128, H/128]. w2: [E_local, H, I] FP8.
            s2: [E_local, H/128, I/128]. out: [T, H] bfloat16.
            workspace: bytes. rows: capacity P of the row space. max_m: rows of an expert in the batched layout.
        """
        s = self.sizes
        tokens = x.shape[0]
        at = sections(self.config, s, Int64(tokens), Int64(rows))
        hidden, inter, experts = s["hidden"], s["intermediate"], s["local_experts"]

        counts = self._cut(workspace, at["counts"], Int32, (experts,))
        m_indptr = self._cut(workspace, at["m_indptr"], Int32, (experts + 1,))
        row_token = self._cut(workspace, at["row_token"], Int32, (rows,))
        row_weight = self._cut(workspace, at["row_weight"], Float32, (rows,))
        token_row = self._cut(workspace, at["token_row"], Int32, (tokens, s["top_k"]))
        scratch = self._cut(workspace, at["scratch"], Int32, (self.routing.scratch_ints,))
        barrier = self._cut(workspace, at["barrier"], Int32, (1,))
        act = self._cut(workspace, at["act"], F8, (rows, inter))
        act_scale = self._cut(workspace, at["act_scale"], Float32, (blocks(inter), rows))

        target = out
        if cutlass.const_expr("y" in at):
            target = self._cut(workspace, at["y"], BFloat16, (rows, hidden))
        if cutlass.const_expr("acc" in at):
            target = self._cut(workspace, at["acc"], Float32, (tokens, hidden))
        if cutlass.const_expr(self.zero is not None):
            self.zero(target, stream)
        ready = None
        if cutlass.const_expr("ready" in at):
            ready = self._cut(workspace, at["ready"], Int32, (ready_ints(rows),))
        copied = (x, xs, ready)
        self.routing(
            logits,
            bias,
            offset,
            scaling,
            max_m,
            counts,
            m_indptr,
            row_token,
            row_weight,
            token_row,
            scratch,
            barrier,
            ready,
            stream,
        )
        gathered = {True: (x, xs)}
        if cutlass.const_expr("x_rows" in at):
            x_rows = self._cut(workspace, at["x_rows"], F8, (rows, hidden))
            x_scale = self._cut(workspace, at["x_scale"], Float32, (blocks(hidden), rows))
            gathered[False] = (x_rows, x_scale)
        if cutlass.const_expr(self.permute is not None):
            table = (counts, m_indptr) if cutlass.const_expr(self.permute.above > 0) else (None, None)
            self.permute(x, xs, token_row, *table, x_rows, x_scale, stream)
        # Reductions into the output need zeros there: GEMM 1 writes them on the side.
        zeroed = out if cutlass.const_expr(self.plans[1].out == "atomic_bf16") else None
        if cutlass.const_expr(self.act is not None):
            partial = self._cut(workspace, at["partial"], Float32, (self.plans[0].split_k, rows, 2 * inter))
            rest = (s13, row_token, counts, m_indptr, partial, None, None, zeroed)
            self.launch("gate_up", w13, gathered, rest, stream, copied)
            self.act(partial, counts, m_indptr, act, act_scale, max_m, stream)
        else:
            rest = (s13, row_token, counts, m_indptr, act, act_scale, None, zeroed)
            self.launch("gate_up", w13, gathered, rest, stream, copied)
        rest = (s2, row_token, counts, m_indptr, target, None, row_weight, None)
        self.launch("down", w2, {False: (act, act_scale)}, rest, stream)
        if cutlass.const_expr(self.finalize is not None):
            self.finalize(target, token_row, row_weight, out, stream)
        if cutlass.const_expr(self.cast is not None):
            self.cast(target, out, stream)

    def launch(self, role: str, weights, rows: dict, rest: tuple, stream, copied: tuple = ()) -> None:
        """The kernels of a GEMM; ``rows`` are values and scales to be gathered, and in row space; ``copied`` what a
        launch copies there itself."""
        for gemm in self.gemms:
            if gemm.plan.role == role:
                more = copied if gemm.plan.copies else ()
                gemm(weights, Operands(*rows[gemm.plan.gather], *rest, *more), stream)

    def _cut(self, workspace: cute.Tensor, offset, dtype, shape: tuple) -> cute.Tensor:
        """A row-major tensor that starts ``offset`` bytes into the workspace."""
        order = tuple(reversed(range(len(shape))))
        pointer = cute.recast_ptr((workspace.iterator + offset).align(128), dtype=dtype)
        return cute.make_tensor(pointer, cute.make_ordered_layout(shape, order=order))
