"""Reads a ``space.yaml`` and the sources beside it.

The keys are the fields of the models below, explained in docs/bring-your-own-kernel.md. Every mistake ends in one line
that says file, key, value and what is allowed; a field's ``description`` is what that line says is needed.
"""

from __future__ import annotations

import itertools
import keyword
import logging
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from search_spaces import yaml_text
from search_spaces.expression import LIMITS, Limits, compile_expression
from search_spaces.inputs.generator import InputGenerator
from search_spaces.parameters import Config, Constraint, Parameter, SpaceError, checked_config
from search_spaces.source_files import ANY, python_names, read_sources, why_unfit
from search_spaces.space import CONFIG_FILE, HEADER_FILE, HEADER_LANGUAGES, Start, macro_name

_log = logging.getLogger(__name__)

SPACE_FILE = "space.yaml"
MAX_CHECKED = 20_000
"""Most value combinations on which a constraint is tried when the file is read."""


def _one_type(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if {type(v) for v in values} == {int, float}:
        try:
            values = tuple(float(v) for v in values)
        except OverflowError:
            raise SpaceError("a number is too large") from None
    types = {type(v) for v in values}
    if len(types) != 1 or not types <= {bool, int, float, str}:
        raise SpaceError("all must be of one type: int, float, bool or text")
    if types == {str} and not all(v.isprintable() for v in values):
        raise SpaceError("a text has a character that cannot be printed")
    if types == {float} and not all(math.isfinite(v) for v in values):
        raise SpaceError("numbers must be finite")
    return values


def _rising(sizes: tuple[int, int | None]) -> tuple[int, int | None]:
    if sizes[1] is not None and sizes[1] < sizes[0]:
        raise SpaceError("needed is [smallest, largest], largest may be null")
    return sizes


def _parameter_name(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise SpaceError("not a name")
    return name


AsList = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
OneOrMore = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else (value,))
Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], OneOrMore]
Size = Annotated[int, Field(ge=0)]
Target = Literal["cpu", "sm_90a", "sm_100a"]


