"""Which function of a kernel's files solves the definition, and the file that hands the definition's inputs to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tuner.errors import UsageError
from tuner.init.source.source_file import TODO, SourceFile
from tuner.init.triton_kernels import find_launches


@dataclass(frozen=True)
class EntryFunction:
    """A function that launches the kernels.

    Attributes:
        expression: How it is called within its file, such as ``Norm.apply``.
        needed: Parameters without a default.
        optional: Parameters with one.
        returns: Number of values that it returns, None if that cannot be seen; 0 if it returns none.
        shapes: Parameter -> what its sizes are called, as in ``M, K = a.shape``.
    """

    file: str
    expression: str
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    returns: int | None = None
    shapes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    is_applied: bool = False
    """Whether it is the ``apply`` of an ``autograd.Function``."""

    @property
    def name(self) -> str:
        """The top-level name that it belongs to."""
        return self.expression.partition(".")[0]


_BACKWARD = re.compile(r"(?i)backward|bwd|_d[a-z]+_kernel|grad")


def find_entries(file: SourceFile) -> list[EntryFunction]:
    """Functions of a file that launch something, first those that no other such function calls; the likeliest first."""
    launching = {name for unit in file.units() for name in unit.binds if _launches(unit.nodes)}
    units = [u for u in file.units() if not any(_is_trial(node) for node in u.nodes)]
    grown = True
    while grown:
        more = {n for u in units if u.needs & launching for n in u.binds if _can_be_called(_with_branches(u.nodes))}
        grown = not more <= launching
        launching |= more
    called = {n for u in units if u.binds & launching for n in u.needs if not u.binds >= {n}}
    entries = [e for e in possible_entries(file) if e.name in launching]

    def unlikely(entry: EntryFunction) -> tuple[bool, ...]:
        name = entry.name
        return bool(_BACKWARD.search(name)), name in called, name != "run", name[0] == "_", "." in entry.expression

    return sorted(entries, key=unlikely)


def possible_entries(file: SourceFile) -> list[EntryFunction]:
    """All functions of a file that could be an entry, tests and benchmarks left out."""
    nodes = [node for unit in file.units() for node in _with_branches(unit.nodes)]
    return [e for node in nodes if not _is_trial(node) for e in _entries_of(file, node)]


def _with_branches(nodes: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a file's top level, those of its ``if`` and ``try`` included."""
    for node in nodes:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _with_branches([*node.body, *node.orelse])


def _launches(nodes: Sequence[ast.stmt]) -> bool:
    trial = SourceFile("", "")
    trial.__dict__["tree"] = ast.Module(list(nodes), [])
    return any(True for _ in find_launches(trial))


def _can_be_called(nodes: Iterable[ast.stmt]) -> bool:
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) or _applied_class(n) for n in nodes)


def _is_trial(node: ast.stmt) -> bool:
    """Whether it is a test or a benchmark, or a module of a network."""
    if isinstance(node, ast.FunctionDef):
        decorators = " ".join(ast.unparse(d) for d in node.decorator_list)
        return (
            bool(re.match(r"_?(test|bench|main\b|unit_test|plot|validate|profile|show)", node.name))
            or "perf_report" in decorators
        )
    return isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(b) for b in node.bases)


