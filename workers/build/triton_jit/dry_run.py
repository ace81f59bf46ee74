"""Runs a Solution's host code on a builder, so that every Triton kernel that it launches is compiled for the target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.targets import Target
from workers.build import resource_usage
from workers.errors import CompileError, RejectedError
from workers.fib.dataset import Document

FOLDER = "triton"
"""Folder in a package's ``artifacts/`` that holds what Triton compiled."""

_MOST_WORKLOADS = 6
_SHARE_OF_TIME = 0.5
"""Share of the build's deadline after which no further workload is begun."""

_RANDOM_BYTES = 1 << 20
"""Inputs up to this size get values; larger ones stay memory that nobody touches."""

_CERTAIN = ("CompilationError", "UnsupportedLanguageConstruct", "CompileTimeAssertionFailure", "PTXASError")


_COMPILERS = ("triton", "backends")
"""Where Triton's back ends lie; a pass of theirs that fails raises RuntimeError."""


@dataclass
class DryRun:
    """What came of it: static figures, and a remark if the host code did not get to its end."""

    figures: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


def dry_run(
    load: Callable[[], Callable[..., Any]],
    definition: Document,
    workloads: Sequence[Document],
    target: Target,
    cache: Path,
    deadline_s: float,
    destination_passing: bool,
) -> DryRun:
    """Load a Solution and call it on inputs of the workloads' shapes, without a GPU.

    Args:
        load: Imports it and gives its entry point.
        definition: The definition that it solves.
        workloads: Documents of workloads, as :func:`told_apart` picks them.
        target: What kernels are compiled for.
        cache: Folder for what Triton compiles.
        deadline_s: Seconds that the build may take.
        destination_passing: Whether outputs are the last arguments.

    Raises:
        RejectedError: A kernel needs more than the target has.
        CompileError: A kernel does not compile, and it does not depend on data that only a GPU would compute.
    """
    from triton import knobs

    from workers.build.triton_jit import stand_in

    began = time.monotonic()
    knobs.cache.dir = str(cache)
    knobs.compilation.store_binary_only = True
    found = DryRun()
    with stand_in.installed(target) as mode:
        function = load()
        for workload in workloads:
            if time.monotonic() - began > _SHARE_OF_TIME * deadline_s:
                found.remark = f"not all sizes were compiled within {_SHARE_OF_TIME * deadline_s:g} s"
                break
            arguments = _arguments(definition, workload, destination_passing)
            try:
                with mode:
                    function(*arguments)
            except Exception as error:
                found.remark = _what_stopped(error, target, cache, mode.data_was_read)
                break
    found.figures = figures_of(cache)
    if not found.figures and not found.remark:
        ran = f"its host code launched none for {len(workloads)} workloads" if workloads else "there are no workloads"
        found.remark = f"no Triton kernel was compiled: {ran}; its first call does it"
    return found


_OWN = (AssertionError, AttributeError, IndexError, KeyError, NameError, TypeError)
"""What host code raises by its own mistakes, such as ``None`` for a tensor."""


def _what_stopped(error: Exception, target: Target, cache: Path, data_was_read: bool) -> str:
    """What an exception of the host code means: a remark, unless it is an answer about the target."""
    name = type(error).__name__
    text = f"{name}: {_short(str(error))}"
    if name == "OutOfResources":
        raise RejectedError(f"a kernel cannot be launched on {target.name}: {text}", figures_of(cache)) from error
    if (name in _CERTAIN or _raised_in(error) == _COMPILERS) and not data_was_read:
        raise CompileError(f"a kernel does not compile for {target.name}: {text}") from error
    hint = ", which does not look like a missing GPU" if isinstance(error, _OWN) and not data_was_read else ""
    what = f"its host code stopped without a GPU ({text}){hint}"
    return f"{what}; what it had not launched is compiled by its first call"


def _raised_in(error: BaseException) -> tuple[str, ...]:
    """The last two folders of the file that raised an exception."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return () if frame is None else Path(frame.tb_frame.f_code.co_filename).parts[-4:-2]


def told_apart(workloads: Sequence[Document]) -> list[Document]:
    """Workloads whose sizes Triton may specialise on in another way: 1, a multiple of 16, another number; with the
    smallest and the largest, few in all."""

    def size(workload: Document) -> tuple[int, ...]:
        return tuple(n for _, n in sorted(workload["axes"].items()))

    def kind(workload: Document) -> tuple[str, ...]:
        return tuple("1" if n == 1 else "16" if n % 16 == 0 else "n" for n in size(workload))

    ordered = sorted(workloads, key=size)
    chosen = {kind(w): w for w in reversed(ordered)}
    picked = {size(w): w for w in (*ordered[:1], *ordered[-1:], *chosen.values())}
    return sorted(list(picked.values())[:_MOST_WORKLOADS], key=size)


def figures_of(cache: Path) -> dict[str, Any]:
    """Static figures of all kernels below a folder of Triton's, and of each by itself."""
    kernels: list[dict[str, Any]] = []
    for path in sorted(cache.glob("*/*.json")):
        binary = path.with_suffix(".cubin")
        if path.name.startswith("__grp__") or not binary.exists():
            continue
        metadata = json.loads(path.read_text(encoding="utf-8"))
        read = next(iter(resource_usage.kernels_in(binary) or ()), {})
        # What Triton asks for is known at the launch alone; the file has none of it.
        kernels.append({**read, "name": metadata["name"], "smem_bytes": metadata["shared"],
                        "num_warps": metadata["num_warps"]})  # fmt: skip
    return resource_usage.figures(kernels)


def _arguments(definition: Document, workload: Document, destination_passing: bool) -> list[Any]:
    """Inputs of the workload's shapes, and outputs if they are arguments."""
    import torch

    sizes = {name: axis["value"] for name, axis in definition["axes"].items() if axis["type"] == "const"}
    sizes |= workload["axes"]

    def tensor(spec: Mapping[str, Any]) -> Any:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec["shape"]]
        made = torch.empty(shape, dtype=getattr(torch, spec["dtype"]))
        if made.numel() * made.element_size() > _RANDOM_BYTES:
            return made
        return made.normal_().abs_() if made.dtype in (torch.float32, torch.float16, torch.bfloat16) else made.zero_()

    def value(name: str, spec: Mapping[str, Any]) -> Any:
        given = workload["inputs"].get(name)
        if given is None and spec.get("optional"):
            return None
        if spec.get("shape") is None:
            return (given or {}).get("value", 1)
        return tensor(spec)

    arguments = [value(name, spec) for name, spec in definition["inputs"].items()]
    if destination_passing:
        arguments += [tensor(spec) for spec in definition["outputs"].values()]
    return arguments


def _short(text: str) -> str:
    """An exception's text in one line. Compilers quote whole files, with the place before and the reason behind."""
    line = " ".join(text.split())
    return line if len(line) <= 600 else f"{line[:200]} ... {line[-390:]}"
