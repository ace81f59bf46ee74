"""One kernel of the pipeline as a function of its own, compiled to an object of its own.

The host function (host.py) hands every kernel the same two arguments: the address of a list in host memory, and the
stream. The list has an address for each tensor of :data:`TENSORS`, then :data:`SCALARS`, 8 bytes each.
"""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64

from .act_quant import ActQuant
from .budget_sm100 import BlackwellPlan
from .combine import Cast, Finalize, Zero
from .gemm_scaled_sm100 import ScaledGemmSm100
from .gemm_sm90 import F8, GroupedGemm
from .gemm_sm100 import GroupedGemmSm100
from .operands import Operands
from .permute import Permute
from .pipeline import Document, plan_of
from .plans import blocks
from .routing import Routing
from .workspace import ALWAYS, OPTIONAL, ROUTING_CTAS, queue_ints, ready_ints

CALLER = ("logits", "bias", "x", "xs", "w13", "s13", "w2", "s2", "out")
"""Tensors of the caller."""
TENSORS = (*CALLER, *ALWAYS, *OPTIONAL)
"""Those, then the sections of the workspace."""
SCALARS = ("tokens", "rows", "max_m", "offset", "scaling")
SLOTS = len(TENSORS) + len(SCALARS)


class Arguments:
    """What the host function handed over, as tensors and run-time values, while a kernel's launch is traced."""

    def __init__(self, address: Int64, sizes: dict[str, Any], splits: int):
        self.address = address
        self.tokens, self.rows, self.max_m, self.offset = (self._scalar(name, Int32) for name in SCALARS[:4])
        self.scaling = self._scalar("scaling", Float32)
        self.sizes = sizes
        self.splits = splits

    def _slot(self, place: int, dtype):
        pointer = cute.make_ptr(dtype, self.address + 8 * place, cute.AddressSpace.generic, assumed_align=8)
        return cute.make_tensor(pointer, cute.make_layout(1))[0]

    def _scalar(self, name: str, dtype):
        return self._slot(len(TENSORS) + SCALARS.index(name), dtype)

    def tensor(self, name: str) -> cute.Tensor:
        """A row-major tensor: of the caller, as its checks promise it, or a section of the workspace."""
        dtype, shape, align = self._shapes()[name]
        address = self._slot(TENSORS.index(name), Int64)
        pointer = cute.make_ptr(dtype, address, cute.AddressSpace.gmem, assumed_align=align)
        if name == "xs":
            # The caller's strides have 64 bits.
            return cute.make_tensor(pointer, cute.make_layout(shape, stride=(Int64(self.tokens), 1)))
        return cute.make_tensor(pointer, cute.make_ordered_layout(shape, order=tuple(reversed(range(len(shape))))))

    def _shapes(self) -> dict[str, tuple]:
        s, tokens, rows = self.sizes, self.tokens, self.rows
        hidden, inter, experts = s["hidden"], s["intermediate"], s["local_experts"]
        logits = Float32 if s["routing"] == "deepseek" else BFloat16
        return {
            "logits": (logits, (tokens, s["experts"]), 16),
            "bias": (BFloat16, (s["experts"],), 16),
            "x": (F8, (tokens, hidden), 16),
            "xs": (Float32, (blocks(hidden), tokens), 4),
            "w13": (F8, (experts, 2 * inter, hidden), 16),
            "s13": (Float32, (experts, blocks(2 * inter), blocks(hidden)), 4),
            "w2": (F8, (experts, hidden, inter), 16),
            "s2": (Float32, (experts, blocks(hidden), blocks(inter)), 4),
            "out": (BFloat16, (tokens, hidden), 16),
            "barrier": (Int32, (1,), 128),
            "scratch": (Int32, (experts * ROUTING_CTAS,), 128),
            "counts": (Int32, (experts,), 128),
            "m_indptr": (Int32, (experts + 1,), 128),
            "token_row": (Int32, (tokens, s["top_k"]), 128),
            "row_token": (Int32, (rows,), 128),
            "row_weight": (Float32, (rows,), 128),
            "act": (F8, (rows, inter), 128),
            "act_scale": (Float32, (blocks(inter), rows), 128),
            "partial": (Float32, (self.splits, rows, 2 * inter), 128),
            "x_rows": (F8, (rows, hidden), 128),
            "x_scale": (Float32, (blocks(hidden), rows), 128),
            "ready": (Int32, (ready_ints(rows),), 128),
            "queue": (Int32, (queue_ints(rows),), 128),
            "y": (BFloat16, (rows, hidden), 128),
            "acc": (Float32, (tokens, hidden), 128),
        }


