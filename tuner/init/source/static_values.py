"""Values of a Python file that follow from its text alone, such as a list of configs that loops and functions make.

The file is not run: a small part of Python is interpreted here, and what goes beyond it is a value that is not known.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from tuner.init.source.expressions import (
    ClassConstants,
    Dotted,
    Expressions,
    Function,
    NotKnown,
    ReturnedError,
    UnreadableError,
)
from tuner.init.source.known_answers import Answers
from tuner.init.source.source_file import bound_names


class _BreakError(Exception): ...


class _ContinueError(Exception): ...


class StaticFile(Expressions):
    """The top-level names of a file, with the values that follow from its text.

    Args:
        tree: The file.
        answers: What other modules' functions answer.
        imported: Gives the value of a name that is imported from a file that is also read, or None; for ``*`` a
            mapping of all its names.
    """

    def __init__(
        self, tree: ast.Module, answers: Answers, imported: Callable[[ast.ImportFrom, str], Any] = lambda *_: None
    ) -> None:
        super().__init__(answers)
        self._imported = imported
        self._before: dict[str, list[tuple[int, Any]]] = {}
        for statement in tree.body:
            known = dict(self.names)
            try:
                self._do_at_top(statement)
            except (ReturnedError, _BreakError, _ContinueError):
                self._forget(statement, f"line {statement.lineno}")
            for name, value in known.items():
                if self.names[name] is not value:
                    self._before.setdefault(name, []).append((statement.lineno, value))

    def _do_at_top(self, statement: ast.stmt) -> None:
        """One that cannot be read takes only the names with it that it binds."""
        try:
            self._do(statement, self.names)
        except UnreadableError as error:
            self._forget(statement, str(error))

    def _forget(self, statement: ast.stmt, why: str) -> None:
        for name in bound_names(statement):
            self.names[name] = NotKnown(why)

    def value(self, node: ast.expr) -> Any:
        """The value of an expression at the file's top level, with names as they are at its line.

        Raises:
            UnreadableError: It does not follow from the text.
        """
        earlier = {n: next((v for line, v in bound if line > node.lineno), None) for n, bound in self._before.items()}
        return self._known(node, {n: v for n, v in earlier.items() if v is not None})

    def _do(self, node: ast.stmt, scope: dict[str, Any]) -> None:
        self._step(node)
        handler = getattr(self, f"_do_{type(node).__name__.lower()}", None)
        if handler is None:
            raise self._not_known(node, f"a {type(node).__name__} statement is not read")
        handler(node, scope)

    def _body(self, body: list[ast.stmt], scope: dict[str, Any]) -> None:
        for statement in body:
            self._do(statement, scope)

    def _do_pass(self, node: ast.Pass, scope: dict[str, Any]) -> None: ...

    _do_assert = _do_global = _do_nonlocal = _do_pass

    def _do_classdef(self, node: ast.ClassDef, scope: dict[str, Any]) -> None:
        constants: dict[str, Any] = {}
        for statement in node.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                try:
                    self._do(statement, constants)
                except UnreadableError:
                    continue
        scope[node.name] = ClassConstants(f"line {node.lineno}: class {node.name} is not read", constants)

    def _do_import(self, node: ast.Import, scope: dict[str, Any]) -> None:
        for alias in node.names:
            scope[alias.asname or alias.name.split(".")[0]] = Dotted(
                alias.name if alias.asname else alias.name.split(".")[0]
            )

    def _do_importfrom(self, node: ast.ImportFrom, scope: dict[str, Any]) -> None:
        for alias in node.names:
            found = self._imported(node, alias.name)
            if alias.name == "*":
                scope |= found or {}
                continue
            name = alias.asname or alias.name
            scope[name] = _dotted(node, alias.name) if found is None else found

    def _do_functiondef(self, node: ast.FunctionDef, scope: dict[str, Any]) -> None:
        plain = all(_is_harmless(d) for d in node.decorator_list)
        why = f"line {node.lineno}: {node.name} is decorated"
        scope[node.name] = Function(node, scope, node.name) if plain else NotKnown(why)

    def _do_expr(self, node: ast.Expr, scope: dict[str, Any]) -> None:
        self._eval(node.value, scope)

    def _do_return(self, node: ast.Return, scope: dict[str, Any]) -> None:
        raise ReturnedError(None if node.value is None else self._eval(node.value, scope))

    def _do_assign(self, node: ast.Assign, scope: dict[str, Any]) -> None:
        value = self._eval(node.value, scope)
        for target in node.targets:
            self._bind(target, value, scope)

    def _do_annassign(self, node: ast.AnnAssign, scope: dict[str, Any]) -> None:
        if node.value is not None:
            self._bind(node.target, self._eval(node.value, scope), scope)

    def _do_augassign(self, node: ast.AugAssign, scope: dict[str, Any]) -> None:
        if not isinstance(node.target, ast.Name):
            raise self._not_known(node, "only a name can be changed")
        before = self._known(ast.copy_location(ast.Name(node.target.id, ast.Load()), node), scope)
        scope[node.target.id] = self._binary(node, node.op, before, self._known(node.value, scope))

    def _do_if(self, node: ast.If, scope: dict[str, Any]) -> None:
        branch = node.body if self._known(node.test, scope) else node.orelse
        if scope is not self.names:
            self._body(branch, scope)
            return
        for statement in branch:
            self._do_at_top(statement)

    def _do_for(self, node: ast.For, scope: dict[str, Any]) -> None:
        def turns() -> Iterator[None]:
            for item in self._items(node.iter, scope):
                self._bind(node.target, item, scope)
                yield

        self._loop(node, turns(), scope)

    def _do_while(self, node: ast.While, scope: dict[str, Any]) -> None:
        def turns() -> Iterator[None]:
            while self._known(node.test, scope):
                yield

        self._loop(node, turns(), scope)

    def _loop(self, node: ast.For | ast.While, turns: Iterator[None], scope: dict[str, Any]) -> None:
        for _ in turns:
            try:
                self._body(node.body, scope)
            except _ContinueError:
                continue
            except _BreakError:
                return
        self._body(node.orelse, scope)

    def _do_try(self, node: ast.Try, scope: dict[str, Any]) -> None:
        self._body([*node.body, *node.orelse, *node.finalbody], scope)

    def _do_break(self, node: ast.Break, scope: dict[str, Any]) -> None:
        raise _BreakError

    def _do_continue(self, node: ast.Continue, scope: dict[str, Any]) -> None:
        raise _ContinueError


def _dotted(node: ast.ImportFrom, name: str) -> Dotted:
    return Dotted(f"{'.' * node.level}{node.module or ''}.{name}", node.lineno)


def _is_harmless(decorator: ast.expr) -> bool:
    name = ast.unparse(decorator)
    return any(word in name for word in ("cache", "staticmethod", "constexpr_function"))
