"""Constraint expressions as text: a small, safe part of Python's expression syntax.

Allowed are parameter names, numbers, strings, booleans, tuples and lists of them, elements of a tuple (``cluster[0]``),
arithmetic (``+ - * / // %``), comparisons (also chained, ``in``, ``not in``), ``and``, ``or``, ``not``,
``a if c else b``, and calls of ``min``, ``max``, ``abs``, ``len``. The text is parsed, never handed to ``eval``: there
are no attributes but in names with a dot, no slices or other calls, no powers (a short text could produce a number that
fills the memory), and no arithmetic on strings or lists.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.parameters import SpaceError

MAX_LENGTH = 2000
"""Longest text in characters; keeps the parser's recursion bounded."""

_Evaluate = Callable[[Mapping[str, Any]], Any]

_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISON: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: lambda a: -_number(a),
    ast.UAdd: lambda a: _number(a),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs, "len": len}


@dataclass(frozen=True)
class Expression:
    """A checked expression; call it with a config.

    Args:
        text: The expression as the user wrote it.
        names: The parameters it reads, sorted.
    """

    text: str
    names: tuple[str, ...]
    _evaluate: _Evaluate = field(repr=False, compare=False)
    _group: str = field(default="", repr=False, compare=False)

    def __call__(self, config: Mapping[str, Any]) -> Any:
        """The value for a config that has at least ``names``.

        Raises:
            SpaceError: An operation is impossible with these values (a string plus a number, a division by zero).
        """
        try:
            return self._evaluate(config)
        except (TypeError, ValueError, ArithmeticError, IndexError) as error:
            values = ", ".join(f"{n}={config[n]!r}" for n in self.names) or "any config"
            raise SpaceError(f"expression {_quote(self.text)} fails for {values}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return compile_expression, (self.text, self.names, self._group)


def compile_expression(text: str, names: Collection[str], group: str = "") -> Expression:
    """Check an expression once, so that it can be evaluated for many configs.

    Args:
        text: The expression.
        names: The parameters it may read.
        group: A name whose attributes it may read as well, all of them; in ``Expression.names`` as ``group.attribute``.

    Raises:
        SpaceError: It is no expression, is longer than ``MAX_LENGTH``, or uses a name or syntax that is not allowed.
    """
    if len(text) > MAX_LENGTH:
        raise SpaceError(f"expression of {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        used: set[str] = set()
        evaluate = _Compiler(text, frozenset(names), used, group).compile(tree.body)
    except (SyntaxError, ValueError) as error:
        if isinstance(error, SpaceError):
            raise
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SpaceError(f"{_quote(text)} is not an expression: {reason}") from error
    except (RecursionError, MemoryError) as error:
        raise SpaceError(f"expression {_quote(text)} is nested too deeply") from error
    return Expression(text, tuple(sorted(used)), evaluate, group)


def _quote(text: str) -> str:
    """The text in quotes for a message, shortened to a readable length."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _number(value: Any) -> Any:
    """The value, if arithmetic on it is allowed."""
    if isinstance(value, int | float):
        return value
    raise TypeError(f"arithmetic on {value!r}, which is not a number")


def _tuple(value: Any) -> tuple[Any, ...]:
    """The value, if it has elements."""
    if isinstance(value, tuple):
        return value
    raise TypeError(f"an element of {value!r}, which is not a tuple")


def _position(value: Any) -> int:
    """The value, if it can say which element."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"element {value!r}; a whole number is needed")


class _Compiler:
    """Turns a syntax tree into nested functions; collects the names in ``used``."""

    def __init__(self, text: str, names: frozenset[str], used: set[str], group: str) -> None:
        self.text = text
        self.names = names
        self.used = used
        self.group = group

    def compile(self, node: ast.expr) -> _Evaluate:
        """The function of one node."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                constant = node.value
                return lambda config: constant
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute() if self._is_grouped(ast.unparse(node)):
                return self._name(ast.unparse(node))
            case ast.Attribute(value=ast.Name(id=holder), attr=attribute) if holder == self.group:
                member = f"{self.group}.{attribute}"
                self.used.add(member)
                return lambda config: config[member]
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                parts = [self.compile(e) for e in elements]
                return lambda config: tuple(p(config) for p in parts)
            case ast.Subscript(value=container, slice=index):
                elements_of, position = self.compile(container), self.compile(index)
                return lambda config: _tuple(elements_of(config))[_position(position(config))]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                unary, inner = _UNARY[type(op)], self.compile(operand)
                return lambda config: unary(inner(config))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                binary, first, second = _ARITHMETIC[type(op)], self.compile(left), self.compile(right)
                return lambda config: binary(_number(first(config)), _number(second(config)))
            case ast.BoolOp(op=op, values=values):
                return self._boolean(isinstance(op, ast.And), [self.compile(v) for v in values])
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition, yes, no = self.compile(test), self.compile(body), self.compile(orelse)
                return lambda config: yes(config) if condition(config) else no(config)
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
                function, given = _FUNCTIONS[name], [self.compile(a) for a in arguments]
                return lambda config: function(*(g(config) for g in given))
        raise SpaceError(
            f"expression {_quote(self.text)} uses {_quote(ast.unparse(node))}, which is not allowed; "
            f"allowed are names, constants, + - * / // %, comparisons, and, or, not, if-else, elements as in a[0], "
            f"{', '.join(_FUNCTIONS)}"
        )

    def _is_grouped(self, name: str) -> bool:
        """Whether a name with dots begins as that of a parameter in a group does."""
        return any(known.startswith(f"{name.split('.')[0]}.") for known in self.names)

    def _name(self, name: str) -> _Evaluate:
        if name not in self.names:
            raise SpaceError(
                f"expression {_quote(self.text)} names unknown {_quote(name)}; "
                f"known are {', '.join(sorted(self.names))}"
            )
        self.used.add(name)
        return lambda config: config[name]

    @staticmethod
    def _boolean(every: bool, parts: list[_Evaluate]) -> _Evaluate:
        if every:
            return lambda config: all(p(config) for p in parts)
        return lambda config: any(p(config) for p in parts)

    def _compare(self, node: ast.Compare) -> _Evaluate:
        tests = []
        for op in node.ops:
            if type(op) not in _COMPARISON:
                raise SpaceError(
                    f"expression {_quote(self.text)} uses 'is', which is not allowed; compare with == or !="
                )
            tests.append(_COMPARISON[type(op)])
        operands = [self.compile(o) for o in (node.left, *node.comparators)]

        def holds(config: Mapping[str, Any]) -> bool:
            left = operands[0](config)
            for test, operand in zip(tests, operands[1:], strict=True):
                right = operand(config)
                if not test(left, right):
                    return False
                left = right
            return True

        return holds
