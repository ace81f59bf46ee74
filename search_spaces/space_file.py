"""Reads a ``space.yaml`` and the sources beside it.

The keys of ``space.yaml`` (``REQUIRED`` and ``OPTIONAL`` below) are explained in docs/bring-your-own-kernel.md. Every
mistake ends in one line that says file, key, value and what is allowed.
"""

from __future__ import annotations

import itertools
import keyword
import logging
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from search_spaces import yaml_text
from search_spaces.expression import compile_expression
from search_spaces.parameters import Config, Constraint, Parameter, SpaceError
from search_spaces.source_files import ANY, python_names, read_sources, why_unfit
from search_spaces.space import CONFIG_FILE, HEADER_FILE, HEADER_LANGUAGES, Start, macro_name

_log = logging.getLogger(__name__)

SPACE_FILE = "space.yaml"
TARGETS = ("cpu", "sm_90a", "sm_100a")
LANGUAGES = ("python", "triton", "cpp", "cuda", "tilelang")
BINDINGS = ("tvm-ffi", "torch")
REQUIRED = ("targets", "parameters", "default", "entry_point")
OPTIONAL = (
    "name", "definition", "op_type", "constraints", "language", "binding", "destination_passing", "dependencies",
    "sources", "size_axis", "starts",
)  # fmt: skip
MAX_CHECKED = 20_000
"""Most value combinations on which a constraint is tried when the file is read."""


@dataclass(frozen=True)
class SpaceFile:
    """A checked ``space.yaml`` with its sources."""

    name: str
    definitions: tuple[str, ...]
    op_types: tuple[str, ...]
    targets: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...]
    default: Config
    entry_point: str
    language: str
    binding: str | None
    destination_passing: bool
    dependencies: tuple[str, ...]
    size_axis: str | None
    sources: Mapping[str, str]
    starts: tuple[Start, ...]


def read_space_file(path: Path) -> SpaceFile:
    """Read and check a ``space.yaml`` and the sources beside it.

    Raises:
        SpaceError: The message is one line that starts with the path of the file.
    """
    reader = _Reader(path)
    try:
        return reader.read()
    except SpaceError as error:
        raise SpaceError(f"{path}: {' '.join(str(error).split())}") from error


