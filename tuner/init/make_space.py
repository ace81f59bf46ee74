"""Makes a directory space of a stranger's kernel: reads it, edits its files, writes the folder."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.space import HEADER_LANGUAGES
from search_spaces.targets import Target
from tuner.errors import UsageError
from tuner.init import entry_point, rewrite
from tuner.init.author_configs import AuthorChoices, choices_of
from tuner.init.entry_point import EntryFile, EntryFunction
from tuner.init.launch_values import LaunchValues, propose, read_launch
from tuner.init.origin import Origin, read_origin
from tuner.init.source.known_answers import answers_for
from tuner.init.source.source_file import TODO, SourceFile
from tuner.init.source.source_tree import SourceTree, free_name, is_installed
from tuner.init.source.static_values import StaticFile
from tuner.init.space_text import SpaceParts, space_text
from tuner.init.triton_kernels import KernelLaunch, TritonKernel, find_kernels, find_launches, read_configs

NO_CHOICES = AuthorChoices({"choice": (0,)}, (), {"choice": 0}, (), {})
"""Stands where the author has to name parameters: a space needs one."""


@dataclass(frozen=True)
class Todo:
    """Something that the author has to decide."""

    file: str
    line: int
    what: str


@dataclass
class NewSpace:
    """A space that is not written yet.

    Attributes:
        files: Path -> text, ``space.yaml`` included.
        kernels: The kernels whose configs became parameters, and those whose configs could not be read.
        left_out: File, first line, last line and names of code that the launcher does not need.
    """

    name: str
    definition: str | None
    files: dict[str, str]
    kernels: list[TritonKernel]
    parameters: dict[str, tuple[Any, ...]]
    remarks: list[str] = field(default_factory=list)
    left_out: list[tuple[str, int, int, str]] = field(default_factory=list)

    @property
    def todo(self) -> list[Todo]:
        """What is marked in the files."""
        lines = ((path, n, line) for path, text in self.files.items() for n, line in enumerate(text.split("\n"), 1))
        return [Todo(path, n, line.partition(f"{TODO}: ")[2]) for path, n, line in lines if f"{TODO}: " in line]

    def write(self, folder: Path) -> None:
        """Write all files into a new folder.

        Raises:
            UsageError: The folder is there already and not empty, or cannot be written.
        """
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UsageError(f"{folder} is there already, and is not overwritten; choose another one with --out")
            for path, text in self.files.items():
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}") from error


def make_space(
    path: Path,
    target: Target,
    targets: tuple[str, ...],
    definition: Mapping[str, Any] | None = None,
    entry: str | None = None,
    widen: bool = False,
    workloads: Sequence[Mapping[str, Any]] = (),
) -> NewSpace:
    """Make a space of a kernel.

    Args:
        path: A Triton file, a Solution's JSON, or a contest's folder.
        target: For which the author's configs are listed.
        targets: What the space says.
        definition: What is to be solved, None if that is not known.
        entry: The function that launches the kernels, None to find it.
        widen: Whether configs that are no product of values become that product.
        workloads: The definition's, which show what axis varies most.

    Raises:
        UsageError: It cannot be made; the message says why.
    """
    origin = read_origin(path)
    if entry is not None and origin.entry is not None:
        raise UsageError(f"{path} says itself that its entry point is {origin.entry}; leave --entry out")
    if origin.language in HEADER_LANGUAGES:
        return _compiled_language(origin, targets, definition)
    return _Maker(origin, target, targets, definition, entry, widen, workloads).made()


class _Maker:
    def __init__(
        self,
        origin: Origin,
        target: Target,
        targets: tuple[str, ...],
        definition: Mapping[str, Any] | None,
        entry: str | None,
        widen: bool,
        workloads: Sequence[Mapping[str, Any]],
    ) -> None:
        self.widen = widen
        self.workloads = workloads
        self.origin = origin
        self.targets = targets
        self.definition = definition
        self.answers = answers_for(target)
        self.tree = SourceTree({p: t for p, t in origin.files.items() if p.endswith(".py")}, origin.disk)
        self.open_questions: list[str] = []
        self.remarks = list(origin.remarks)
        self._values: dict[int, LaunchValues] = {}
        """Identity of a launch that nothing tunes -> what it says."""
        self._static: dict[str, StaticFile | None] = {}
        for file in self.tree.files.values():
            _ = file.tree  # a mistake ends here, with its line
        if origin.disk is not None:
            (file,) = self.tree.files.values()
            for line in rewrite.drop_backward(file):
                self.remarks.append(f"{file.path}: the backward of line {line} is left out")
        self.entry = self._entry(entry)

    def _entry(self, wanted: str | None) -> EntryFunction:
        if self.origin.entry is None:
            (file,) = self.tree.files.values()
            entries = entry_point.find_entries(file)
            possible = entry_point.possible_entries(file)
            # Launches may be in helpers of other files.
            entries = entries or [e for e in possible if self._launches_elsewhere(e)]
            chosen = entry_point.choose(entries, wanted, self.definition)
            others = [e.expression for e in entries if e != chosen]
            if others and wanted is None:
                self.remarks.append(f"entry is {chosen.expression}; others (--entry): {', '.join(others)}")
            return chosen
        path, _, function = self.origin.entry.rpartition("::")
        for node in self.tree.files[path].tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                return entry_point.entry_of(self.tree.files[path], node)
        return EntryFunction(path, function, (), (), None)

    def _launches_elsewhere(self, entry: EntryFunction) -> bool:
        self.tree.reach(entry.file, entry.name)
        launches = [
            x for path in self.tree.kept for x in find_launches(self.tree.files[path]) if self._is_reached(path, x)
        ]
        self.tree.forget()
        return bool(launches)

    def made(self) -> NewSpace:
        """Make the space."""
        files = self.tree.files
        self.tree.reach(self.entry.file, self.entry.name)
        kernels = [k for path in list(self.tree.kept or files) for k in self._kernels_of(files[path])]
        if not kernels:
            kernels = [k for path in list(self.tree.kept or files) for k in self._proposed(files[path])]
        tuned = _by_name(kernels)
        choices = choices_of(list(tuned.values()), self.widen) if tuned else NO_CHOICES
        self.remarks += choices.remarks
        modules = self._edit_launches(tuned, choices.names)
        # Decorators are gone by now, and hooks are called: what is needed is found anew.
        self.tree.forget()
        self.tree.reach(self.entry.file, self.entry.name)
        for kernel in tuned.values():
            if kernel.hook:
                self.tree.reach(kernel.file, kernel.hook)
        self._note_missing()
        self.tree.rewrite_imports()
        size_axis = self._size_axis(list(tuned.values()))
        main = free_name("main", set(self.origin.files))
        written = self._entry_file(modules, size_axis)
        texts = {p: t for p, t in self.origin.files.items() if not p.endswith(".py")} | self.tree.texts()
        parts = SpaceParts(
            definition=self.definition["name"] if self.definition else self.origin.definition,
            targets=self.targets,
            entry_point=f"{main}::run",
            language="triton" if kernels else self.origin.language,
            choices=choices,
            dependencies=self.origin.dependencies or ("torch", "triton"),
            size_axis=size_axis,
            notes=[note for kernel in tuned.values() for note in _notes(kernel)],
            destination_passing=written.destination_passing,
            todo=[
                *self.open_questions,
                *([] if tuned else ["no configs could be read; name the values that are to be tuned"]),
            ],
        )
        text = space_text(parts, f"Made by tuner init of {self.origin.name}.")
        return NewSpace(
            self.origin.name,
            parts.definition,
            {"space.yaml": text, main: written.text, **texts},
            kernels,
            choices.values(),
            self.remarks,
            self.tree.left_out(),
        )

    def _kernels_of(self, file: SourceFile) -> list[TritonKernel]:
        """The kernels of a file that are needed, with what could be read of their configs."""
        kept = {u.first: u for u in self.tree.reached(file.path)}
        names = {name for unit in kept.values() for name in unit.binds}
        kernels = [k for k in find_kernels(file) if k.name in names and k.decorator is not None]
        for kernel in kernels:
            read_configs(kernel, file, self._static_of(file))
            if kernel.tunable:
                rewrite.drop_decorator(file, kernel)
            else:
                what = f"the configs of {kernel.name} could not be read: {kernel.why_unread}"
                rewrite.mark(file, kernel.decorator.lineno if kernel.decorator else kernel.line, what)
            for remark in kernel.remarks:
                self.remarks.append(f"{file.path}: {kernel.name}: {remark}")
            if kernel.lost_hooks:
                what = (
                    f"{kernel.lost_hooks} of the {len(kernel.configs)} configs of {kernel.name} call a function before "
                    "the launch (pre_hook), as to zero what is added to; call it in the launcher for these"
                )
                self.open_questions.append(what)
            if kernel.prune:
                what = f"{kernel.name} prunes its configs by its arguments; say it as constraints: {kernel.prune}"
                self.open_questions.append(what)
        return kernels

    def _proposed(self, file: SourceFile) -> list[TritonKernel]:
        """Kernels that a file launches, with parameters around the numbers of the launch."""
        known = {k.name: k for path in self.tree.kept or self.tree.files for k in find_kernels(self.tree.files[path])}
        launches: dict[str, list[LaunchValues]] = {}
        for launch in find_launches(file):
            kernel = known.get(launch.kernel)
            if kernel is not None and self._is_reached(file.path, launch):
                code = [node for unit in self.tree.reached(file.path) for node in unit.nodes]
                values = self._values[id(launch.call)] = read_launch(file, launch, kernel, code)
                launches.setdefault(kernel.name, []).append(values)
        for name, several in launches.items():
            if len(several) > 1:
                known[name].remarks.append("is launched more than once; its launches share their values")
            propose(known[name], several)
            self.remarks += [f"{file.path}: {name}: {remark}" for remark in known[name].remarks]
        return [known[name] for name in launches]

    def _static_of(self, file: SourceFile) -> StaticFile:
        if file.path not in self._static:

            def imported(node: ast.ImportFrom, name: str) -> Any:
                if not node.level and is_installed(node.module or ""):
                    return None
                other = self.tree.file_of(file.path, node)
                if other is None or (other in self._static and self._static[other] is None):
                    return None  # not of the project, or files that import each other
                static = self._static_of(self.tree.files[other])
                return dict(static.names) if name == "*" else static.names.get(name)

            self._static[file.path] = None
            self._static[file.path] = StaticFile(file.tree, self.answers, imported)
        static = self._static[file.path]
        assert static is not None
        return static

    def _edit_launches(self, tuned: Mapping[str, TritonKernel], names: Mapping[tuple[str, str], str]) -> dict[str, str]:
        """Give launches their values. Returns each file that launches -> its name for the config."""
        modules: dict[str, str] = {}
        launched = set()
        for path in list(self.tree.kept or self.tree.files):
            file = self.tree.files[path]
            launches = [x for x in find_launches(file) if x.kernel in tuned and self._is_reached(path, x)]
            if not launches:
                continue
            modules[path] = rewrite.config_name(file)
            for launch in launches:
                kernel = tuned[launch.kernel]
                launched.add(kernel.name)
                access = {n: _access(modules[path], names[kernel.name, n], n) for n in kernel.tunable}
                values = self._values.get(id(launch.call))
                for name, places in values.assigned.items() if values else ():
                    for place in places if name in access else ():
                        file.replace(file.start(place), file.end(place), access[name])
                    access.pop(name, None)
                rewrite.take_values(file, launch, kernel, access, _unread(launch, values))
                if kernel.hook:
                    self._hook(file, launch, kernel, access)
            rewrite.declare_config(file, modules[path])
        for kernel in tuned.values():
            if kernel.name not in launched:
                what = f"no launch of {kernel.name} was found; give it the config's values"
                rewrite.mark(self.tree.files[kernel.file], kernel.line, what)
        return modules

    def _is_reached(self, path: str, launch: KernelLaunch) -> bool:
        is_kept = not self.tree.files[path].is_removed(launch.call)
        return is_kept and any(u.first <= launch.call.lineno <= u.last for u in self.tree.reached(path))

    def _hook(self, file: SourceFile, launch: KernelLaunch, kernel: TritonKernel, access: Mapping[str, str]) -> None:
        function = next((n for n in file.tree.body if isinstance(n, ast.FunctionDef) and n.name == kernel.hook), None)
        # A hook of another file has no name here.
        if function is None or not rewrite.call_hook(file, launch, kernel, access, rewrite.keys_read(function)):
            what = f"call {kernel.hook} before the launch of {kernel.name}, as its configs did"
            rewrite.mark(file, launch.statement.lineno, what)

    def _note_missing(self) -> None:
        for missing in self.tree.missing.values():
            names = f" ({', '.join(missing.names)})" if missing.names else ""
            what = (
                f"module {missing.module}{names} is not installed and not beside the file; bring what is needed of it"
            )
            file = self.tree.files[missing.file]
            rewrite.mark(file, missing.line, what)

    def _size_axis(self, kernels: list[TritonKernel]) -> str | None:
        if self.definition is None:
            return None
        variable = [n for n, axis in self.definition["axes"].items() if axis["type"] == "var"]
        by_key = {k.lower() for kernel in kernels for k in kernel.key}
        different = {n: len({w["axes"].get(n) for w in self.workloads}) for n in variable}
        fitting = [n for n in variable if n.lower() in by_key] or sorted(variable, key=lambda n: -different[n])
        shapes = [spec.get("shape") or [] for spec in self.definition["inputs"].values()]
        return next((n for n in fitting if any(n in shape for shape in shapes)), None)

    def _entry_file(self, modules: Mapping[str, str], size_axis: str | None) -> EntryFile:
        return entry_point.entry_file(self.entry, modules, self.definition, size_axis, self.origin.destination_passing)


def _by_name(kernels: Sequence[TritonKernel]) -> dict[str, TritonKernel]:
    """Name -> kernel, of those with parameters. Copies of one kernel share theirs.

    Raises:
        UsageError: Two that differ have the same name, by which launches and parameters are told apart.
    """
    found: dict[str, TritonKernel] = {}
    for kernel in (k for k in kernels if k.tunable):
        first = found.setdefault(kernel.name, kernel)
        if (first.arguments, first.configs) != (kernel.arguments, kernel.configs):
            raise UsageError(
                f"{first.file} and {kernel.file} have different tuned kernels called {kernel.name}; rename one"
            )
    return found


def _access(config: str, name: str, meta: str) -> str:
    return f'{config}["{name}"] or None' if meta == "maxnreg" else f'{config}["{name}"]'


def _unread(launch: KernelLaunch, values: LaunchValues | None) -> str:
    """What a launch unpacks that is not known."""
    unpacked = next((ast.unparse(k.value) for k in launch.call.keywords if k.arg is None), "")
    return unpacked if values is None else values.unpacked_unread


def _notes(kernel: TritonKernel) -> list[str]:
    if kernel.is_proposed:
        return [f"{kernel.name}: its author lists no configs; these are values around those of its launch."]
    key = f", chosen by {', '.join(kernel.key)}" if kernel.key else ""
    return [f"{kernel.name}: {len(kernel.configs)} configs of its author{key}; the first is the default."]


def _compiled_language(origin: Origin, targets: tuple[str, ...], definition: Mapping[str, Any] | None) -> NewSpace:
    """A space of a Solution in C++ or CUDA: one parameter stands for those that its author will name."""
    what = "name the values that are to be tuned; sources read them from config.h as CONFIG_NAME"
    parts = SpaceParts(
        definition=definition["name"] if definition else origin.definition,
        targets=targets,
        entry_point=str(origin.entry),
        language=origin.language,
        choices=NO_CHOICES,
        dependencies=origin.dependencies,
        destination_passing=origin.destination_passing is not False,
        binding=origin.binding,
        todo=[what],
    )
    text = space_text(parts, f"Made by tuner init of {origin.name}.")
    return NewSpace(origin.name, parts.definition, {"space.yaml": text, **origin.files}, [], NO_CHOICES.values())