class _Keys(BaseModel):
    """Keys of one mapping in the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ParameterKeys(_Keys):
    """What the file says about one parameter."""

    values: Annotated[tuple[Any, ...], Field(min_length=1), AfterValidator(_one_type), AsList] = Field(
        description="a list of at least one value"
    )
    kind: Literal["ordinal", "categorical"] | None = None
    doc: str = Field("", description="a text")


class ConstraintKeys(_Keys):
    """What the file says about one constraint."""

    expression: Text = Field(description="a text")
    reason: Text = Field(description="a text")


class StartKeys(_Keys):
    """A config to try early; it says only what differs from the default."""

    config: dict[Any, Any] = Field(description="a mapping from parameters to values")
    sizes: Annotated[tuple[Size, Size | None], AfterValidator(_rising), AsList] = Field(
        (0, None), description="[smallest, largest], largest may be null"
    )


class SpaceKeys(_Keys):
    """Everything that a ``space.yaml`` may say."""

    targets: Annotated[tuple[Target, ...], OneOrMore] = Field(min_length=1, description="a list of at least one target")
    parameters: dict[Annotated[str, AfterValidator(_parameter_name)], ParameterKeys] = Field(
        min_length=1, description="a mapping from names to their values"
    )
    default: dict[Any, Any] | list[Any] = Field(
        description="a mapping with a value for every parameter, or a list of {config, sizes}"
    )
    entry_point: Text = Field(description="file::function, as in main.py::run")
    name: Text | None = Field(None, description="a text")
    definition: Texts | None = Field(None, min_length=1, description="a text or a list of at least one text")
    op_type: Texts | None = Field(None, min_length=1, description="a text or a list of at least one text")
    constraints: Annotated[tuple[ConstraintKeys, ...], AsList] = Field((), description="a list of {expression, reason}")
    language: Literal["python", "triton", "cpp", "cuda", "tilelang"] = "python"
    binding: Literal["tvm-ffi", "torch"] | None = None
    destination_passing: bool = True
    dependencies: Texts = Field((), description="a text or a list of texts")
    sources: Texts = Field((), description="a pattern or a list of patterns")
    size_axis: Text | None = Field(None, description="a text")
    starts: Annotated[tuple[StartKeys, ...], AsList] = Field((), description="a list of {config, sizes}")
    mode: Literal["auto", "graph", "eager"] = "auto"
    inputs: Text | None = Field(None, description="a file that makes inputs by profile")

    @model_validator(mode="after")
    def _fit_together(self) -> SpaceKeys:
        if not self.definition and not self.op_type:
            raise SpaceError("neither 'definition' nor 'op_type' is given; name what the Solution solves")
        if self.language not in HEADER_LANGUAGES:
            if self.binding is not None:
                raise SpaceError(
                    f"'binding' is for {' and '.join(HEADER_LANGUAGES)}, not for language {self.language!r}"
                )
            return self
        if "cpu" in self.targets and (self.language == "cuda" or self.binding == "torch"):
            what = "language 'cuda'" if self.language == "cuda" else "'binding' torch"
            raise SpaceError(f"{what} needs CUDA to build, so target cpu cannot have it; cpp with tvm-ffi can be built")
        if self.size_axis is not None:
            raise SpaceError(
                f"'size_axis' is for Solutions that read {CONFIG_FILE}; one in {self.language} holds one config"
            )
        macros = [macro_name(name) for name in self.parameters]
        for name, macro in zip(self.parameters, macros, strict=True):
            if macros.count(macro) > 1:
                raise SpaceError(f"parameter {name!r} and another one both become the macro CONFIG_{macro}")
        return self


SIZES = "sizes"
FACTS = ("target", *(f.name for f in fields(Limits)))
"""What constraints may read beside parameters and ``sizes.AXIS``."""


@dataclass(frozen=True, kw_only=True)
class FileConstraint(Constraint):
    """A constraint of a file. ``facts`` are the names that it reads of definition and target."""

    where: str = ""
    facts: tuple[str, ...] = ()

    def on(self, definition: Mapping[str, Any], target: str) -> Constraint:
        """The constraint for one definition and target.

        Raises:
            SpaceError: It reads an axis that the definition does not have as a constant.
        """
        if not self.facts:
            return self
        axes = definition.get("axes", {})
        sizes = {f"{SIZES}.{n}": axis["value"] for n, axis in axes.items() if axis.get("type") == "const"}
        known = {"target": target, **asdict(LIMITS[target]), **sizes}
        unknown = [name for name in self.facts if name not in known]
        if unknown:
            listed = ", ".join(sorted(sizes)) or "none"
            raise SpaceError(f"{self.where} reads {unknown[0]!r}; constant axes are {listed}")
        holds, facts = self.holds, {name: known[name] for name in self.facts}
        return Constraint(self.parameters, self.reason, lambda config: holds({**config, **facts}))


@dataclass(frozen=True)
class SpaceFile:
    """A checked ``space.yaml`` with its sources.

    Args:
        keys: What the file says.
        name: The name in the file, else the folder's.
        sources: Path -> text of the files that belong to the Solution.
        inputs: Makes inputs by profile; its file does not belong to the Solution.
    """

    keys: SpaceKeys
    name: str
    parameters: tuple[Parameter, ...]
    constraints: tuple[FileConstraint, ...]
    default: Config
    defaults: tuple[Start, ...]
    starts: tuple[Start, ...]
    sources: Mapping[str, str]
    inputs: InputGenerator | None = None


def read_space_file(path: Path) -> SpaceFile:
    """Read and check a ``space.yaml`` and the sources beside it.

    Raises:
        SpaceError: The message is one line that starts with the path of the file.
    """
    try:
        keys = _read_keys(path)
        parameters = tuple(_parameter(name, spec) for name, spec in keys.parameters.items())
        constraints = tuple(_constraint(f"constraint {i}", c, parameters) for i, c in enumerate(keys.constraints, 1))
        defaults = _defaults(keys, parameters, constraints)
        default = defaults[0].config
        return SpaceFile(
            keys=keys,
            name=_name(keys.name or path.parent.resolve().name),
            parameters=parameters,
            constraints=constraints,
            default=default,
            defaults=defaults if isinstance(keys.default, list) else (),
            starts=tuple(
                Start(_valid(f"start {i}: 'config'", {**default, **s.config}, parameters, constraints), *s.sizes)
                for i, s in enumerate(keys.starts, 1)
            ),
            sources=_sources(path, keys),
            inputs=None if keys.inputs is None else _input_generator(path.parent, keys.inputs),
        )
    except SpaceError as error:
        raise SpaceError(f"{path}: {' '.join(str(error).split())}") from error


def _read_keys(path: Path) -> SpaceKeys:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpaceError(f"cannot be read: {reason}") from error
    data = yaml_text.load(text, values=("parameters", "default", "starts"), but=("doc", "kind"))
    if not isinstance(data, dict):
        raise SpaceError(f"holds {_show(data)}; needed is {_mapping_of(SpaceKeys)}")
    try:
        return SpaceKeys.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        unknown = [e for e in found if e["type"] in ("extra_forbidden", "invalid_key")]
        missing = [e for e in found if e["type"] == "missing"]
        raise SpaceError(_message((unknown or missing or found)[0], data)) from error


_ENTRIES: Mapping[Any, tuple[str, type[_Keys]]] = {
    "parameters": ("parameter", ParameterKeys),
    "constraints": ("constraint", ConstraintKeys),
    "starts": ("start", StartKeys),
}


def _message(error: ErrorDetails, data: Mapping[Any, Any]) -> str:
    """Pydantic's first complaint as a line: which entry, which key, its value, and what is allowed."""
    kind, path, cause = error["type"], error["loc"], error.get("ctx", {})
    if not path:
        return str(cause["error"])
    where, holder = "", data
    model: type[_Keys] = SpaceKeys
    if path[-1] == "[key]":
        return f"parameter {_show(error['input'])} is not a name; allowed are Python identifiers"
    if len(path) > 1 and path[0] in _ENTRIES:
        noun, model = _ENTRIES[path[0]]
        entry = path[1]
        where = f"{noun} {entry + 1 if isinstance(entry, int) else repr(entry)}"
        if len(path) == 2 and kind not in ("missing", "extra_forbidden"):
            return f"{where} is {_show(error['input'])}; needed is {_mapping_of(model)}"
        where, holder, path = f"{where}: ", data[path[0]][entry], path[2:]
    key = path[0]
    if kind in ("extra_forbidden", "invalid_key"):
        key = error["input"] if kind == "invalid_key" else key
        return f"{where}unknown key {_show(key)}; allowed are {', '.join(model.model_fields)}"
    if kind == "missing" and len(path) == 1:
        return f"{where}key {key!r} is missing; needed are {', '.join(_required(model))}"
    value, field = holder[key], model.model_fields[str(key)]
    cures = {
        "value_error": lambda: str(cause["error"]),
        "literal_error": lambda: "allowed are " + cause["expected"].replace("'", "").replace(" or ", ", "),
        "bool_type": lambda: "allowed are true, false",
    }
    return f"{where}{key!r} is {_show(value)}; {cures.get(kind, lambda: f'needed is {field.description}')()}"