class _Reader:
    """Checks one file, key by key; the caller adds the path to messages."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.path = path
        self.data: dict[str, Any] = {}

    def read(self) -> SpaceFile:
        self.data = self._load()
        definitions, op_types = self._names("definition"), self._names("op_type")
        if not definitions and not op_types:
            raise SpaceError("neither 'definition' nor 'op_type' is given; name what the Solution solves")
        language = self._choice("language", LANGUAGES, "python")
        binding = self._choice("binding", BINDINGS, None)
        if binding is not None and language not in HEADER_LANGUAGES:
            raise SpaceError(f"'binding' is for {' and '.join(HEADER_LANGUAGES)}, not for language {language!r}")
        targets = self._targets()
        if "cpu" in targets and language in HEADER_LANGUAGES and (language == "cuda" or binding == "torch"):
            what = "language 'cuda'" if language == "cuda" else "'binding' torch"
            raise SpaceError(f"{what} needs CUDA to build, so target cpu cannot have it; cpp with tvm-ffi can be built")
        if "size_axis" in self.data and language in HEADER_LANGUAGES:
            raise SpaceError(
                f"'size_axis' is for Solutions that read {CONFIG_FILE}; one in {language} holds one config"
            )
        parameters = self._parameters()
        if language in HEADER_LANGUAGES:
            _check_macros(parameters)
        constraints = self._constraints(parameters)
        default = _config("'default'", self.data["default"], parameters, constraints)
        sources = self._sources(language)
        return SpaceFile(
            name=self._name(),
            definitions=definitions,
            op_types=op_types,
            targets=targets,
            parameters=parameters,
            constraints=constraints,
            default=default,
            entry_point=self._entry_point(sources),
            language=language,
            binding=binding,
            destination_passing=self._boolean("destination_passing", True),
            dependencies=self._names("dependencies"),
            size_axis=self._string("size_axis", None) if "size_axis" in self.data else None,
            sources=sources,
            starts=self._starts(default, parameters, constraints),
        )

    def _load(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SpaceError(f"cannot be read: {reason}") from error
        data = yaml_text.load(text, values=("parameters", "default", "starts"), but=("doc", "kind"))
        if not isinstance(data, dict):
            raise SpaceError(f"holds {_show(data)}; needed is a mapping with the keys {', '.join(REQUIRED)}")
        _check_keys(data, "", REQUIRED, OPTIONAL)
        return data

    def _string(self, key: str, fallback: Any) -> Any:
        value = self.data.get(key, fallback)
        if not isinstance(value, str) or not value.strip():
            raise SpaceError(f"{key!r} is {_show(value)}; needed is a text")
        return value

    def _boolean(self, key: str, fallback: bool) -> bool:
        value = self.data.get(key, fallback)
        if not isinstance(value, bool):
            raise SpaceError(f"{key!r} is {_show(value)}; allowed are true, false")
        return value

    def _choice(self, key: str, allowed: tuple[str, ...], fallback: Any) -> Any:
        value = self.data.get(key, fallback)
        if value != fallback and value not in allowed:
            raise SpaceError(f"{key!r} is {_show(value)}; allowed are {', '.join(allowed)}")
        return value

    def _names(self, key: str, fallback: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = self.data.get(key, list(fallback))
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(v, str) and v.strip() for v in found):
            raise SpaceError(f"{key!r} is {_show(value)}; needed is a text or a list of texts")
        if key in self.data and not found and key != "dependencies":
            raise SpaceError(f"{key!r} is an empty list")
        return tuple(found)

    def _targets(self) -> tuple[str, ...]:
        targets = self._names("targets")
        for target in targets:
            if target not in TARGETS:
                raise SpaceError(f"target {_show(target)} is unknown; allowed are {', '.join(TARGETS)}")
        return targets

    def _parameters(self) -> tuple[Parameter, ...]:
        given = self.data["parameters"]
        if not isinstance(given, dict) or not given:
            raise SpaceError(f"'parameters' is {_show(given)}; needed is a mapping from names to their values")
        return tuple(_parameter(name, spec) for name, spec in given.items())

    def _constraints(self, parameters: tuple[Parameter, ...]) -> tuple[Constraint, ...]:
        given = self.data.get("constraints", [])
        if not isinstance(given, list):
            raise SpaceError(f"'constraints' is {_show(given)}; needed is a list of {{expression, reason}}")
        return tuple(_constraint(i, spec, parameters) for i, spec in enumerate(given))

    def _starts(
        self, default: Config, parameters: tuple[Parameter, ...], constraints: tuple[Constraint, ...]
    ) -> tuple[Start, ...]:
        given = self.data.get("starts", [])
        if not isinstance(given, list):
            raise SpaceError(f"'starts' is {_show(given)}; needed is a list of {{config, sizes}}")
        starts = []
        for index, spec in enumerate(given):
            where = f"start {index + 1}"
            if not isinstance(spec, dict):
                raise SpaceError(f"{where} is {_show(spec)}; needed is a mapping with 'config' and maybe 'sizes'")
            _check_keys(spec, f"{where}: ", ("config",), ("sizes",))
            changes = spec["config"]
            given_config = {**default, **changes} if isinstance(changes, dict) else changes
            config = _config(f"{where}: 'config'", given_config, parameters, constraints)
            starts.append(Start(config, *_sizes(where, spec.get("sizes", [0, None]))))
        return tuple(starts)

    def _name(self) -> str:
        """The space's name, which becomes part of the Solution's name and its file name."""
        name: str = self._string("name", self.folder.resolve().name)
        why = why_unfit(name)
        if why is not None:
            raise SpaceError(f"'name' {_show(name)} {why}")
        return name

    def _sources(self, language: str) -> dict[str, str]:
        generated = (CONFIG_FILE, HEADER_FILE) if language in HEADER_LANGUAGES else (CONFIG_FILE,)
        for name in generated:
            if (self.folder / name).exists():
                raise SpaceError(f"{name} is in the folder; it is generated from the config, so rename or remove it")
        sources, left_out = read_sources(self.folder, self._names("sources"), SPACE_FILE)
        if left_out:
            listed = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" if len(left_out) > 3 else "")
            _log.warning(f"{self.path}: {listed} left out; name in 'sources' what the kernel needs of that")
        return sources

    def _entry_point(self, sources: Mapping[str, str]) -> str:
        entry: str = self._string("entry_point", None)
        file, separator, function = entry.partition("::")
        if not separator or not file or not function.isidentifier():
            raise SpaceError(f"'entry_point' is {_show(entry)}; needed is file::function, as in main.py::run")
        if file not in sources:
            known = ", ".join(sorted(sources)) or "none, as the folder holds no source code"
            raise SpaceError(f"'entry_point' names {_show(file)}; the sources are {known}")
        if file.endswith(".py"):
            names = python_names(file, sources)
            defined = function in names or ANY in names
        else:
            defined = function in sources[file]
        if not defined:
            raise SpaceError(f"'entry_point' names {function!r}, which {file} does not define")
        return entry


def _config(what: str, given: Any, parameters: tuple[Parameter, ...], constraints: tuple[Constraint, ...]) -> Config:
    if not isinstance(given, dict):
        raise SpaceError(f"{what} is {_show(given)}; needed is a mapping with a value for every parameter")
    known = {p.name: p.values for p in parameters}
    for name in given:
        if name not in known:
            raise SpaceError(f"{what} names unknown parameter {_show(name)}; known are {', '.join(known)}")
    for name, values in known.items():
        if name not in given:
            raise SpaceError(f"{what} has no value for parameter {name!r}; allowed are {_listed(values)}")
        if not any(_same(v, given[name]) for v in values):
            raise SpaceError(f"{what} has {name}={_show(given[name])}; allowed are {_listed(values)}")
    config: Config = {n: next(v for v in values if _same(v, given[n])) for n, values in known.items()}
    for constraint in constraints:
        if not constraint.admits(config):
            raise SpaceError(f"{what} breaks a constraint: {constraint.reason}")
    return config


def _same(declared: Any, given: Any) -> bool:
    """Whether two values are the same: 8 and 8.0 are, true and 1 are not."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (declared, given))
    return (numbers or type(declared) is type(given)) and bool(declared == given)


