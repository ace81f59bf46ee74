"""The kernels of a config in the order in which they are launched, and what each of them is made from; plain Python.

A kernel is made from its document alone (kernel.py): configs whose documents are equal share what was compiled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from .budget import GemmPlan
from .budget_sm100 import BlackwellPlan
from .plans import launches, plans, row_align, sm_count
from .workspace import optional_sections

Document = dict[str, Any]


def kernels(config: Mapping[str, Any], sizes: Mapping[str, Any], target: str) -> list[Document]:
    """(zero) -> routing -> (permute) -> GEMM 1 -> (SwiGLU and requant) -> GEMM 2 -> (finalize or cast).

    Each GEMM is one launch, or up to three where ``split_rows`` divides the experts by their rows.

    Returns:
        A document for each launch, of plain JSON values: ``kind``, ``name``, ``target``, ``sizes``, then what the kind
        needs (the methods of :class:`kernel.Kernel`).
    """
    first, second = plans(config, sizes)
    named = launches(config, sizes)
    rows = {"row_align": row_align(config), "batched": config["layout"] == "batched"}

    def document(kind: str, name: str | None = None, **more: Any) -> Document:
        pdl = {} if kind == "gemm" else {"pdl": config["pdl"]}  # plans have it
        return {"kind": kind, "name": name or f"moe_{kind}", "target": target, "sizes": dict(sizes), **pdl, **more}

    def gemms(role: str, zeroed: bool) -> list[Document]:
        # Reductions into the output need zeros there: GEMM 1 writes them on the side.
        of_role = [(name, plan) for name, plan in named if plan.role == role]
        return [document("gemm", name, plan=asdict(plan), zeroed=zeroed) for name, plan in of_role]

    found = [document("zero")] if second.out == "atomic_f32" else []
    counters = [name for name in ("ready", "queue") if name in optional_sections(config, sizes)]
    found.append(document("routing", **rows, zeroed=counters))
    if not all(plan.gather or plan.copies for _, plan in named if plan.paired):
        many = config["gather"] == "many"
        bounds = {"above": config["split_rows"], "crowded": config["crowded_rows"]}
        bounds["crowded_total"] = config["crowded_total"]
        found.append(document("permute", **{name: rows if many else 0 for name, rows in bounds.items()}))
    found += gemms("gate_up", second.out == "atomic_bf16")
    if first.out == "partial":
        more = {"splits": first.split_k, "ctas": 4 * sm_count(config), "power_of_two": first.power_of_two}
        found.append(document("act_quant", **rows, **more))
    found += gemms("down", False)
    last = {"finalize": "finalize", "atomic_f32": "cast"}.get(second.out)
    return [*found, document(last)] if last else found


def host(config: Mapping[str, Any], sizes: Mapping[str, Any], target: str, launches: int, row: int = 0) -> Document:
    """The document of a config's host function, which checks the arguments, cuts the workspace and calls the kernels.

    Args:
        config: The config.
        sizes: The definition's constants.
        target: The target.
        launches: Number of its kernels.
        row: Which of the configs of a table that would share it; each has kernels of its own.
    """
    shared = {"kind": "host", "name": "moe_host", "target": target, "sizes": dict(sizes)}
    return {**shared, "sections": optional_sections(config, sizes), "kernels": launches, "row": row}


def symbol(part: Document) -> str:
    """Name of the function of a kernel's or host's object: the same for equal documents, another for all others."""
    return f"{part['name']}_{hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]}"


def place(host: str, i: int) -> str:
    """Name by which a host function calls its kernel ``i``."""
    return f"{host}_{i}"


def plan_of(kernel: Document) -> GemmPlan | None:
    """The plan of a GEMM's document, None of other kernels.

    Raises:
        ValueError: The document does not say everything that a plan has; a default would go unnoticed.
    """
    if kernel["kind"] != "gemm":
        return None
    said = kernel["plan"]
    made = BlackwellPlan if "acc_stages" in said else GemmPlan
    if missing := {field.name for field in fields(made)} - set(said):
        raise ValueError(f"the plan of {kernel['name']} does not say {', '.join(sorted(missing))}")
    return made(**said)