def _required(model: type[_Keys]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _mapping_of(model: type[_Keys]) -> str:
    needed = " and ".join(repr(name) for name in _required(model))
    optional = ", ".join(repr(name) for name in model.model_fields if name not in _required(model))
    return f"a mapping with {needed}" + (f" and maybe {optional}" if optional else "")


def _name(name: str) -> str:
    """The space's name, which becomes part of the Solution's name and its file name."""
    why = why_unfit(name)
    if why is not None:
        raise SpaceError(f"'name' {_show(name)} {why}")
    return name


def _parameter(name: str, spec: ParameterKeys) -> Parameter:
    numbers = all(type(v) in (int, float) for v in spec.values)
    kind = spec.kind or ("ordinal" if numbers else "categorical")
    return Parameter(name, spec.values, kind, " ".join(spec.doc.split()))


def _constraint(where: str, spec: ConstraintKeys, parameters: tuple[Parameter, ...]) -> FileConstraint:
    """The rule, tried on the values it reads, so that a wrong expression is found before the sweep. Facts of definition
    and target are not known yet."""
    text = _show(spec.expression)
    values = {p.name: p.values for p in parameters}
    try:
        expression = compile_expression(spec.expression, [*values, *(n for n in FACTS if n not in values)], SIZES)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    facts = tuple(n for n in expression.names if n not in values)
    names = tuple(n for n in expression.names if n in values)
    reason = " ".join(spec.reason.split())
    if not names:
        raise SpaceError(f"{where}: expression {text} reads no parameter; known are {', '.join(values)}")
    if facts:
        return FileConstraint(names, reason, expression, where=where, facts=facts)
    combinations = itertools.product(*(values[n] for n in expression.names))
    outcomes, failure = set(), None
    for combination in itertools.islice(combinations, MAX_CHECKED):
        try:
            outcome = expression(dict(zip(expression.names, combination, strict=True)))
        except SpaceError as error:
            failure = failure or error
            continue
        if not isinstance(outcome, bool):
            raise SpaceError(f"{where}: expression {text} gives {_show(outcome)}; needed is true or false")
        outcomes.add(outcome)
    if not outcomes:
        raise SpaceError(f"{where}: {failure}") from failure
    if True not in outcomes and math.prod(len(values[n]) for n in expression.names) <= MAX_CHECKED:
        raise SpaceError(f"{where}: expression {text} is false for all values, so no config is valid")
    return FileConstraint(expression.names, reason, expression)


def _defaults(
    keys: SpaceKeys, parameters: tuple[Parameter, ...], constraints: tuple[FileConstraint, ...]
) -> tuple[Start, ...]:
    """The rows of the default, or the one config that it is. Rows but the first say what differs from the first."""
    if not isinstance(keys.default, list):
        return (Start(_valid("'default'", keys.default, parameters, constraints)),)
    if not keys.default or keys.size_axis is None:
        what = "an empty list" if not keys.default else "a list by size, which needs a 'size_axis'"
        raise SpaceError(f"'default' is {what}")
    rows: list[Start] = []
    for i, given in enumerate(keys.default, 1):
        try:
            row = StartKeys.model_validate(given)
        except ValidationError as error:
            raise SpaceError(f"row {i} of 'default' is {_show(given)}; needed is {_mapping_of(StartKeys)}") from error
        first = rows[0].config if rows else {}
        config = _valid(f"row {i} of 'default': 'config'", {**first, **row.config}, parameters, constraints)
        rows.append(Start(config, *row.sizes))
    return tuple(rows)


def _valid(
    what: str, given: Mapping[Any, Any], parameters: tuple[Parameter, ...], constraints: tuple[FileConstraint, ...]
) -> Config:
    config = checked_config(what, given, parameters)
    for constraint in constraints:
        if not constraint.facts and not constraint.admits(config):
            raise SpaceError(f"{what} breaks a constraint: {constraint.reason}")
    return config


def _sources(path: Path, keys: SpaceKeys) -> dict[str, str]:
    """The files that belong to the Solution; its entry point is among them."""
    for name in (CONFIG_FILE, HEADER_FILE) if keys.language in HEADER_LANGUAGES else (CONFIG_FILE,):
        if (path.parent / name).exists():
            raise SpaceError(f"{name} is in the folder; it is generated from the config, so rename or remove it")
    sources, left_out = read_sources(path.parent, keys.sources, SPACE_FILE)
    if left_out:
        listed = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" if len(left_out) > 3 else "")
        _log.warning(f"{path}: {listed} left out; name in 'sources' what the kernel needs of that")
    sources.pop(keys.inputs or "", None)
    _check_entry_point(keys.entry_point, sources)
    return sources


def _input_generator(folder: Path, name: str) -> InputGenerator:
    try:
        return InputGenerator(name, (folder / name).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpaceError(f"'inputs' names {_show(name)}, which cannot be read: {reason}") from error


def _check_entry_point(entry: str, sources: Mapping[str, str]) -> None:
    file, separator, function = entry.partition("::")
    if not separator or not file or not function.isidentifier():
        raise SpaceError(f"'entry_point' is {_show(entry)}; needed is file::function, as in main.py::run")
    if file not in sources:
        known = ", ".join(sorted(sources)) or "none, as the folder holds no source code"
        raise SpaceError(f"'entry_point' names {_show(file)}; the sources are {known}")
    names = python_names(file, sources) if file.endswith(".py") else None
    if not (function in sources[file] if names is None else function in names or ANY in names):
        raise SpaceError(f"'entry_point' names {function!r}, which {file} does not define")


def _show(value: Any) -> str:
    """The value for a message, shortened; a file may hold anything."""
    return reprlib.repr(value)
