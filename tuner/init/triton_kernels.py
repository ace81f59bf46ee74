"""Finds a file's Triton kernels, their configs, and where they are launched."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.init.source.expressions import UnreadableError
from tuner.init.source.known_answers import LAUNCH_OPTIONS, TritonConfig
from tuner.init.source.source_file import SourceFile
from tuner.init.source.static_values import StaticFile

_AUTOTUNE_ARGUMENTS = ("configs", "key", "prune_configs_by", "reset_to_zero", "restore_value", "pre_hook")
_OTHER_VENDORS = frozenset(("waves_per_eu", "matrix_instr_nonkdim", "kpack", "grf_mode"))


@dataclass
class TritonKernel:
    """A function with ``@triton.jit``.

    Attributes:
        arguments: Names of its parameters.
        decorator: What tunes it, None if nothing does.
        configs: The configs that its author lists, where they could be read.
        why_unread: Why they could not be read.
        key: Names of arguments by whose values its author chooses.
        prune: Text of what prunes the configs by the arguments.
        hook: Name of the function that every config calls before a launch.
        lost_hooks: Number of configs that call one which could not be kept.
        tunable: Meta-parameters and launch options that configs give -> their values.
        constexprs: Names of parameters that are constants of a compilation.
        is_proposed: Whether the values are around those of a launch, for want of configs.
        computed: Launch options that the author computes -> how; the value 0 stands for it.
        counts_programs: Names of parameters by which a program's number is multiplied.
    """

    file: str
    name: str
    line: int
    arguments: tuple[str, ...]
    decorator: ast.Call | None = None
    configs: list[TritonConfig] = field(default_factory=list)
    why_unread: str = ""
    key: tuple[str, ...] = ()
    prune: str = ""
    hook: str = ""
    lost_hooks: int = 0
    remarks: list[str] = field(default_factory=list)
    tunable: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    constexprs: frozenset[str] = frozenset()
    is_proposed: bool = False
    computed: dict[str, str] = field(default_factory=dict)
    counts_programs: frozenset[str] = frozenset()

    def row(self, config: TritonConfig) -> dict[str, Any]:
        """A config's value for each tunable name."""
        given = {**LAUNCH_OPTIONS, **config.all_kwargs()}
        return {name: given[name] for name in self.tunable}


@dataclass(frozen=True)
class KernelLaunch:
    """``KERNEL[grid](...)`` within a top-level function or class."""

    file: str
    kernel: str
    call: ast.Call
    statement: ast.stmt


def find_kernels(file: SourceFile) -> list[TritonKernel]:
    """The kernels of a file, with their decorators found and no values read."""
    found = []
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.FunctionDef) or not any(_is_jit(d) for d in node.decorator_list):
            continue
        signature = node.args
        given = (*signature.posonlyargs, *signature.args, *signature.kwonlyargs)
        arguments = tuple(a.arg for a in given)
        constexprs = frozenset(a.arg for a in given if a.annotation and "constexpr" in ast.unparse(a.annotation))
        tuners = [d for d in node.decorator_list if _is_autotune(d)]
        decorator = tuners[0] if tuners else None
        assert decorator is None or isinstance(decorator, ast.Call)
        kernel = TritonKernel(
            file.path,
            node.name,
            node.lineno,
            arguments,
            decorator,
            constexprs=constexprs,
            counts_programs=frozenset(_counting_programs(node)),
        )
        found.append(kernel)
    return found