def _applied_class(node: ast.stmt) -> str | None:
    """The class of ``NAME = CLASS.apply``."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "apply":
        return node.value.value.id if isinstance(node.value.value, ast.Name) else None
    return None


def _entries_of(file: SourceFile, node: ast.stmt) -> list[EntryFunction]:
    if isinstance(node, ast.FunctionDef) and not any("jit" in ast.unparse(d) for d in node.decorator_list):
        return [_entry(file, node.name, node, 0)]
    forward = None
    if isinstance(node, ast.ClassDef):
        forward = _forward(node)
        return [] if forward is None else [_entry(file, f"{node.name}.apply", forward, _context(forward))]
    applied = _applied_class(node)
    for other in file.tree.body:
        if applied and isinstance(other, ast.ClassDef) and other.name == applied:
            forward = _forward(other)
    if forward is None or not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return []
    return [_entry(file, node.targets[0].id, forward, _context(forward))]


def _forward(node: ast.ClassDef) -> ast.FunctionDef | None:
    if not any(ast.unparse(b).endswith("Function") for b in node.bases):
        return None
    return next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "forward"), None)


def _context(forward: ast.FunctionDef) -> int:
    """How many parameters of a ``forward`` come before its inputs: ``ctx``, and the class of a class method."""
    return 2 if any(ast.unparse(d) == "classmethod" for d in forward.decorator_list) else 1


def _entry(file: SourceFile, expression: str, function: ast.FunctionDef, skipped: int) -> EntryFunction:
    signature = function.args
    names = [a.arg for a in (*signature.posonlyargs, *signature.args)][skipped:]
    first_optional = len(names) - len(signature.defaults)
    optional = tuple(names[first_optional:]) + tuple(a.arg for a in signature.kwonlyargs)
    shapes = {**_shapes_where_launched(file), **_shapes(function)}
    return EntryFunction(
        file.path, expression, tuple(names[:first_optional]), optional, _returned(function), shapes, skipped > 0
    )


def _shapes(function: ast.FunctionDef) -> dict[str, tuple[str, ...]]:
    """Parameter -> names of its sizes, ``_`` for one without: of ``M, K = a.shape`` and of ``N = b.shape[1]``."""
    found: dict[str, tuple[str, ...]] = {}
    single: dict[str, dict[int, str]] = {}
    for target, value in _assigned(function):
        if isinstance(target, ast.Tuple):
            names = tuple(e.id for e in target.elts if isinstance(e, ast.Name))
            match = re.fullmatch(r"(\w+)\.(shape|size\(\))", ast.unparse(value))
            if match is not None and len(names) == len(target.elts):
                found[match[1]] = names
        elif isinstance(target, ast.Name):
            match = re.fullmatch(r"(\w+)\.(?:shape\[(-?[012])\]|size\((-?[012])\))", ast.unparse(value))
            if match is not None:
                place = int(match[2] or match[3])
                single.setdefault(match[1], {})[place % 2 if place < 0 else place] = target.id
    for name, places in single.items():
        found.setdefault(name, tuple(places.get(i, "_") for i in range(max(2, *(p + 1 for p in places)))))
    return found


def _assigned(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets and values of a function's assignments; those of ``M, K = a.shape[0], a.shape[1]`` one by one."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            yield from zip(target.elts, value.elts, strict=True)
        else:
            yield target, value


def _shapes_where_launched(file: SourceFile) -> dict[str, tuple[str, ...]]:
    """The same of the functions that launch. What an entry hands on often has the same name there."""
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Subscript) for n in ast.walk(node)
        ):
            own = {a.arg for a in (*node.args.posonlyargs, *node.args.args)}
            found |= {name: shape for name, shape in _shapes(node).items() if name in own}
    return found


def entry_of(file: SourceFile, function: ast.FunctionDef) -> EntryFunction:
    """The entry that a function is."""
    return _entry(file, function.name, function, 0)


def _returned(function: ast.FunctionDef) -> int | None:
    inner = {
        id(n)
        for f in ast.walk(function)
        if f is not function and isinstance(f, ast.FunctionDef | ast.Lambda)
        for n in ast.walk(f)
    }
    values = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and id(n) not in inner]
    counts = {0 if v is None else len(v.elts) if isinstance(v, ast.Tuple) else 1 for v in values} or {0}
    return counts.pop() if len(counts) == 1 else None


@dataclass
class EntryFile:
    """The file that stands between the definition and the author's function.

    Attributes:
        text: Its text.
        destination_passing: Whether outputs are its last arguments.
    """

    text: str
    destination_passing: bool


def choose(entries: Sequence[EntryFunction], wanted: str | None, definition: Mapping[str, Any] | None) -> EntryFunction:
    """The entry that is asked for, or that fits the definition best.

    Raises:
        UsageError: There is none, or none of this name.
    """
    if wanted is not None:
        for entry in entries:
            if wanted in (entry.expression, entry.name):
                return entry
        raise UsageError(
            f"--entry {wanted!r} launches no kernel; those are {', '.join(e.expression for e in entries) or 'none'}"
        )
    if not entries:
        raise UsageError(
            "no function launches a Triton kernel (KERNEL[grid](...)); name one with --entry if it is elsewhere"
        )
    if definition is None:
        return entries[0]
    inputs, outputs = len(definition["inputs"]), len(definition["outputs"])

    op = str(definition.get("op_type", "")).replace("_", "")

    def misfit(entry: EntryFunction) -> tuple[bool, int, int, bool]:
        taken = {name.lower() for name in (*entry.needed, *entry.optional)}
        wrong = min(max(0, len(entry.needed) - n) + max(0, n - len(taken)) for n in (inputs, inputs + outputs))
        unnamed = sum(name.lower() not in taken for name in definition["inputs"])
        is_other = op not in entry.name.lower().replace("_", "")
        return bool(_BACKWARD.search(entry.name)), wrong, unnamed, is_other

    return min(entries, key=misfit)


def entry_file(
    entry: EntryFunction,
    modules: Mapping[str, str],
    definition: Mapping[str, Any] | None,
    size_axis: str | None,
    passes_outputs: bool | None = None,
) -> EntryFile:
    """Write the file that calls the entry.

    Args:
        entry: What is called.
        modules: Module, relative to the file, of each file that launches -> its name for the config.
        definition: What is solved, None if that is not known.
        size_axis: The variable axis by which the config is chosen.
        passes_outputs: Whether the entry takes the definition's inputs in order, and outputs behind them; None if it
            was not written for a definition.
    """
    place = PurePosixPath(entry.file)
    module = place.stem
    lines = [
        f'"""Hands the definition\'s inputs to {entry.expression}, after choosing the config for their size."""',
        "",
        *sorted({f"from {_package(m)} import {PurePosixPath(m).stem}" for m in (entry.file, *modules)}),
        "from .config import select",
        "",
        "",
    ]
    arguments, call, fills, outputs, remarks = _call(entry, definition, passes_outputs)
    size = _size(definition, size_axis)
    what = (
        "" if definition else f"  # {TODO}: the definition's inputs in its order (then its outputs, if they are filled)"
    )
    lines.append(f"def run({', '.join(arguments)}):{what}")
    what = "" if definition else f"  # {TODO}: the size by which the config is chosen"
    lines.append(f"    config = select({size or 0}){what}")
    lines += [f"    {PurePosixPath(path).stem}.{name} = config" for path, name in modules.items()]
    lines += [f"    # {TODO}: {remark}" for remark in remarks]
    result = f"{module}.{entry.expression}({', '.join(call)})"
    if fills:
        lines.append(f"    {result}")
    elif outputs and entry.returns is not None and entry.returns > outputs:
        lines.append(f"    return {result}{'[0]' if outputs == 1 else f'[:{outputs}]'}")
    else:
        lines.append(f"    return {result}")
    return EntryFile("\n".join(lines) + "\n", fills)


