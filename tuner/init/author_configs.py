"""Turns the configs that kernels' authors list into parameters, a list of configs, a default and starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.init.triton_kernels import TritonKernel

MOST_STARTS = 16
"""More would take a small sweep's whole budget."""


@dataclass(frozen=True)
class AuthorChoices:
    """What a space says of its configs; names are ``META`` or ``kernel.META``.

    Attributes:
        parameters: Name -> values.
        configs: Configs that are taken as a list, since they are no product of values.
        default: The first config of each kernel.
        starts: Other configs of the authors, each what differs from the default.
        names: Kernel, meta-parameter or launch option -> name.
        remarks: What a reader should know of it.
        docs: Name -> what its value 0 stands for, where it is no number like the others.
    """

    parameters: Mapping[str, tuple[Any, ...]]
    configs: Sequence[Mapping[str, Any]]
    default: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]
    names: Mapping[tuple[str, str], str]
    remarks: Sequence[str] = field(default=())
    docs: Mapping[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, tuple[Any, ...]]:
        """Name -> values, of all names."""
        listed = {n: tuple(dict.fromkeys(c[n] for c in self.configs)) for c in self.configs[:1] for n in c}
        return {name: listed.get(name) or self.parameters[name] for name in self.default}


def choices_of(kernels: Sequence[TritonKernel], widen: bool) -> AuthorChoices:
    """The choices of some kernels together.

    Args:
        kernels: Kernels whose configs were read.
        widen: Whether configs that are no product become the product of their values all the same.
    """
    names = {(k.name, m): m if len(kernels) == 1 else f"{k.name}.{m}" for k in kernels for m in k.tunable}
    rows = {k.name: [{names[k.name, m]: v for m, v in _plain(k.row(c)).items()} for c in k.configs] for k in kernels}
    lists = [k for k in kernels if not is_product(k)]
    remarks = []
    if len(lists) > 1 and not widen:
        remarks.append(f"the configs of {', '.join(k.name for k in lists)} are no products, and a space holds one list")
    listed = lists[0].name if len(lists) == 1 and not widen else None
    default = {name: value for k in kernels for name, value in rows[k.name][0].items()}
    starts = [
        {name: value for name, value in row.items() if value != default[name]}
        for kernel in kernels
        if kernel.name != listed and (kernel.is_proposed or not is_product(kernel))
        for row in rows[kernel.name][1:]
    ]
    parameters = {
        names[k.name, m]: tuple(0 if v is None else v for v in values)
        for k in kernels
        if k.name != listed
        for m, values in k.tunable.items()
    }
    docs = {names[k.name, m]: f"0 is the author's own: {text}" for k in kernels for m, text in k.computed.items()}
    return AuthorChoices(parameters, rows.get(listed or "", []), default, starts[:MOST_STARTS], names, remarks, docs)


def is_product(kernel: TritonKernel) -> bool:
    """Whether a kernel's configs are all combinations of their values, or values that are only proposed."""
    return kernel.is_proposed or len(kernel.configs) == math.prod(len(values) for values in kernel.tunable.values())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without None, which only ``maxnreg`` has: 0 stands for no limit."""
    return {name: 0 if value is None else value for name, value in row.items()}