def _listed(values: tuple[Any, ...]) -> str:
    return f"{list(values)}" if len(values) <= 40 else f"{_show(list(values))} ({len(values)} values)"


def _sizes(where: str, given: Any) -> tuple[int, int | None]:
    def is_size(value: Any) -> bool:
        return type(value) is int and value >= 0

    if not (isinstance(given, list) and len(given) == 2 and is_size(given[0])) or not (
        given[1] is None or (is_size(given[1]) and given[1] >= given[0])
    ):
        raise SpaceError(f"{where}: 'sizes' is {_show(given)}; needed is [smallest, largest], largest may be null")
    return given[0], given[1]


def _parameter(name: Any, spec: Any) -> Parameter:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise SpaceError(f"parameter {_show(name)} is not a name; allowed are Python identifiers")
    where = f"parameter {name!r}"
    if not isinstance(spec, dict):
        raise SpaceError(f"{where} is {_show(spec)}; needed is a mapping with 'values' and maybe 'kind', 'doc'")
    _check_keys(spec, f"{where}: ", ("values",), ("kind", "doc"))
    values, kind, doc = spec["values"], spec.get("kind"), spec.get("doc", "")
    if not isinstance(values, list) or not values:
        raise SpaceError(f"{where}: 'values' is {_show(values)}; needed is a list of at least one value")
    if {type(v) for v in values} == {int, float}:
        try:
            values = [float(v) for v in values]
        except OverflowError:
            raise SpaceError(f"{where}: 'values' is {_show(values)}; a number is too large") from None
    types = {type(v) for v in values}
    if len(types) != 1 or not types <= {bool, int, float, str}:
        raise SpaceError(f"{where}: 'values' is {_show(values)}; all must be of one type: int, float, bool or text")
    if types == {float} and not all(math.isfinite(v) for v in values):
        raise SpaceError(f"{where}: 'values' is {_show(values)}; numbers must be finite")
    if kind is None:
        kind = "ordinal" if types <= {int, float} else "categorical"
    if kind not in ("ordinal", "categorical"):
        raise SpaceError(f"{where}: 'kind' is {_show(kind)}; allowed are ordinal, categorical")
    if not isinstance(doc, str):
        raise SpaceError(f"{where}: 'doc' is {_show(doc)}; needed is a text")
    checked: Literal["ordinal", "categorical"] = "ordinal" if kind == "ordinal" else "categorical"
    return Parameter(name, tuple(values), checked, " ".join(doc.split()))