def _package(path: str) -> str:
    return "." + ".".join(PurePosixPath(path).parts[:-1])


def _size(definition: Mapping[str, Any] | None, axis: str | None) -> str | None:
    if definition is None or axis is None:
        return None
    for name, spec in definition["inputs"].items():
        shape = spec.get("shape") or []
        if axis in shape:
            return f"{name}.shape[{shape.index(axis)}]"
    return None


def _call(
    entry: EntryFunction, definition: Mapping[str, Any] | None, passes_outputs: bool | None
) -> tuple[list[str], list[str], bool, int, list[str]]:
    """Arguments of ``run``, arguments of the call, whether outputs are passed, their number, remarks."""
    if definition is None:
        names = list(entry.needed if passes_outputs is None else (*entry.needed, *entry.optional))
        return names, names, entry.returns == 0 if passes_outputs is None else passes_outputs, 0, []
    if passes_outputs is not None:
        names = [*definition["inputs"], *(definition["outputs"] if passes_outputs else ())]
        return names, names, passes_outputs, 0, []
    inputs, outputs = list(definition["inputs"]), list(definition["outputs"])
    both = (*entry.needed, *entry.optional)
    fills = entry.returns == 0 or (entry.returns is None and len(entry.needed) == len(inputs) + len(outputs))
    given = [*inputs, *outputs] if fills else inputs
    by_name = {name.lower(): name for name in given}
    remarks: list[str] = []
    pairs = {name: by_name[name.lower()] for name in both if name.lower() in by_name}
    rest = [n for n in given if n not in pairs.values()]
    in_order = dict(zip([n for n in entry.needed if n not in pairs], rest, strict=False))
    if in_order:
        listed = ", ".join(f"{name}={value}" for name, value in in_order.items())
        remarks.append(f"taken in order: {listed}; are shapes and layouts what {entry.expression} wants?")
    pairs |= in_order
    left = rest[len(in_order) :]
    for name in entry.needed:
        if name not in pairs:
            pairs[name], why = _value_for(definition, name)
            remarks.append(f"{name} is no input of the definition{why}")
    # A default of the author's need not be the definition's, as with eps.
    known = {n: _from_reference(definition, n) for n in entry.optional if n not in pairs}
    pairs |= {n: value for n, value in known.items() if value is not None}
    for name in (n for n in entry.optional if n not in pairs and "causal" in n.lower()):
        pairs[name], why = _value_for(definition, name)
        remarks.append(f"{name} is no input of the definition{why}")
    pairs = {n: v if fills else _as_taken(entry, definition, n, v) for n, v in pairs.items()}
    call = [pairs.pop(name) for name in entry.needed]
    if entry.is_applied:  # which takes no names
        left += [v for n, v in pairs.items() if n not in entry.optional[: len(pairs)] and v in given]
        call += [pairs[n] for n in entry.optional[: len(pairs)] if n in pairs]
    else:
        call += [f"{name}={value}" for name, value in pairs.items()]
    if entry.returns and not fills and entry.returns < len(outputs):
        remarks.append(
            f"{entry.expression} returns {entry.returns} value{'s' if entry.returns > 1 else ''}, as it seems; the "
            f"definition has the outputs {', '.join(outputs)}"
        )
    if left:
        remarks.append(f"{entry.expression} has no parameter for {', '.join(left)}")
    return given, call, fills, len(outputs), remarks


