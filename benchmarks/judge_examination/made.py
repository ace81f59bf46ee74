"""Workloads made from a definition's axes: two small ones, with tensors that its reference can run on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Inputs = dict[str, Any]
_TOTAL = re.compile(r"^(\w+) == (\w+)\[-1\]\.item\(\)$")


def dataset(folder: Path, definition: Mapping[str, Any]) -> None:
    """Write a flashinfer-trace folder with the definition and two workloads of different sizes."""
    from safetensors.torch import save_file

    name, op_type = definition["name"], definition["op_type"]
    lines = []
    for index in range(2):
        axes, tensors, scalars = _workload(definition, index)
        blob = f"blob/{name}-{index}.safetensors"
        (folder / "blob").mkdir(parents=True, exist_ok=True)
        if tensors:
            save_file({n: t.contiguous() for n, t in tensors.items()}, folder / blob)
        inputs: Inputs = {}
        for n, spec in definition["inputs"].items():
            if n in tensors:
                inputs[n] = {"type": "safetensors", "path": blob, "tensor_key": n}
            elif n in scalars:
                inputs[n] = {"type": "scalar", "value": scalars[n]}
            elif not (spec.get("optional") and index):  # the second workload does not give them
                inputs[n] = {"type": "random"}
        workload = {"uuid": f"{name}-{index}", "axes": axes, "inputs": inputs}
        lines.append(json.dumps({"definition": name, "solution": None, "workload": workload, "evaluation": None}))
    for part, text in (("definitions", json.dumps(definition)), ("workloads", "\n".join(lines) + "\n")):
        path = folder / part / op_type / f"{name}.{'json' if part == 'definitions' else 'jsonl'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class _Sizes:
    """Sizes of variable axes and the sequences behind them."""

    def __init__(self, definition: Mapping[str, Any], index: int) -> None:
        self.definition = definition
        self.constants = {a: s["value"] for a, s in definition["axes"].items() if s["type"] == "const"}
        self.generator = torch.Generator().manual_seed(1000 + index)
        self.sequences = 3 + index
        causal = "prefill" in definition["name"] or "ragged" in definition["name"]
        # The last sequence of the larger workload has no keys, as an empty slot of a batch has.
        self.keys = [5, 9, 3, 0][: self.sequences] if index else [4, 7, 6]
        self.queries = [min(k, q) if causal else q for k, q in zip(self.keys, [3, 5, 2, 2], strict=False)]
        if index and causal:
            self.queries[-1] = 1
        self.pages = sum(self.keys) + 3
        known = {
            "batch_size": self.sequences, "num_seqs": self.sequences, "len_indptr": self.sequences + 1,
            "len_cu_seqlens": self.sequences + 1, "total_q": sum(self.queries), "total_seq_len": sum(self.queries),
            "total_kv": sum(self.keys), "num_kv_indices": sum(self.keys), "num_pages": self.pages,
            "max_num_pages": 4, "pool_size": self.sequences + 2, "state_cache_size": self.sequences + 2,
            "seq_len": 3 + index if definition["op_type"] == "gdn" else 9 + 4 * index,
            "num_qo_heads": 4, "num_kv_heads": 2, "max_seq_len": 32,
        }  # fmt: skip
        if definition["op_type"] in ("rmsnorm", "sampling"):
            known["batch_size"] = 5 + 3 * index
        if definition["op_type"] == "dsa_paged":
            known["num_pages"] = 4 * self.constants.get("topk", 128) // self.constants["page_size"] + 5
            known["max_num_pages"] = 2 * self.constants["topk"] // self.constants["page_size"] + 1
        self.axes = {
            a: known.get(a, 6 + 5 * index) for a, s in definition["axes"].items() if s["type"] == "var"
        }  # fmt: skip

    def shape(self, name: str) -> list[int]:
        """Of an input."""
        return [self.axes.get(a, self.constants.get(a, 0)) for a in self.definition["inputs"][name]["shape"]]

    def randint(self, low: int, high: int, shape: list[int]) -> Any:
        """Whole numbers in [low, high)."""
        return torch.randint(low, max(high, low + 1), shape, generator=self.generator, dtype=torch.int32)

    def randn(self, shape: list[int]) -> Any:
        """Normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def cumulative(self, lengths: list[int]) -> Any:
        """Offsets of sequences that lie one after the other."""
        return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)

    def slots(self, axis: str, count: int) -> Any:
        """Different places in a pool."""
        return torch.randperm(self.axes[axis], generator=self.generator)[:count]

    def bounds(self, name: str) -> Any:
        """Offsets for an indptr, by the constraint that names its total."""
        found = [_TOTAL.match(text) for text in self.definition.get("constraints") or []]
        total = next((m[1] for m in found if m and m[2] == name), "")
        return self.cumulative(self.queries if total in ("total_q", "total_seq_len") else self.keys)