def _counting_programs(kernel: ast.FunctionDef) -> Iterator[str]:
    """Names that are multiplied by the number of the program, or by what is computed of it."""
    numbers: set[str] = set()

    def is_number(node: ast.AST) -> bool:
        return any(
            n.id in numbers if isinstance(n, ast.Name) else isinstance(n, ast.Attribute) and n.attr == "program_id"
            for n in ast.walk(node)
        )

    assigned = [n for n in ast.walk(kernel) if isinstance(n, ast.Assign)]
    for statement in sorted(assigned, key=lambda n: n.lineno):
        if is_number(statement.value):
            numbers |= {n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    for node in ast.walk(kernel):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                if isinstance(one, ast.Name) and is_number(other):
                    yield one.id


def _is_jit(decorator: ast.expr) -> bool:
    name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
    return name.rpartition(".")[2] == "jit" and name in ("jit", "triton.jit", "gluon.jit")


def _is_autotune(decorator: ast.expr) -> bool:
    """Triton's, or a project's own of the same form."""
    if not isinstance(decorator, ast.Call):
        return False
    name = ast.unparse(decorator.func).rpartition(".")[2]
    return name == "autotune" or {"configs", "key"} <= {k.arg for k in decorator.keywords}


def read_configs(kernel: TritonKernel, file: SourceFile, static: StaticFile) -> None:
    """Read what a kernel's decorator says, as far as it follows from the text."""
    decorator = kernel.decorator
    if decorator is None:
        return
    given = dict(zip(_AUTOTUNE_ARGUMENTS, decorator.args, strict=False)) | {
        k.arg: k.value for k in decorator.keywords if k.arg
    }
    if "key" in given:
        try:
            kernel.key = tuple(str(name) for name in static.value(given["key"]))
        except UnreadableError as error:
            kernel.remarks.append(f"its key could not be read: {error}")
    if "prune_configs_by" in given:
        kernel.prune = " ".join(file.snippet(given["prune_configs_by"]).split())
    if "configs" not in given:
        kernel.why_unread = f"line {decorator.lineno}: no configs are named"
        return
    try:
        configs = static.value(given["configs"])
    except UnreadableError as error:
        kernel.why_unread = str(error)
        return
    wrong = [c for c in configs if not isinstance(c, TritonConfig)] if isinstance(configs, list | tuple) else [configs]
    if wrong or not configs:
        kernel.why_unread = f"line {decorator.lineno}: {_shown(wrong)} is no list of configs"
        return
    kernel.configs = _distinct(configs)
    _read_tunable(kernel)
    if kernel.configs:
        _read_hook(kernel)


def _shown(values: Any) -> str:
    return getattr(values[0], "why", repr(values[0]))[:80] if values else "[]"


def _distinct(configs: list[TritonConfig] | tuple[TritonConfig, ...]) -> list[TritonConfig]:
    found: list[TritonConfig] = []
    for config in configs:
        if config not in found:
            found.append(config)
    return found


def _read_tunable(kernel: TritonKernel) -> None:
    """Which names the configs give values to. Options that no config gives stay Triton's own; a name whose value is one
    and the same in all of them is kept too, since the kernel needs it."""
    odd = {n: v for c in kernel.configs for n, v in c.all_kwargs().items() if not isinstance(v, int | float | str)}
    if odd:
        name, value = next(iter(odd.items()))
        kernel.why_unread = f"the value of {name} is {getattr(value, 'why', None) or getattr(value, 'name', value)}"
        kernel.configs = []
        return
    names = list(kernel.configs[0].kwargs)
    alike = [c for c in kernel.configs if set(c.kwargs) == set(names)]
    if len(alike) < len(kernel.configs):
        kernel.remarks.append(f"{len(kernel.configs) - len(alike)} configs give other names than the first; left out")
        kernel.configs = alike
    known: dict[str, tuple[Any, ...]] = {}
    for name in names:
        if name in kernel.arguments or name in LAUNCH_OPTIONS:
            known[name] = ()
        elif name not in _OTHER_VENDORS:
            kernel.remarks.append(f"its configs give {name}, which is neither an argument nor an option; left out")
    for option, default in LAUNCH_OPTIONS.items():
        if any(getattr(c, option) not in (None, default) for c in kernel.configs) or option in (
            "num_warps",
            "num_stages",
        ):
            known.setdefault(option, ())
    kernel.tunable = known
    rows = [kernel.row(c) for c in kernel.configs]
    kernel.tunable = {name: _sorted(dict.fromkeys(row[name] for row in rows)) for name in known}
    kernel.configs = [c for i, c in enumerate(kernel.configs) if rows[i] not in rows[:i]]


def _sorted(values: Mapping[Any, None]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(values))
    except TypeError:
        return tuple(values)


def _read_hook(kernel: TritonKernel) -> None:
    hooks = {getattr(c.pre_hook, "name", None if c.pre_hook is None else "?") for c in kernel.configs}
    if hooks == {None}:
        return
    hook = hooks.pop()
    if hooks or hook in ("?", "lambda") or hook is None:
        kernel.lost_hooks = sum(c.pre_hook is not None for c in kernel.configs)
    else:
        kernel.hook = hook


def find_launches(file: SourceFile) -> Iterator[KernelLaunch]:
    """Calls of the form ``NAME[grid](...)`` in a file, with the statements that they stand in. A name that is given one
    of several kernels, as in ``chosen = first if flag else second``, stands for the first."""
    for top in file.tree.body:
        chosen = _chosen_names(top)
        for launch in _launches_in(file.path, top, top):
            yield replace(launch, kernel=chosen.get(launch.kernel, launch.kernel))


def _chosen_names(top: ast.stmt) -> dict[str, str]:
    found = {}
    for node in ast.walk(top):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.IfExp):
            first = node.value.body
            if isinstance(first, ast.Name):
                found[node.targets[0].id] = first.id
    return found


def _launches_in(path: str, node: ast.AST, statement: ast.stmt) -> Iterator[KernelLaunch]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
        kernel = node.func.value
        if isinstance(kernel, ast.Call) and len(kernel.args) == 1:  # torch.library.wrap_triton(KERNEL)[grid](...)
            kernel = kernel.args[0]
        if isinstance(kernel, ast.Name | ast.Attribute):
            name = kernel.id if isinstance(kernel, ast.Name) else kernel.attr
            yield KernelLaunch(path, name, node, statement)
    for child in ast.iter_child_nodes(node):
        yield from _launches_in(path, child, child if isinstance(child, ast.stmt) else statement)
