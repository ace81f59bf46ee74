"""Parameters of a kernel that nothing tunes: what its launch says as a number, with values around it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tuner.init.source.known_answers import LAUNCH_OPTIONS, TritonConfig
from tuner.init.source.source_file import SourceFile
from tuner.init.triton_kernels import KernelLaunch, TritonKernel

_SIZES = re.compile(r"(?i).*(block|tile|group|split|chunk|stages).*|B[A-Z]{1,2}|[A-Z]{1,2}_?B")
_WARPS = (1, 2, 4, 8, 16)
_MOST_WARPS = 32
_STAGES = (1, 2, 3, 4, 5)


@dataclass
class LaunchValues:
    """What a launch says.

    Attributes:
        given: Name -> its number.
        assigned: Name -> the number's places in assignments of the launcher, such as ``BLOCK = 64``.
        others: Further choices of the author's code; those of ``given`` are the first.
        fixed: Launch options that only some of the choices give, which are left alone.
        unpacked_unread: What the launch unpacks (``**config``) without its values being known.
        computed: Launch options whose value is computed -> the author's expression.
        remarks: What a reader should know of it.
    """

    given: dict[str, int] = field(default_factory=dict)
    assigned: dict[str, list[ast.Constant]] = field(default_factory=dict)
    others: list[dict[str, int]] = field(default_factory=list)
    fixed: frozenset[str] = frozenset()
    unpacked_unread: str = ""
    computed: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_launch(file: SourceFile, launch: KernelLaunch, kernel: TritonKernel, code: Sequence[ast.stmt]) -> LaunchValues:
    """The numbers of a launch that may be tuned. One that the grid repeats as a number is none of them.

    Args:
        code: Statements of the file that are needed, in which dicts are looked for that the launch unpacks.
    """
    values = LaunchValues()
    call = launch.call
    starred = any(isinstance(a, ast.Starred) for a in call.args)
    arguments = {} if starred else dict(zip(kernel.arguments, call.args, strict=False))
    arguments |= {k.arg: k.value for k in call.keywords if k.arg}
    function = _function_of(file, launch)
    assert isinstance(call.func, ast.Subscript)
    by_name = _is_by_name(call.func.slice, function)
    for name, value in arguments.items():
        is_option = name in ("num_warps", "num_stages")
        if not is_option and not (name in kernel.constexprs and _SIZES.fullmatch(name)):
            continue
        number = _number(value)
        place = None if number is not None or function is None else _assigned_number(function, value)
        if number is not None and (is_option or by_name):
            values.given[name] = number
        elif place is not None:
            values.given[name], values.assigned[name] = int(place.value), [place]  # type: ignore[arg-type]
        elif is_option and number is None:
            values.computed[name] = _origin_of(file, value, function)
    _tell_apart(values, kernel)
    for unpacked in (k.value for k in call.keywords if k.arg is None):
        _read_unpacked(code, kernel, values, file.snippet(unpacked))
    return values


def _read_unpacked(code: Sequence[ast.stmt], kernel: TritonKernel, values: LaunchValues, unpacked: str) -> None:
    """Numbers of the dicts that may be what a launch unpacks, as ``config = {"BLOCK_M": 64, "BLOCK_N": 64}``."""
    possible = kernel.constexprs | {name for name in LAUNCH_OPTIONS if name not in values.given}
    dicts = [d for d in (_numbers_of(node, possible) for top in code for node in ast.walk(top)) if d]
    if not dicts:
        values.unpacked_unread = unpacked if _may_hold(code, unpacked, possible) else ""
        return
    shared = [name for name in dicts[0] if all(name in d for d in dicts)]
    first, *others = [{name: int(d[name].value) for name in shared} for d in dicts]  # type: ignore[arg-type]
    values.given |= first
    values.others = [other for other in others if other != first]
    values.assigned |= {name: [d[name] for d in dicts] for name in shared}
    values.fixed = frozenset(name for d in dicts for name in d if name in LAUNCH_OPTIONS and name not in shared)
    if values.others:
        what = f"its launcher has {len(dicts)} dicts of values: the first is the default, the others are starts"
        values.remarks.append(f"{what}; give them sizes where the launcher chooses by size")


def _may_hold(code: Sequence[ast.stmt], name: str, keys: Collection[str]) -> bool:
    """Whether a name may be a dict with one of the keys; not where it is filled key by key, and with others alone."""
    nodes = [node for top in code for node in ast.walk(top)]
    assigned = [n for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name]
    filled = [n for n in nodes if isinstance(n, ast.Subscript) and ast.unparse(n.value) == name]
    dicts = [n.value for n in assigned if isinstance(n.value, ast.Dict)]
    known = [*(key for d in dicts for key in d.keys), *(n.slice for n in filled)]
    read = sum(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in nodes)
    unpacked = sum(isinstance(n, ast.keyword) and n.arg is None and ast.unparse(n.value) == name for n in nodes)
    is_whole = assigned and len(dicts) == len(assigned) and read == len(filled) + unpacked
    is_other = all(isinstance(key, ast.Constant) and key.value not in keys for key in known)
    return not (is_whole and is_other and not any(isinstance(n, ast.arg) and n.arg == name for n in nodes))


def _numbers_of(node: ast.AST, possible: Collection[str]) -> dict[str, ast.Constant]:
    """Key -> number of a dict that is assigned, if it holds nothing but at least two of the possible keys."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict) or len(node.value.keys) < 2:
        return {}
    pairs = list(zip(node.value.keys, node.value.values, strict=True))
    numbers = {k.value: v for k, v in pairs if isinstance(k, ast.Constant) and _number(v) is not None}
    known = {str(k): v for k, v in numbers.items() if k in possible and isinstance(v, ast.Constant)}
    return known if len(known) == len(pairs) else {}