class Kernel:
    """The launch of one kernel, made from its document (pipeline.py) and nothing else."""

    def __init__(self, document: Document):
        self.document = document
        self.plan = plan_of(document)
        self.splits = 1
        self.made = getattr(self, f"_{document['kind']}")()

    def _zero(self) -> Zero:
        return Zero(self.document["sizes"]["hidden"], use_pdl=self.document["pdl"])

    def _cast(self) -> Cast:
        return Cast(self.document["sizes"]["hidden"], use_pdl=self.document["pdl"])

    def _finalize(self) -> Finalize:
        s = self.document["sizes"]
        all_local = s["local_experts"] == s["experts"]
        return Finalize(s["hidden"], s["top_k"], use_pdl=self.document["pdl"], all_local=all_local)

    def _routing(self) -> Routing:
        d, s = self.document, self.document["sizes"]
        groups = (s["routing"], s["groups"], s["topk_groups"])
        return Routing(s["experts"], s["local_experts"], s["top_k"], *groups, d["row_align"], d["batched"], d["pdl"])

    def _permute(self) -> Permute:
        d, s = self.document, self.document["sizes"]
        bounds = (d["above"], d["crowded"], d["crowded_total"])
        return Permute(s["hidden"], s["top_k"], d["pdl"], s["local_experts"], *bounds)

    def _act_quant(self) -> ActQuant:
        d, s = self.document, self.document["sizes"]
        self.splits = d["splits"]
        rows = (d["row_align"], d["batched"], self.splits, d["ctas"], d["power_of_two"])
        return ActQuant(s["intermediate"], s["local_experts"], *rows, d["pdl"])

    def _gemm(self) -> GroupedGemm | GroupedGemmSm100:
        """The main loop of the plan's architecture."""
        self.splits = self.plan.split_k
        if not isinstance(self.plan, BlackwellPlan):
            return GroupedGemm(self.plan, self.document["name"])
        made = ScaledGemmSm100 if self.plan.scaled else GroupedGemmSm100
        return made(self.plan, self.document["name"])

    @cute.jit
    def __call__(self, arguments: Int64, stream):
        """Launch the kernel; ``arguments`` is the address of the list."""
        given = Arguments(arguments, self.document["sizes"], self.splits)
        self.made(*getattr(self, f"_given_{self.document['kind']}")(given), stream)

    def _given_zero(self, given: Arguments) -> tuple:
        return (given.tensor("acc"),)

    def _given_cast(self, given: Arguments) -> tuple:
        return given.tensor("acc"), given.tensor("out")

    def _given_finalize(self, given: Arguments) -> tuple:
        return tuple(map(given.tensor, ("y", "token_row", "row_weight", "out")))

    def _given_routing(self, given: Arguments) -> tuple:
        bias = given.tensor("bias") if self.document["sizes"]["routing"] == "deepseek" else None
        outputs = ("counts", "m_indptr", "row_token", "row_weight", "token_row", "scratch", "barrier")
        zeroed = tuple(map(given.tensor, self.document["zeroed"]))
        scalars = (given.offset, given.scaling, given.max_m)
        return given.tensor("logits"), bias, *scalars, *map(given.tensor, outputs), zeroed

    def _given_permute(self, given: Arguments) -> tuple:
        table = map(given.tensor, ("counts", "m_indptr")) if self.document["above"] else (None, None)
        rows = map(given.tensor, ("x_rows", "x_scale"))
        return given.tensor("x"), given.tensor("xs"), given.tensor("token_row"), *table, *rows

    def _given_act_quant(self, given: Arguments) -> tuple:
        return (*map(given.tensor, ("partial", "counts", "m_indptr", "act", "act_scale")), given.max_m)

    def _given_gemm(self, given: Arguments) -> tuple:
        """Weights and operands: token rows to be gathered or in row space, and what the epilogue writes."""
        plan = self.plan
        table = tuple(map(given.tensor, ("row_token", "counts", "m_indptr")))
        if plan.paired:
            rows = ("x", "xs") if plan.gather else ("x_rows", "x_scale")
            out, scale = ("act", "act_scale") if plan.out == "act" else ("partial", None)
            weights, scales, weight = "w13", "s13", None
        else:
            rows = ("act", "act_scale")
            out, scale = {"finalize": "y", "atomic_f32": "acc", "atomic_bf16": "out"}[plan.out], None
            weights, scales, weight = "w2", "s2", given.tensor("row_weight")
        operands = Operands(
            *map(given.tensor, rows),
            given.tensor(scales),
            *table,
            given.tensor(out),
            given.tensor(scale) if scale else None,
            weight,
            given.tensor("out") if self.document["zeroed"] else None,
            *(map(given.tensor, ("x", "xs", "ready")) if plan.copies else (None, None, None)),
            given.tensor("queue") if plan.by_tiles else None,
        )
        return given.tensor(weights), operands
