"""Values of expressions that follow from a file's text: a small part of Python, interpreted here."""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.init.source.known_answers import BUILTINS, LAUNCH_OPTIONS, METHODS, Answers, TritonConfig, has_attribute

MOST_STEPS = 200_000
"""Nodes that are interpreted of one file."""
_MOST_DEEP = 40
_LARGEST, _LARGEST_EXPONENT = 1 << 64, 64


class UnreadableError(Exception):
    """A value does not follow from the text. The message says why, with a line."""


@dataclass(frozen=True)
class NotKnown:
    """Stands for a value that does not follow from the text."""

    why: str


@dataclass(frozen=True)
class ClassConstants(NotKnown):
    """A class of the file, of which only the constants in its body are known."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Dotted:
    """A name of another module, such as ``torch.cuda``; calls in it stand as ``()``. ``line`` is where it was read."""

    name: str
    line: int = 0

    @property
    def why(self) -> str:
        """Why it has no value."""
        return f"line {self.line}: {self.name} is not known without running it"


@dataclass(frozen=True)
class Function:
    """A function of the file, with the names that it sees."""

    node: ast.FunctionDef | ast.Lambda
    scope: Mapping[str, Any]
    name: str


class ReturnedError(Exception):
    """A function's ``return``, on its way out."""

    def __init__(self, value: Any) -> None:
        self.value = value


_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.RShift: operator.rshift,
    ast.LShift: operator.lshift, ast.Pow: operator.pow,
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_, ast.Invert: operator.invert
}  # fmt: skip