def _tell_apart(values: LaunchValues, kernel: TritonKernel) -> None:
    """Where one number of the launcher is given under several names, as ``BLOCK_M=BLOCK, BLOCK_N=BLOCK``: the number
    stays with the name by which programs are counted, since the grid is computed of it, and the others get values of
    their own. Where that name is not clear they stay one."""
    for place in {id(p): p for (p,) in values.assigned.values()}.values():
        names = [n for n, (p,) in values.assigned.items() if p is place]
        counting = [n for n in names if n in kernel.counts_programs]
        if len(names) == 1:
            continue
        kept = counting[0] if len(counting) == 1 else names[0]
        for name in (n for n in names if n != kept):
            del values.assigned[name]
            if len(counting) != 1:
                del values.given[name]
        if len(counting) != 1:
            values.remarks.append(f"{', '.join(names)} are one number of its launcher; {kept} stands for all of them")


def propose(kernel: TritonKernel, launches: Sequence[LaunchValues]) -> None:
    """Give a kernel parameters from its launches: what all of them say. Each has the author's number as the default,
    with some around it; 0 stands for what the author computes."""
    first, *others = launches
    numbers = {name: number for name, number in first.given.items() if all(name in other.given for other in others)}
    kernel.remarks += dict.fromkeys(remark for launch in launches for remark in launch.remarks)
    options = [n for n in ("num_warps", "num_stages") if not any(n in launch.fixed for launch in launches)]
    for option in options:
        numbers.setdefault(option, int(LAUNCH_OPTIONS[option] or 0))
        computed = [launch.computed[option] for launch in launches if option in launch.computed]
        if computed:
            numbers[option] = 0
            kernel.computed[option] = computed[0]
    kernel.is_proposed = True
    rows = [numbers, *(numbers | {n: v for n, v in other.items() if n in numbers} for other in first.others)]
    kernel.tunable = {n: tuple(sorted(set().union(*(_around(n, row[n]) for row in rows)))) for n in numbers}
    kernel.configs = [
        TritonConfig({n: v for n, v in row.items() if n not in options}, **{n: row[n] for n in options}) for row in rows
    ]


def _around(name: str, number: int) -> set[int]:
    if name in ("num_warps", "num_stages"):
        most = {_MOST_WARPS} if name == "num_warps" and number == 0 else set()  # what is computed may reach it
        return {number, *(_WARPS if name == "num_warps" else _STAGES), *most}
    is_power = number > 0 and number & (number - 1) == 0
    return {number // 2, number, number * 2} - {0} if is_power else {number}


def _number(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _origin_of(file: SourceFile, value: ast.expr, function: ast.FunctionDef | None) -> str:
    """The text of a value; the statement that gives it, if it is a name of its function."""
    origin: ast.AST = value
    for node in ast.walk(function) if function is not None and isinstance(value, ast.Name) else ():
        if isinstance(node, ast.Assign) and ast.unparse(value) in {ast.unparse(n) for n in _targets(node)}:
            origin = node
    return " ".join(file.snippet(origin).split())


def _targets(node: ast.Assign) -> list[ast.expr]:
    return [n for t in node.targets for n in (t.elts if isinstance(t, ast.Tuple) else [t])]


def _function_of(file: SourceFile, launch: KernelLaunch) -> ast.FunctionDef | None:
    """The innermost function around a launch."""
    around = [
        n
        for n in ast.walk(file.tree)
        if isinstance(n, ast.FunctionDef) and n.lineno <= launch.call.lineno <= (n.end_lineno or 0)
    ]
    return max(around, key=lambda n: n.lineno, default=None)


def _assigned_number(function: ast.FunctionDef, value: ast.expr) -> ast.Constant | None:
    """The number that a function gives to a name, if it does so once and gives it nothing else."""
    if not isinstance(value, ast.Name):
        return None
    bound = [n for n in ast.walk(function) if isinstance(n, ast.Name | ast.arg) and _binds(n) == value.id]
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and node.targets == bound and isinstance(node.value, ast.Constant):
            return node.value if _number(node.value) is not None else None
    return None


def _binds(node: ast.Name | ast.arg) -> str | None:
    if isinstance(node, ast.arg):
        return node.arg
    return node.id if isinstance(node.ctx, ast.Store) else None


def _is_by_name(grid: ast.expr, function: ast.FunctionDef | None) -> bool:
    """Whether a grid takes its numbers from the kernel's arguments, as ``lambda META: ...`` does."""
    if isinstance(grid, ast.Lambda):
        return True
    if not isinstance(grid, ast.Name) or function is None:
        return not any(isinstance(n, ast.Constant) and type(n.value) is int and n.value > 1 for n in ast.walk(grid))
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef) and node.name == grid.id:
            return True
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == grid.id:
            return _is_by_name(node.value, None)
    return False
