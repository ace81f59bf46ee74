"""Reads the numbers that a definition's reference is written for from its syntax tree.

Names carry the meaning, so every way to give a name a number is followed: an assignment (of a tuple, with an
annotation, of a sum of other names), a default, an argument of a call, a dictionary, a shape. A name with several
numbers counts as unknown. The result is a guess until it has been compared with the reference's outputs.
"""

from __future__ import annotations

import ast
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Number = int | float

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"int": int, "float": float, "min": min, "max": max, "round": round}
_LARGEST_EXPONENT = 64


class Constants:
    """The names in a definition's reference that stand for one number.

    Args:
        definition: The definition's document; constant axes give the extents of its inputs.

    Raises:
        SyntaxError: The reference is not Python.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        axes = definition.get("axes", {})
        extents = {name: axis.get("value") for name, axis in axes.items()}
        self._shapes = {
            name: [extents.get(axis) for axis in spec.get("shape") or ()]
            for name, spec in definition.get("inputs", {}).items()
        }
        self._given: dict[str, list[ast.expr]] = defaultdict(list)
        self._defaults: dict[str, list[ast.expr]] = defaultdict(list)
        self._changing: set[str] = set()
        tree = ast.parse(definition.get("reference") or "")
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            self._take(node, functions)

    def value(self, name: str) -> Number | None:
        """The number of a name, None if it has none or several."""
        return self._of_name(name, frozenset())

    def matching(self, names: frozenset[str]) -> dict[str, Number]:
        """Numbers of all names that equal one of ``names`` but for case and underscores."""
        written = [n for n in {**self._given, **self._defaults} if n.replace("_", "").lower() in names]
        found = {n: self.value(n) for n in written}
        return {n: v for n, v in found.items() if v is not None}

    def _take(self, node: ast.AST, functions: Mapping[str, ast.FunctionDef]) -> None:
        """Record the names that a statement or a call binds."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            self._bind(node.target, node.value)
        elif isinstance(node, ast.AugAssign | ast.For | ast.comprehension):
            self._changing.update(n.id for n in ast.walk(node.target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.FunctionDef):
            for name, default in _defaults(node.args):
                self._defaults[name].append(default)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    self._given[key.value].append(value)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg is not None:
                    self._given[keyword.arg].append(keyword.value)
            called = functions.get(node.func.id) if isinstance(node.func, ast.Name) else None
            if called is not None:
                for parameter, argument in zip(called.args.args, node.args, strict=False):
                    self._given[parameter.arg].append(argument)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        """Record an assignment, item by item if both sides are tuples or the value is a shape."""
        if isinstance(target, ast.Name):
            self._given[target.id].append(value)
        elif isinstance(target, ast.Tuple | ast.List):
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                for each, part in zip(target.elts, value.elts, strict=True):
                    self._bind(each, part)
            else:
                for i, each in enumerate(target.elts):
                    self._bind(each, ast.Subscript(value, ast.Constant(i), ast.Load()))

    def _of_name(self, name: str, asked: frozenset[str]) -> Number | None:
        if name in asked or name in self._changing:
            return None
        sources = self._given.get(name) or self._defaults.get(name) or []
        # `f(top_k=top_k)` says nothing about the name.
        others = [s for s in sources if not (isinstance(s, ast.Name) and s.id == name)] or self._defaults.get(name, [])
        numbers = {self._evaluate(s, asked | {name}) for s in others}
        return numbers.pop() if len(numbers) == 1 else None

    def _evaluate(self, node: ast.expr, asked: frozenset[str]) -> Number | None:
        """The value of an expression of constants and extents, None for any other expression."""
        if isinstance(node, ast.Constant):
            whole_or_real = isinstance(node.value, int | float) and not isinstance(node.value, bool)
            return node.value if whole_or_real else None  # type: ignore[return-value]
        if isinstance(node, ast.Name):
            return self._of_name(node.id, asked)
        if isinstance(node, ast.Attribute):
            return self._of_name(node.attr, asked)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._evaluate(node.operand, asked)
            return None if value is None else -value
        if isinstance(node, ast.BinOp):
            return self._apply(_OPERATORS.get(type(node.op)), [node.left, node.right], asked)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._apply(_FUNCTIONS.get(node.func.id), node.args, asked)
        return self._extent(node, asked)

    def _apply(
        self, function: Callable[..., Any] | None, arguments: list[ast.expr], asked: frozenset[str]
    ) -> Number | None:
        values = [self._evaluate(a, asked) for a in arguments]
        if function is None or any(v is None for v in values):
            return None
        if function in (operator.pow, operator.lshift) and abs(values[1] or 0) > _LARGEST_EXPONENT:
            return None
        try:
            result = function(*values)
        except (ArithmeticError, ValueError, TypeError):
            return None
        return result if type(result) in (int, float) else None

    def _extent(self, node: ast.expr, asked: frozenset[str]) -> Number | None:
        """``x.shape[i]`` or ``x.size(i)`` of an input; ``table["name"]`` of a dictionary."""
        owner: ast.expr | None
        index: ast.expr | None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size":
            owner, index = node.func.value, node.args[0] if node.args else None
        elif isinstance(node, ast.Subscript):
            index = node.slice
            if isinstance(index, ast.Constant) and isinstance(index.value, str):
                return self._of_name(index.value, asked)
            inner = node.value
            owner = inner.value if isinstance(inner, ast.Attribute) and inner.attr == "shape" else None
        else:
            return None
        if not isinstance(owner, ast.Name) or index is None:
            return None
        shape, at = self._shapes.get(owner.id), self._evaluate(index, asked)
        if shape is None or not isinstance(at, int) or not -len(shape) <= at < len(shape):
            return None
        return shape[at]


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    """Parameters with a default, and their defaults."""
    positional = [*arguments.posonlyargs, *arguments.args]
    if arguments.defaults:
        for parameter, default in zip(positional[-len(arguments.defaults) :], arguments.defaults, strict=True):
            yield parameter.arg, default
    for parameter, keyword_default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if keyword_default is not None:
            yield parameter.arg, keyword_default