class Expressions:
    """Evaluates expressions in scopes of names.

    Args:
        answers: What other modules' functions answer.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._steps = 0
        self._deep = 0
        self.names: dict[str, Any] = {"__name__": "kernel"}

    def _body(self, body: list[ast.stmt], scope: dict[str, Any]) -> None:
        raise NotImplementedError

    def _known(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        value = self._eval(node, scope)
        if isinstance(value, NotKnown | Dotted):
            raise UnreadableError(value.why)
        return value

    def _not_known(self, node: ast.AST, why: str) -> UnreadableError:
        return UnreadableError(f"line {getattr(node, 'lineno', '?')}: {why}")

    def _step(self, node: ast.AST) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise self._not_known(node, f"more than {MOST_STEPS} steps of code")

    def _eval(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        self._step(node)
        handler = getattr(self, f"_eval_{type(node).__name__.lower()}", None)
        if handler is None:
            raise self._not_known(node, f"{ast.unparse(node)[:60]} is not read")
        try:
            return handler(node, scope)
        except UnreadableError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError, StopIteration) as error:
            raise self._not_known(node, f"{ast.unparse(node)[:60]}: {type(error).__name__}: {error}") from error

    def _eval_constant(self, node: ast.Constant, _: dict[str, Any]) -> Any:
        return node.value

    def _eval_name(self, node: ast.Name, scope: dict[str, Any]) -> Any:
        for names in (scope, self.names, BUILTINS):
            if node.id in names:
                return names[node.id]
        raise self._not_known(node, f"{node.id} is not known")

    def _eval_attribute(self, node: ast.Attribute, scope: dict[str, Any]) -> Any:
        base = self._eval(node.value, scope)
        if isinstance(base, Dotted):
            name = f"{base.name}.{node.attr}"
            return self._answers.values[name] if name in self._answers.values else Dotted(name, node.lineno)
        if isinstance(base, TritonConfig) and node.attr in ("kwargs", *LAUNCH_OPTIONS):
            value = getattr(base, node.attr)
            return LAUNCH_OPTIONS.get(node.attr) if value is None else value
        if isinstance(base, ClassConstants) and node.attr in base.values:
            return base.values[node.attr]
        if node.attr in METHODS.get(type(base), ()):
            return getattr(base, node.attr)
        why = base.why if isinstance(base, NotKnown) else f"attribute {node.attr} is not read"
        raise UnreadableError(why) if isinstance(base, NotKnown) else self._not_known(node, why)

    def _eval_call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr") and len(node.args) >= 2:
            return self._attribute(node, scope)
        called = self._eval(node.func, scope)
        arguments: list[Any] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                arguments += self._items(argument.value, scope)
            else:
                arguments.append(self._eval(argument, scope))
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                named |= self._known(keyword.value, scope)
            else:
                named[keyword.arg] = self._eval(keyword.value, scope)
        return self._call(node, called, arguments, named)

    def _attribute(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        """What ``hasattr`` or ``getattr`` gives for a name of another module."""
        assert isinstance(node.func, ast.Name)
        base, name = self._eval(node.args[0], scope), self._known(node.args[1], scope)
        if isinstance(base, Dotted):
            dotted = f"{base.name}.{name}"
            found = True if dotted in self._answers.values else has_attribute(base.name, name)
            if node.func.id == "hasattr" and found is not None:
                return found
            if node.func.id == "getattr" and found is not None:
                is_default = not found and len(node.args) > 2
                known = self._answers.values.get(dotted, Dotted(dotted, node.lineno))
                return self._eval(node.args[2], scope) if is_default else known
        raise self._not_known(node, f"{ast.unparse(node)[:60]} is not known")

    def _call(self, node: ast.AST, called: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        if isinstance(called, NotKnown):
            raise UnreadableError(called.why)
        if isinstance(called, Dotted):
            function = self._answers.functions.get(called.name)
            if function is None:
                name = f"{called.name}()"
                return self._answers.values.get(name, Dotted(name, getattr(node, "lineno", 0)))
            if called.name == "triton.Config":
                return function(*arguments, **named)
            called = function
        if isinstance(called, Function):
            return self._apply(node, called, arguments, named)
        if not callable(called):
            raise self._not_known(node, "what is called is no function")
        for value in (*arguments, *named.values()):
            if isinstance(value, NotKnown | Dotted):
                raise UnreadableError(value.why)
        if called is range and len(range(*arguments)) > MOST_STEPS:
            raise self._not_known(node, "the range is too long")
        given = [self._native(node, a) for a in arguments]
        result = called(*given, **{name: self._native(node, v) for name, v in named.items()})
        if not isinstance(result, Iterator):
            return result
        items = list(itertools.islice(result, MOST_STEPS + 1))
        if len(items) > MOST_STEPS:
            raise self._not_known(node, "a list is too long")
        return items

    def _native(self, node: ast.AST, value: Any) -> Any:
        """A function of the file as one that Python's own functions, such as ``filter``, can call."""
        if isinstance(value, Function):
            return lambda *arguments, **named: self._call(node, value, list(arguments), named)
        return value

    def _apply(self, node: ast.AST, called: Function, arguments: list[Any], named: dict[str, Any]) -> Any:
        signature = called.node.args
        names = [a.arg for a in (*signature.posonlyargs, *signature.args)]
        if signature.kwarg is not None or (len(arguments) > len(names) and signature.vararg is None):
            raise self._not_known(node, f"the arguments of {called.name} are not read")
        scope = dict(called.scope) if called.scope is not self.names else {}
        pairs = [*zip(reversed(names), reversed(signature.defaults), strict=False)]
        pairs += [(a.arg, d) for a, d in zip(signature.kwonlyargs, signature.kw_defaults, strict=True) if d is not None]
        for name, default in pairs:
            scope[name] = self._eval(default, dict(called.scope))
        scope |= dict(zip(names, arguments, strict=False)) | named
        if signature.vararg is not None:
            scope[signature.vararg.arg] = tuple(arguments[len(names) :])
        self._deep += 1
        try:
            if self._deep > _MOST_DEEP:
                raise self._not_known(node, "functions call each other too deeply")
            if isinstance(called.node, ast.Lambda):
                return self._eval(called.node.body, scope)
            self._body(called.node.body, scope)
            return None
        except ReturnedError as returned:
            return returned.value
        finally:
            self._deep -= 1

    def _bind(self, target: ast.expr, value: Any, scope: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            values = [] if isinstance(value, NotKnown | Dotted) else list(value)
            if len(values) != len(target.elts):
                raise self._not_known(target, "the number of values does not fit")
            for part, item in zip(target.elts, values, strict=True):
                self._bind(part, item, scope)
        elif isinstance(target, ast.Subscript):
            self._known(target.value, scope)[self._known(target.slice, scope)] = value
        else:
            raise self._not_known(target, "an attribute is set")

    def _eval_lambda(self, node: ast.Lambda, scope: dict[str, Any]) -> Any:
        return Function(node, scope, "lambda")

    def _binary(self, node: ast.AST, op: ast.operator, left: Any, right: Any) -> Any:
        function = _BINARY.get(type(op))
        if function is None:
            raise self._not_known(node, "the operator is not read")
        if isinstance(op, ast.Pow | ast.LShift) and (abs(left) > _LARGEST or abs(right) > _LARGEST_EXPONENT):
            raise self._not_known(node, "a number is too large")
        lengths = [len(v) for v in (left, right) if isinstance(v, str | list | tuple)]
        if (
            isinstance(op, ast.Mult)
            and lengths
            and lengths[0] * next(v for v in (left, right) if isinstance(v, int)) > MOST_STEPS
        ):
            raise self._not_known(node, "a list is too long")
        return function(left, right)

    def _eval_binop(self, node: ast.BinOp, scope: dict[str, Any]) -> Any:
        return self._binary(node, node.op, self._known(node.left, scope), self._known(node.right, scope))

    def _eval_unaryop(self, node: ast.UnaryOp, scope: dict[str, Any]) -> Any:
        return _UNARY[type(node.op)](self._known(node.operand, scope))

    def _eval_boolop(self, node: ast.BoolOp, scope: dict[str, Any]) -> Any:
        value: Any = None
        for part in node.values:
            value = self._known(part, scope)
            if bool(value) is isinstance(node.op, ast.Or):
                return value
        return value

    def _eval_compare(self, node: ast.Compare, scope: dict[str, Any]) -> Any:
        left = self._known(node.left, scope)
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = self._known(part, scope)
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _eval_ifexp(self, node: ast.IfExp, scope: dict[str, Any]) -> Any:
        return self._eval(node.body if self._known(node.test, scope) else node.orelse, scope)

    def _eval_subscript(self, node: ast.Subscript, scope: dict[str, Any]) -> Any:
        return self._known(node.value, scope)[self._known(node.slice, scope)]

    def _eval_slice(self, node: ast.Slice, scope: dict[str, Any]) -> Any:
        return slice(*(None if p is None else self._known(p, scope) for p in (node.lower, node.upper, node.step)))

    def _elements(self, nodes: list[ast.expr], scope: dict[str, Any]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found += self._items(node.value, scope)
            else:
                found.append(self._eval(node, scope))
        return found

    def _eval_list(self, node: ast.List, scope: dict[str, Any]) -> Any:
        return self._elements(node.elts, scope)

    def _eval_tuple(self, node: ast.Tuple, scope: dict[str, Any]) -> Any:
        return tuple(self._elements(node.elts, scope))

    def _eval_set(self, node: ast.Set, scope: dict[str, Any]) -> Any:
        return set(self._elements(node.elts, scope))

    def _eval_dict(self, node: ast.Dict, scope: dict[str, Any]) -> Any:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= self._known(value, scope)
            else:
                found[self._known(key, scope)] = self._eval(value, scope)
        return found

    def _eval_joinedstr(self, node: ast.JoinedStr, scope: dict[str, Any]) -> Any:
        parts = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue) and (part.format_spec is not None or part.conversion != -1):
                raise self._not_known(node, f"{ast.unparse(part)[:60]} has a format, which is not read")
            parts.append(self._known(part.value if isinstance(part, ast.FormattedValue) else part, scope))
        return "".join(map(str, parts))

    def _items(self, node: ast.expr, scope: dict[str, Any]) -> list[Any]:
        return list(self._known(node, scope))

    def _generated(self, generators: list[ast.comprehension], scope: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not generators:
            yield scope
            return
        first, *rest = generators
        for item in self._items(first.iter, scope):
            inner = dict(scope)
            self._bind(first.target, item, inner)
            if all(self._known(test, inner) for test in first.ifs):
                yield from self._generated(rest, inner)

    def _eval_listcomp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: dict[str, Any]) -> Any:
        return [self._eval(node.elt, inner) for inner in self._generated(node.generators, dict(scope))]

    _eval_generatorexp = _eval_listcomp

    def _eval_setcomp(self, node: ast.SetComp, scope: dict[str, Any]) -> Any:
        return set(self._eval_listcomp(node, scope))

    def _eval_dictcomp(self, node: ast.DictComp, scope: dict[str, Any]) -> Any:
        scopes = self._generated(node.generators, dict(scope))
        return {self._known(node.key, inner): self._eval(node.value, inner) for inner in scopes}
