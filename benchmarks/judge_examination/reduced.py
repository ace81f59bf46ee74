"""Definitions small enough for any machine: large constant axes made smaller, in the reference's source too."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from typing import Any

LARGE = 512
"""Constant axes from here on are made smaller, all by the same power of two."""

LEAST = 128
"""No axis becomes smaller than this: blocks of 128 elements stay whole."""


HELD = 3 << 30
"""Elements of all constant inputs together up to which a GPU examines a definition as it is."""


def candidates(definition: Mapping[str, Any], device: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Definitions to try, each with its factor: the smaller ones first, or on a GPU that can hold it the whole one."""
    whole = dict(definition), 1
    if device != "cpu" and _constant_elements(definition) <= HELD:
        yield whole
        yield from _reduced(definition)
    else:
        yield from _reduced(definition)
        yield whole


def _constant_elements(definition: Mapping[str, Any]) -> int:
    """Elements of the inputs whose shape no workload changes: the weights."""
    sizes = {a: int(spec["value"]) for a, spec in definition["axes"].items() if spec["type"] == "const"}
    shapes = [spec["shape"] for spec in definition["inputs"].values() if spec["shape"]]
    return sum(math.prod(sizes[a] for a in shape) for shape in shapes if all(a in sizes for a in shape))


def _reduced(definition: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Large constant axes divided, with the factor."""
    constants = {a: int(spec["value"]) for a, spec in definition["axes"].items() if spec["type"] == "const"}
    large = {a: v for a, v in constants.items() if v >= LARGE and not a.startswith("head")}
    blocks = {a: v for a, v in constants.items() if "block" in a and v > 1 and a not in large and v != 128}
    factor = 1
    while large and all(v % (2 * factor) == 0 for v in (*large.values(), *blocks.values())):
        if min(large.values()) // (2 * factor) < LEAST:
            break
        factor *= 2
    if factor > 1:
        for in_source in (large, {**large, **blocks}):
            yield _smaller(definition, {**large, **blocks}, in_source, factor), factor


def _smaller(
    definition: Mapping[str, Any], axes: Mapping[str, int], in_source: Mapping[str, int], factor: int
) -> dict[str, Any]:
    smaller = {a: {**spec, "value": spec["value"] // factor} for a, spec in definition["axes"].items() if a in axes}
    numbers = {v: v // factor for v in in_source.values()}
    source = ast.unparse(_Numbers(numbers).visit(ast.parse(definition["reference"])))
    return {**definition, "axes": {**definition["axes"], **smaller}, "reference": source}


class _Numbers(ast.NodeTransformer):
    """Replaces whole numbers in a source."""

    def __init__(self, numbers: Mapping[int, int]) -> None:
        self._numbers = numbers

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) is int and node.value in self._numbers:
            return ast.Constant(self._numbers[node.value])
        return node
