"""Compiles the configs of the table into one shared object, on a machine that needs no GPU."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .budget import GemmPlan
from .budget_sm100 import BlackwellPlan
from .config import SIZES, TABLE, TARGET
from .objects import Figures, figures_of, link, make
from .pipeline import Document, host, kernels, place, plan_of, symbol
from .plans import launches

MANIFEST = "manifest.json"
LIBRARY = "moe_kernels.so"
TOLERATED_SPILL_BYTES = 64
"""Most bytes of spill stores that a kernel may have: a few values outside the main loop (tile table, addresses)."""

Make = Callable[[Document, Path], None]
Kept = Callable[[Mapping[str, Document], Make], Iterator[tuple[str, Path]]]
"""Has the parts with these names and documents made where they are not at hand, and gives their folders, in any
order."""


class Rejected(RuntimeError):  # noqa: N818 - the builder knows it by this name
    """The static figures say that the variant is hopeless or cannot run; the message says why."""


def function_name(config: dict[str, Any]) -> str:
    """Name of a config's host function in the library."""
    return "moe_" + hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def build(out_dir: str, kept: Kept | None = None) -> dict[str, Any]:
    """Compile every distinct kernel of every distinct config of TABLE for TARGET, and link them into ``out_dir``.

    Args:
        out_dir: The folder of the library.
        kept: Where compiled kernels are kept for the builds of other configs; None: each is compiled here.

    Returns:
        ``registers`` (largest per thread at launch), ``spill_bytes``, ``smem_bytes`` (largest per CTA), ``stages``, on
        Blackwell ``tmem_columns`` and ``acc_stages``, and per kernel registers and spills under ``kernels``.

    Raises:
        Rejected: A plan exceeds the hardware, or a GEMM spills.
    """
    os.environ.setdefault("CUTE_DSL_ARCH", TARGET)
    configs = {function_name(config): config for _, config in TABLE}
    every = [plan for config in configs.values() for _, plan in launches(config, SIZES)]
    for plan in every:
        if (problem := plan.problem()) is not None:
            raise Rejected(problem)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        f"{name}.{kernel}" if len(configs) > 1 else kernel: figure
        for name, found in compile_configs(configs, out, kept or in_folder(out, make)).items()
        for kernel, figure in found.items()
    }
    for path in [*out.glob("*.o"), *out.glob("*.json")]:
        path.unlink()
    (out / MANIFEST).write_text(
        json.dumps({"target": TARGET, "functions": sorted(configs), "kernels": figures}, indent=1)
    )
    blackwell = [plan for plan in every if isinstance(plan, BlackwellPlan)]
    tensor_memory = {
        "tmem_columns": max((p.tmem_columns for p in blackwell), default=0),
        "acc_stages": max((p.acc_stages for p in blackwell), default=0),
    }
    return {
        "registers": max(k["registers"] for k in figures.values()),
        "spill_bytes": sum(k["spill_bytes"] for k in figures.values()),
        "smem_bytes": max(p.smem_bytes for p in every),
        "stages": max(p.stages for p in every),
        **(tensor_memory if blackwell else {}),
        "kernels": figures,
    }


def refuse(document: Document, figures: Figures) -> None:
    """Refuse a kernel by its static figures: a GEMM that would hang, or one that spills.

    Raises:
        Rejected: It is such a one.
    """
    plan = plan_of(document)
    if plan is None:
        return
    refuse_hangs(figures, {document["name"]: plan})
    for kernel, figure in figures.items():
        if figure["spill_bytes"] > TOLERATED_SPILL_BYTES:
            raise Rejected(f"{kernel} spills {figure['spill_bytes']} bytes")


def refuse_hangs(figures: Figures, named: Mapping[str, GemmPlan]) -> None:
    """Refuse GEMMs whose warpgroups would wait for registers that the CTA was not launched with.

    Raises:
        Rejected: Such a GEMM is among the figures.
    """
    for kernel, figure in figures.items():
        gemm = re.match(r"(moe_gemm_[12](_many|_small)?)_\d", kernel)
        problem = named[gemm[1]].launch_problem(figure["registers"]) if gemm else None
        if problem is not None:
            raise Rejected(problem)


def compile_configs(
    configs: Mapping[str, Mapping[str, Any]], out: Path, kept: Kept, judge: Callable[[Document, Figures], None] = refuse
) -> dict[str, Figures]:
    """Compile what configs are made of and link it.

    Args:
        configs: Name of the host function -> config.
        out: Folder of the library.
        kept: Makes the parts.
        judge: Called with each part as soon as it is there; may raise.

    Returns:
        Name of the host function -> figures of its kernels.
    """
    pipelines = {name: kernels(config, SIZES, TARGET) for name, config in configs.items()}
    hosts: dict[str, Document] = {}
    for name, found in pipelines.items():
        rows = (host(configs[name], SIZES, TARGET, len(found), row) for row in itertools.count())
        hosts[name] = next(document for document in rows if document not in hosts.values())
    # GEMMs come first: one that is refused ends the build.
    documents = sorted((d for found in pipelines.values() for d in found), key=lambda d: d["kind"] != "gemm")
    wanted = {symbol(d): d for d in [*documents, *hosts.values()]}
    figures: dict[str, Figures] = {}
    objects = []
    for name, folder in kept(wanted, make):
        figures[name] = figures_of(name, folder)
        judge(wanted[name], figures[name])
        objects.append(folder / f"{name}.o")
    names = {name: symbol(document) for name, document in hosts.items()}
    for name, found in pipelines.items():
        names |= {place(names[name], i): symbol(document) for i, document in enumerate(found)}
    link(sorted(objects), out / LIBRARY, names)
    return {name: {k: f for d in found for k, f in figures[symbol(d)].items()} for name, found in pipelines.items()}


def in_folder(folder: Path, make: Callable[..., None]) -> Kept:
    """Parts are made in a folder, all of them."""

    def made(wanted: Mapping[str, Document], _: Make) -> Iterator[tuple[str, Path]]:
        for name, document in wanted.items():
            make(document, folder)
            yield name, folder

    return made