def _pages(s: _Sizes, name: str) -> Any:
    return torch.randperm(s.axes["num_pages"], generator=s.generator)[: s.shape(name)[0]].to(torch.int32)


def _packed(s: _Sizes, name: str) -> Any:
    """Expert in the high 16 bits, weight as bfloat16 in the low ones; no expert twice in a row."""
    rows, k = s.shape(name)
    experts = torch.stack([torch.randperm(s.constants["num_experts"], generator=s.generator)[:k] for _ in range(rows)])
    weights = s.randn([rows, k]).abs().add(0.1).to(torch.bfloat16).view(torch.int16).to(torch.int32) & 0xFFFF
    return (experts.to(torch.int32) << 16) | weights


def _index_cache(s: _Sizes, name: str) -> Any:
    """Of each page first the fp8 keys, then their float32 scales."""
    pages, size, _, width = s.shape(name)
    keys = s.randn([pages, size * (width - 4)]).to(torch.float8_e4m3fn).view(torch.int8)
    scales = s.randn([pages, size]).abs().add(0.5).view(torch.int8)
    return torch.cat([keys, scales], 1).reshape(s.shape(name))


def _sparse(s: _Sizes, name: str) -> Any:
    chosen = s.randint(0, s.axes["num_pages"] * s.constants["page_size"], s.shape(name))
    chosen[1:, -40:] = -1
    chosen[-1] = -1
    return chosen


def _top_p(s: _Sizes, name: str) -> Any:
    return torch.linspace(0.2, 1.0, s.shape(name)[0])


def _top_k(s: _Sizes, name: str) -> Any:
    return torch.tensor([(1, 5, 40, 2, s.constants["vocab_size"])[i % 5] for i in range(s.shape(name)[0])])


_MAKERS: dict[str, Callable[[_Sizes, str], Any]] = {
    "qo_indptr": lambda s, n: s.bounds(n),
    "kv_indptr": lambda s, n: s.bounds(n),
    "cu_seqlens": lambda s, n: s.bounds(n),
    "kv_indices": _pages,
    "kv_last_page_len": lambda s, n: s.randint(1, s.constants["page_size"] + 1, s.shape(n)),
    "sparse_indices": _sparse,
    "seq_lens": lambda s, n: s.randint(s.constants["topk"] // 2, 2 * s.constants["topk"], s.shape(n)),
    "block_table": lambda s, n: torch.randperm(s.axes["num_pages"], generator=s.generator)[
        torch.arange(s.shape(n)[0] * s.shape(n)[1]) % s.axes["num_pages"]].reshape(s.shape(n)),
    "initial_state_indices": lambda s, n: s.slots("pool_size", s.shape(n)[0]),
    "state_batch_indices": lambda s, n: s.slots("state_cache_size", s.shape(n)[0]),
    "positions": lambda s, n: s.randint(0, s.axes["max_seq_len"], s.shape(n)),
    "topk_ids": _packed,
    "top_k": _top_k,
    "top_p": _top_p,
    "k_index_cache_fp8": _index_cache,
    "A": lambda s, n: -s.randn(s.shape(n)).abs() if s.definition["op_type"] == "mamba_ssu" else s.randn(s.shape(n)),
}  # fmt: skip

_SCALARS = {"local_expert_offset": 0, "routed_scaling_factor": 2.5, "sm_scale": 0.1, "scale": 0.1}


def _workload(definition: Mapping[str, Any], index: int) -> tuple[dict[str, int], Inputs, Inputs]:
    """Axes, tensors and scalars of one workload; inputs that are in neither are drawn at random."""
    sizes = _Sizes(definition, index)
    tensors: Inputs = {}
    scalars: Inputs = {}
    for name, spec in definition["inputs"].items():
        dtype = getattr(torch, spec["dtype"])
        if spec["shape"] is None:
            scalars[name] = _SCALARS.get(name, 1)
        elif name in _MAKERS:
            tensors[name] = _MAKERS[name](sizes, name).to(dtype)
        elif definition["op_type"] == "gdn" and name in ("q", "k"):
            # The state is multiplied by the keys at each token: of length one, or it grows beyond any number.
            made = sizes.randn(sizes.shape(name))
            tensors[name] = (made / made.norm(dim=-1, keepdim=True)).to(dtype)
    return sizes.axes, tensors, scalars