def _as_taken(entry: EntryFunction, definition: Mapping[str, Any], parameter: str, argument: str) -> str:
    """An input as the entry takes it: transposed, if its sizes have the definition's names in the other order."""
    named = tuple(n.lower() for n in entry.shapes.get(parameter, ()))
    shape = tuple(str(n).lower() for n in definition["inputs"].get(argument, {}).get("shape") or ())
    if len(shape) != 2 or len(named) != 2:
        return argument
    straight, turned = (
        all(n == "_" or n == s for n, s in zip(named, order, strict=True)) for order in (shape, shape[::-1])
    )
    return f"{argument}.t()" if turned and not straight else argument


def _from_reference(definition: Mapping[str, Any], name: str) -> str | None:
    """The constant that a definition's reference gives to a name; for an epsilon, the only small number that it has."""
    tree = ast.parse(str(definition.get("reference", "")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id.lower() == name.lower():
                return repr(node.value.value)
    numbers = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, float)}
    small = [number for number in numbers if 0 < number <= 1e-3]
    return repr(small[0]) if "eps" in name.lower() and len(small) == 1 else None


def _value_for(definition: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A value for a parameter that is no input: the reference's, or a usual one; and where it is from."""
    reference = str(definition.get("reference", ""))
    known = _from_reference(definition, name)
    if known is not None:
        return known, f"; {known} is its reference's"
    if "causal" in name.lower():
        value = str("causal" in str(definition["name"]) or "tril" in reference)
        return value, f"; {value} is a guess"
    if name.lower().endswith("scale"):
        value = f"{next(iter(definition['inputs']))}.shape[-1] ** -0.5"
        return value, f"; {value} is a guess"
    return "None", "; None stands in its place"
