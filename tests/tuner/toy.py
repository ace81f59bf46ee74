"""Toy datasets and kernel folders: y = x + 1 over any variable axes, and a kernel with one parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADD = "def run(x):\n    return x + 1\n"


def dataset(
    root: Path,
    loads: Sequence[Mapping[str, int]],
    *,
    const: Mapping[str, int] | None = None,
    reference: str = ADD,
    inputs: Mapping[str, Any] | None = None,
) -> Path:
    """One definition ``a`` of op_type ``toy`` whose variable axes are those of the workloads ``w0``, ``w1``, ..."""
    const = {"m": 64} if const is None else const
    axes = {name: {"type": "var"} for name in loads[0]} | {n: {"type": "const", "value": v} for n, v in const.items()}
    tensor = {"shape": list(axes), "dtype": "float32"}
    definition = {
        "name": "a", "op_type": "toy", "axes": axes, "inputs": {"x": tensor}, "outputs": {"y": tensor},
        "reference": reference,
    }  # fmt: skip
    place = root / "definitions" / "toy" / "a.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(definition), encoding="utf-8")
    lines = [
        {"definition": "a", "workload": {"uuid": f"w{i}", "axes": axes, "inputs": inputs or {"x": {"type": "random"}}}}
        for i, axes in enumerate(loads)
    ]
    listing = root / "workloads" / "toy" / "a.jsonl"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return root


def kernel(folder: Path, body: str = "y.copy_(x + 1)", size: str = "", **more: Any) -> Path:
    """A folder with one parameter ``step``; ``body`` is that of ``run(x, y)`` and knows ``step``.

    Args:
        size: What the kernel passes to ``select``.
        more: Further keys of space.yaml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"step = select({size})['step']", *body.splitlines()]
    text = "# Größe: 1 µm\nfrom .config import select\ndef run(x, y):\n" + "".join(f"    {line}\n" for line in lines)
    (folder / "main.py").write_text(text, encoding="utf-8")
    description = {
        "op_type": "toy", "targets": ["cpu"], "entry_point": "main.py::run",
        "parameters": {"step": {"values": [1, 2, 4]}}, "default": {"step": 1}, **more,
    }  # fmt: skip
    (folder / "space.yaml").write_text(json.dumps(description), encoding="utf-8")
    return folder


def quick_settings(folder: Path, final_rounds: int = 12, final_s: float = 0.5) -> str:
    """A file for ``--config`` with which a sweep takes few samples: finals of configs that are equally fast go on for
    seconds otherwise."""
    path = folder / "quick.yaml"
    final = f"final_rounds: {final_rounds}\nfinal_s: {final_s}\n"
    path.write_text(f"{final}max_samples: 6\nsample_budget_s: 0.01\n", encoding="utf-8")
    return str(path)


@contextmanager
def in_process(setup: Any, *_: Any):
    """In place of ``open_runner``: the real builder and evaluator without Ray, which starts in a second."""
    from tests.chaos.host import Bench

    runner = Bench(setup.problem, str(setup.settings.cache_dir))
    try:
        yield runner
    finally:
        runner.close()