def _constraint(index: int, spec: Any, parameters: tuple[Parameter, ...]) -> Constraint:
    where = f"constraint {index + 1}"
    if not isinstance(spec, dict):
        raise SpaceError(f"{where} is {_show(spec)}; needed is a mapping with 'expression' and 'reason'")
    _check_keys(spec, f"{where}: ", ("expression", "reason"), ())
    text, reason = spec["expression"], spec["reason"]
    for key, value in (("expression", text), ("reason", reason)):
        if not isinstance(value, str) or not value.strip():
            raise SpaceError(f"{where}: {key!r} is {_show(value)}; needed is a text")
    values = {p.name: p.values for p in parameters}
    try:
        expression = compile_expression(text, list(values))
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    if not expression.names:
        raise SpaceError(f"{where}: expression {_show(text)} reads no parameter; known are {', '.join(values)}")
    combinations = itertools.product(*(values[n] for n in expression.names))
    computed, holds = False, False
    failure: SpaceError | None = None
    for combination in itertools.islice(combinations, MAX_CHECKED):
        try:
            outcome = expression(dict(zip(expression.names, combination, strict=True)))
        except SpaceError as error:
            failure = failure or error
            continue
        computed = True
        if not isinstance(outcome, bool):
            raise SpaceError(f"{where}: expression {_show(text)} gives {_show(outcome)}; needed is true or false")
        holds = holds or outcome
    if not computed:
        raise SpaceError(f"{where}: {failure}") from failure
    if not holds and math.prod(len(values[n]) for n in expression.names) <= MAX_CHECKED:
        raise SpaceError(f"{where}: expression {_show(text)} is false for all values, so no config is valid")
    return Constraint(expression.names, " ".join(reason.split()), expression)


def _check_macros(parameters: tuple[Parameter, ...]) -> None:
    names = [macro_name(p.name) for p in parameters]
    for parameter, name in zip(parameters, names, strict=True):
        if names.count(name) > 1:
            raise SpaceError(f"parameter {parameter.name!r} and another one both become the macro CONFIG_{name}")


def _check_keys(data: Mapping[Any, Any], where: str, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    for key in data:
        if key not in required + optional:
            raise SpaceError(f"{where}unknown key {_show(key)}; allowed are {', '.join(required + optional)}")
    for key in required:
        if key not in data:
            raise SpaceError(f"{where}key {key!r} is missing; needed are {', '.join(required)}")


def _show(value: Any) -> str:
    """The value for a message, shortened; a file may hold anything."""
    return reprlib.repr(value)
