"""Edits of a stranger's files: the decorator that tunes goes, launches take their values from the config."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Mapping

from tuner.init.source.known_answers import LAUNCH_OPTIONS
from tuner.init.source.source_file import TODO, SourceFile
from tuner.init.triton_kernels import KernelLaunch, TritonKernel

_WIDTH = 110


def config_name(file: SourceFile) -> str:
    """A name for the config that the file does not use."""
    used = {n.id for n in ast.walk(file.tree) if isinstance(n, ast.Name)}
    used |= {n.arg for n in ast.walk(file.tree) if isinstance(n, ast.arg)}
    return next(name for name in ("config", "tuned", "tuned_config", "tuner_s_config") if name not in used)


def declare_config(file: SourceFile, name: str) -> None:
    """Define the config's name behind the last import at the file's top level."""
    imports = [n for n in file.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    after = imports[-1].end_lineno if imports else 0
    text = f"\n{name} = {{}}  # the values of the call that is running; the entry point sets it\n"
    position = file.offset((after or 0) + 1, 0)
    file.replace(position, position, text)


def drop_decorator(file: SourceFile, kernel: TritonKernel) -> None:
    """Take the decorator out that tunes a kernel."""
    assert kernel.decorator is not None
    file.remove(kernel.decorator, kernel.decorator.lineno)


def drop_backward(file: SourceFile) -> list[int]:
    """Take ``backward`` out of classes that have a ``forward(ctx, ...)``: a Solution is never differentiated.

    Returns:
        The lines where one began.
    """
    lines = []
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        methods = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
        forward, backward = methods.get("forward"), methods.get("backward")
        if forward is None or backward is None or not forward.args.args or forward.args.args[0].arg != "ctx":
            continue
        first = min([backward.lineno, *(d.lineno for d in backward.decorator_list)])
        while not file.line(first - 1).strip():
            first -= 1
        file.remove(backward, first)
        lines.append(backward.lineno)
    return lines


def take_values(
    file: SourceFile, launch: KernelLaunch, kernel: TritonKernel, access: Mapping[str, str], unread: str
) -> None:
    """Give a launch the values of the config.

    Args:
        access: Name of a meta-parameter or launch option -> expression for its value.
        unread: What the launch unpacks that is not known; empty if there is nothing of the kind.
    """
    call = launch.call
    keywords = {k.arg: k.value for k in call.keywords if k.arg}
    positional = (
        {}
        if any(isinstance(a, ast.Starred) for a in call.args)
        else dict(zip(kernel.arguments, call.args, strict=False))
    )
    added = []
    for name, expression in access.items():
        value = keywords.get(name, positional.get(name))
        if name in kernel.computed:  # 0 stands for the author's own
            own = str(LAUNCH_OPTIONS[name]) if value is None else file.snippet(value)
            simple = isinstance(value, ast.Name | ast.Attribute | ast.Call | ast.Constant | ast.Subscript | None)
            expression = f"{expression} or {own if simple else f'({own})'}"
        if value is None:
            added.append(f"{name}={expression}")
        else:
            file.replace(file.start(value), file.end(value), expression)
    if added:
        _append_arguments(file, launch, added)
        if unread:
            what = f"**{unread} must not hold what the config gives: {', '.join(access)}"
            mark(file, launch.statement.lineno, what)


def _append_arguments(file: SourceFile, launch: KernelLaunch, added: list[str]) -> None:
    call = launch.call
    text = file.snippet(call)
    at, has_comma = _last_token(text)
    position = file.start(call) + len(text[:at].encode())
    comma = "" if has_comma or not (call.args or call.keywords) else ","
    joined = ", ".join(added)
    one_line = call.lineno == call.end_lineno
    if one_line and len(file.line(call.lineno)) + len(joined) + 2 <= _WIDTH:
        file.replace(position, position, f"{comma} {joined}" if call.args or call.keywords else joined)
        return
    first = (*call.args, *(k.value for k in call.keywords))[:1]
    starts_line = first and first[0].lineno > call.lineno
    column = first[0].col_offset if starts_line else launch.statement.col_offset + 4
    file.replace(
        position, position, comma + "".join(f"\n{' ' * column}{line}" for line in _wrapped(added, _WIDTH - column))
    )


def _wrapped(parts: Iterable[str], width: int) -> list[str]:
    """Parts in lines of at most this width, separated by commas; without one at the end."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f", {part}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(part)
    return lines


def _last_token(call: str) -> tuple[int, bool]:
    """Where the last token before a call's closing parenthesis ends, and whether it is a comma."""
    starts = [0]
    for line in call.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    skipped = (tokenize.NL, tokenize.COMMENT, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(call).readline) if t.type not in skipped]
    last = tokens[-2]
    return starts[last.end[0] - 1] + last.end[1], last.string == ","


def call_hook(
    file: SourceFile, launch: KernelLaunch, kernel: TritonKernel, access: Mapping[str, str], keys: Iterable[str] | None
) -> bool:
    """Call a kernel's hook before a launch, with the arguments that it reads by name.

    Args:
        keys: Names of the arguments that it reads; None for all.

    Returns:
        Whether it could be done.
    """
    call, statement = launch.call, launch.statement
    if (
        any(isinstance(a, ast.Starred) for a in call.args)
        or file.line(statement.lineno)[: statement.col_offset].strip()
    ):
        return False
    values = {name: file.snippet(a) for name, a in zip(kernel.arguments, call.args, strict=False)}
    values |= {k.arg: file.snippet(k.value) for k in call.keywords if k.arg} | dict(access)
    wanted = list(values) if keys is None else list(keys)
    if any(name not in values for name in wanted):
        return False
    column = statement.col_offset
    pairs = [f'"{name}": {values[name]}' for name in wanted]
    lines = "".join(f"\n{' ' * (column + 4)}{line}" for line in _wrapped(pairs, _WIDTH - column))
    file.insert_line(statement.lineno, f"{' ' * column}{kernel.hook}({{{lines}\n{' ' * column}}})")
    return True


def keys_read(function: ast.FunctionDef) -> list[str] | None:
    """The keys that a function reads of its only argument; None if that cannot be seen."""
    if not function.args.args:
        return None
    argument, seen = function.args.args[0].arg, 0
    keys: dict[str, None] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == argument:
            if not isinstance(node.slice, ast.Constant):
                return None
            keys[str(node.slice.value)] = None
            seen += 1
    names = sum(isinstance(n, ast.Name) and n.id == argument for n in ast.walk(function))
    return list(keys) if names == seen else None


def mark(file: SourceFile, line: int, what: str) -> None:
    """Leave a remark for the author before a line."""
    column = len(file.line(line)) - len(file.line(line).lstrip())
    file.insert_line(line, f"{' ' * column}# {TODO}: {what}")
