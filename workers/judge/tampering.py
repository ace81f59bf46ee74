"""Notices a candidate that replaced parts of the evaluator in its own process."""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

_WATCHED = {
    "builtins": "abs all any float getattr int isinstance len max min sum type zip",
    "torch": "allclose equal load ones save stack zeros",
    "torch.testing": "assert_close",
    "torch.cuda": "synchronize Event Stream current_stream stream _sleep CUDAGraph",
    "flashinfer_bench.bench.utils": "gen_inputs",
    "flashinfer_bench.bench.evaluators.utils": "allocate_outputs normalize_result",
}
"""Names outside of the evaluator that it, or stock flashinfer-bench after it, uses; besides those below."""

_WATCHED_WHOLLY = (
    "time", "random.Random", "random.SystemRandom", "torch.cuda.Event", "torch.cuda.Stream", "torch.cuda.CUDAGraph",
)  # fmt: skip
"""Modules and classes all of whose functions are watched."""

_OPERATORS = (
    "add and eq float ge getitem gt int invert le len lt mul ne neg or rmul rsub rtruediv setitem sub truediv xor"
)
"""Special methods of tensors, by which comparisons compute."""

_OURS = (
    "workers.judge", "workers.devices", "workers.fib.adapter", "workers.records", "workers.sandbox",
    "search_spaces.targets",
)  # fmt: skip
"""Modules of the evaluator, and packages of them. All of their names are watched, those of their classes, what their
functions do, and their tables."""

_ALSO_LOADED = (
    "workers.judge.outputs.sampling", "workers.judge.outputs.observed", "workers.devices.cpu", "workers.devices.cuda",
)  # fmt: skip
"""Modules of the evaluator that are otherwise imported when they are needed."""

_BY_OTHERS = ("manual_seed",)
"""Names that libraries replace while they are imported: torch._dynamo wraps it."""

_PARTS = ("__code__", "__defaults__", "__kwdefaults__")
"""What a function does."""

Look = Callable[[], str | None]
"""Gives the name of something that was replaced, None if nothing was."""


def watch() -> Look:
    """Remember what the evaluator is made of now. It is no defence against native code, nor against a search through
    memory; but nothing that can be reached by a name changes what the look sees, not even its own module.

    From now on nobody can add an audit hook to this process. They cannot be removed or seen, and run at known moments
    of the evaluator's work, such as between a look and the verdict.
    """
    places: dict[int, tuple[Mapping[str, Any], list[str], list[str]]] = {}
    functions: list[tuple[str, FunctionType]] = []

    def remember(place: Mapping[str, Any], name: str, label: str) -> None:
        _, labels, names = places.setdefault(id(place), (place, [], []))
        labels.append(label)
        names.append(name)

    used = {"__" + name + "__" for name in _OPERATORS.split()}
    for label, place in _own_places():
        for name, value in list(place.items()):
            if name not in ("__dict__", "__weakref__", "__builtins__"):
                remember(place, name, f"{label}.{name}")
                functions += [(f"{label}.{name}", function) for function in _functions(value)]
    for _, function in functions:
        used |= _names(function.__code__)
    wanted = {owner: set(names.split()) for owner, names in _WATCHED.items()}
    for owner in ("torch", "torch.Tensor"):
        found = _resolve(owner)
        wanted[owner] = wanted.get(owner, set()) | {name for name in used if callable(getattr(found, name, 0))}
    for owner in _WATCHED_WHOLLY:
        wanted[owner] = {name for name, value in vars(_resolve(owner)).items() if callable(value)}
    for owner, names in wanted.items():
        found = _resolve(owner)
        mro = [vars(kind) for kind in found.__mro__] if isinstance(found, type) else [vars(found)]
        for name in sorted(names.difference(_BY_OTHERS)):
            for place in mro:  # the place in which it is found, and those in which another one would hide it
                remember(place, name, f"{owner}.{name}")
                if name in place:
                    break
    kept: list[Any] = [(place.get, labels, names) for place, labels, names in places.values()]
    changed: list[str] = []
    if not _hears(functions, changed):
        labels, found = [label for label, _ in functions], [function for _, function in functions]
        kept += [(operator.attrgetter(part), labels, found) for part in _PARTS]
    kept = [(read, labels, of, [read(one) for one in of]) for read, labels, of in kept]
    return FunctionType(_look.__code__, {}, argdefs=(kept, changed, all, map, list, zip, operator.is_))


def _hears(functions: Sequence[tuple[str, FunctionType]], changed: list[str]) -> bool:
    """From now on, note functions whose parts are replaced, and keep other audit hooks out: Python drops a hook that an
    earlier one objects to, without a word. Reading the parts at every look instead would take most of its time.

    Returns:
        Whether it hears; not if this process has such a hook already.
    """

    def probe() -> None:
        pass

    known = {id(function): (label, function) for label, function in [*functions, ("probe", probe)]}
    sys.addaudithook(FunctionType(_hook.__code__, {}, argdefs=(known, changed, _PARTS, id, RuntimeError)))
    probe.__defaults__ = ()
    heard = bool(changed)
    changed.clear()
    return heard


def _hook(event: str, args: Any, known: Any, changed: Any, parts: Any, identity: Any, error: Any) -> None:
    """Copied, with all that it uses in its defaults, so that it uses no name."""
    if event == "sys.addaudithook":
        raise error
    if event in ("object.__setattr__", "object.__delattr__") and args[1] in parts and identity(args[0]) in known:
        changed.append(known[identity(args[0])][0])


def _look(kept: Any, changed: Any, all_of: Any, each: Any, as_list: Any, pairs: Any, same: Any) -> str | None:
    """The look. It is copied, with all that it uses in its defaults, so that it uses no name."""
    if changed:
        return changed[0]
    for read, labels, of, originals in kept:
        now = as_list(each(read, of))
        if not all_of(each(same, now, originals)):
            for label, a, b in pairs(labels, now, originals):
                if a is not b:
                    return label
    return None


def _own_places() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Namespaces of the evaluator: its modules, their classes and their tables."""
    for name in _ALSO_LOADED:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or not any(name == own or name.startswith(own + ".") for own in _OURS):
            continue
        yield name, vars(module)
        for key, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == name:
                yield f"{name}.{key}", vars(value)
            elif isinstance(value, dict) and key.isupper():
                yield f"{name}.{key}", value


def _functions(value: Any) -> list[FunctionType]:
    """The Python functions that a member of a module or class calls."""
    if isinstance(value, property):
        return [part for part in (value.fget, value.fset) if isinstance(part, FunctionType)]
    value = getattr(value, "__func__", value)
    found = [value, getattr(value, "__wrapped__", None)]
    return [
        part for part in found if isinstance(part, FunctionType) and part.__module__.startswith(("workers.", *_OURS))
    ]


def _names(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            found |= _names(part)
    return found


def _resolve(dotted: str) -> Any:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, attribute = dotted.rpartition(".")
        return getattr(importlib.import_module(module), attribute)
