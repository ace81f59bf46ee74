"""``tuner init``: write the space, compile some of its configs, and say what is left for the author."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search_spaces.parameters import SpaceError
from search_spaces.targets import TARGETS, is_cuda, target_named
from tuner import errors
from tuner.commands.compile import CompileResult, compile_sample
from tuner.errors import UsageError
from tuner.init.make_space import NewSpace, make_space
from tuner.init.origin import read_origin
from tuner.init.space_text import NO_DEFINITION
from tuner.progress import Steps
from tuner.settings import SweepSettings
from tuner.sweeps.setup import open_dataset
from workers.errors import DatasetError

_GPU_TARGETS = tuple(t.name for t in TARGETS if is_cuda(t.name))


@dataclass(frozen=True)
class InitResult:
    """A space that was written, and what compiling it showed.

    Attributes:
        compiled: None if nothing was compiled; ``why_not`` says why.
        dataset: The dataset that was named, None for the default.
    """

    folder: Path
    space: NewSpace
    target: str
    compiled: CompileResult | None = None
    why_not: str = ""
    dataset: Path | None = None

    @property
    def _words(self) -> str:
        """What the next command is given."""
        given = {"space": self.folder, "definition": self.space.definition, "dataset": self.dataset}
        flags = [f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None]
        return f"{' '.join(flags)} --target {self.target}"

    @property
    def exit_code(self) -> int:
        """3 if configs were compiled and none could be."""
        failed = self.compiled is not None and not self.compiled.built
        return errors.EXIT_NOTHING_FOUND if failed else errors.EXIT_OK

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        kernels = [
            {
                "name": k.name,
                "file": k.file,
                "configs": len(k.configs),
                "key": list(k.key),
                "parameters": {name: list(values) for name, values in k.tunable.items()},
                "why_unread": k.why_unread,
            }
            for k in self.space.kernels
        ]
        return {
            "space": str(self.folder),
            "definition": self.space.definition,
            "target": self.target,
            "files": sorted(self.space.files),
            "kernels": kernels,
            "parameters": {name: list(values) for name, values in self.space.parameters.items()},
            "todo": [{"file": t.file, "line": t.line, "what": t.what} for t in self.space.todo],
            "remarks": self.space.remarks,
            "left_out": [{"file": f, "lines": [a, b], "what": what} for f, a, b, what in self.space.left_out],
            "compiled": None if self.compiled is None else self.compiled.document(),
            "why_not_compiled": self.why_not,
        }

    def lines(self) -> Iterator[str]:
        """The result as text."""
        space = self.space
        yield f"{self.folder}: {', '.join(sorted(space.files))}"
        for kernel in space.kernels:
            what = f"{len(kernel.configs)} configs" if kernel.tunable else f"configs not read: {kernel.why_unread}"
            yield f"{kernel.name}: {what}; {', '.join(kernel.tunable) or 'no parameters'}"
        if space.left_out:
            lines = sum(last - first + 1 for _, first, last, _ in space.left_out)
            yield f"left out: {lines} lines that the launcher does not need"
        yield from space.remarks
        if space.todo:
            yield f"left for you: {len(space.todo)}"
            for todo in space.todo:
                yield f"  {todo.file}:{todo.line}: {todo.what}"
        result = self.compiled
        if result is None:
            yield f"not compiled: {self.why_not}"
            yield f"next: tuner compile {self._words}"
            return
        idle = result.built and not any(v["figures"].get("kernels") for v in result.variants)
        what = "; none of their kernels was compiled" if idle else ""
        share = f"{result.built} of {len(result.variants)}"
        yield f"{share} configs built for {result.target} in {result.wall_s:.1f} s{what}"
        for why in dict.fromkeys(f"{v['status']}: {v['reason']}" for v in result.variants if v["reason"]):
            yield f"  {why}"
        for why in dict.fromkeys(v["figures"].get("remark") for v in result.variants):
            if why is not None:
                yield f"  BUILT, but {why}"
        if result.built:
            yield f"next, where that GPU is: tuner sweep {self._words}"


def init_space(
    settings: SweepSettings,
    path: Path,
    out: Path | None,
    entry: str | None,
    widen: bool,
    sample: int,
    view: Steps | None = None,
) -> InitResult:
    """Make a space of a kernel and compile some of its configs.

    Args:
        settings: Settings with definition, dataset and target.
        path: A Triton file, a Solution's JSON, or a contest's folder.
        out: Folder of the space; None for one named after the kernel, in the current folder.
        entry: Function that launches the kernels; None to find it.
        widen: Whether configs that are no product of values become that product.
        sample: Number of configs that are compiled; 0 for none.
        view: Shows the progress of compiling.

    Raises:
        UsageError, DatasetError: The kernel, the definition or the folder is not usable.
    """
    target = settings.target or "sm_90a"
    if not is_cuda(target):
        raise UsageError(f"--target is {target}; Triton kernels are for {', '.join(_GPU_TARGETS)}")
    origin = read_origin(path)
    folder = out or Path(origin.name)
    definition, workloads, why_not = _definition(settings, origin.definition)
    targets = (target, *(t for t in _GPU_TARGETS if t != target))
    space = make_space(path, target_named(target), targets, definition, entry, widen, workloads)
    space.write(folder)
    result = InitResult(folder, space, target, why_not=why_not, dataset=settings.dataset)
    if not sample:
        return replace(result, why_not="--sample is 0")
    if definition is None:
        return result
    chosen = settings.model_copy(update={"space": str(folder), "target": target, "definition": definition["name"]})
    try:
        return replace(result, compiled=compile_sample(chosen, sample, None, view))
    except SpaceError as error:
        return replace(result, why_not=str(error))


def _definition(
    settings: SweepSettings, named: str | None
) -> tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]], str]:
    """The definition that is asked for, or that the kernel's author names, and its workloads; else None, and why."""
    name = settings.definition or named
    if name is None:
        return (
            None,
            (),
            f"no definition is named (--definition, --dataset); space.yaml has {NO_DEFINITION} in its place",
        )
    dataset = open_dataset(settings.dataset)
    try:
        return dataset.definition(name), dataset.workloads(name), ""
    except DatasetError:
        if settings.definition is not None:
            raise
        return None, (), f"definition {name} is not in the dataset; name its folder with --dataset"
