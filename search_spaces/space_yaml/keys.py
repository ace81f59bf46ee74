"""The keys of a ``space.yaml``, as models, and what is said of a wrong one.

The keys are the fields of the models below, explained in docs/space-file.md. A field's ``description`` is what the
message of a mistake says is needed.
"""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from search_spaces.parameters import SpaceError, is_parameter_name
from search_spaces.space import CONFIG_FILE, HEADER_LANGUAGES
from search_spaces.space_yaml.groups import flat_config, flat_parameters
from search_spaces.targets import NAMES


def one_type(values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of a parameter, all of one type: lists become tuples, and whole numbers among others floats.

    Raises:
        SpaceError: They are not of one type, or a value cannot be one.
    """
    values = tuple(tuple(v) if isinstance(v, list) else v for v in values)
    if {type(v) for v in values} == {int, float}:
        try:
            values = tuple(float(v) for v in values)
        except OverflowError:
            raise SpaceError("a number is too large") from None
    types = {type(v) for v in values}
    inside = list(itertools.chain(*values)) if types == {tuple} else list(values)
    if len(types) != 1 or not types <= {bool, int, float, str, tuple}:
        raise SpaceError("all must be of one type: int, float, bool, text or list")
    if not {type(v) for v in inside} <= {bool, int, float, str}:
        raise SpaceError("a value that is a list may hold int, float, bool and text")
    if not all(v.isprintable() for v in inside if isinstance(v, str)):
        raise SpaceError("a text has a character that cannot be printed")
    if not all(math.isfinite(v) for v in inside if isinstance(v, float)):
        raise SpaceError("numbers must be finite")
    return values


def _rising(sizes: tuple[int, int | None]) -> tuple[int, int | None]:
    if sizes[1] is not None and sizes[1] < sizes[0]:
        raise SpaceError("needed is [smallest, largest], largest may be null")
    return sizes


def _parameter_name(name: str) -> str:
    if not is_parameter_name(name):
        raise SpaceError("not a name")
    return name


def _target(name: str) -> str:
    if name not in NAMES:
        raise SpaceError(f"allowed are {', '.join(NAMES)}")
    return name


AsList = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
OneOrMore = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else (value,))
Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], OneOrMore]
Size = Annotated[int, Field(ge=0)]
Target = Annotated[str, AfterValidator(_target)]
Name = Annotated[str, AfterValidator(_parameter_name)]


class _Keys(BaseModel):
    """Keys of one mapping in the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ParameterKeys(_Keys):
    """What the file says about one parameter."""

    values: Annotated[tuple[Any, ...], Field(min_length=1), AfterValidator(one_type), AsList] = Field(
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

    targets: Annotated[tuple[Target, ...], OneOrMore] = Field(
        min_length=1, description=f"a list of at least one of {', '.join(NAMES)}"
    )
    default: dict[Any, Any] | list[Any] = Field(
        description="a mapping with a value for every parameter, or a list of {config, sizes}"
    )
    parameters: dict[Name, ParameterKeys] = Field(
        default_factory=dict, min_length=1, description="a mapping from names to their values"
    )
    configs: Annotated[tuple[dict[Name, Any], ...], AsList] = Field(
        (), min_length=1, description="a list of mappings from parameters to values"
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
        if not self.parameters and not self.configs:
            raise SpaceError("neither 'parameters' nor 'configs' is given; say what can be chosen")
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
        return self


def read_keys(data: Mapping[Any, Any]) -> SpaceKeys:
    """The file's keys, from what YAML gives.

    Raises:
        SpaceError: A key or a value is not allowed.
    """
    data = _without_groups(data)
    try:
        return SpaceKeys.model_validate(data)
    except ValidationError as error:
        raise SpaceError(_message(_telling(error), data)) from error


def _telling(error: ValidationError) -> ErrorDetails:
    """The complaint that says most: an unknown key explains the one that is missing."""
    found = error.errors()
    unknown = [e for e in found if e["type"] in ("extra_forbidden", "invalid_key")]
    missing = [e for e in found if e["type"] == "missing"]
    return (unknown or missing or found)[0]


def row_of(what: str, given: Any) -> StartKeys:
    """A row of a default by size.

    Raises:
        SpaceError: It has another form.
    """
    try:
        return StartKeys.model_validate(given)
    except ValidationError as error:
        first = _telling(error)
        if not first["loc"] or not isinstance(given, dict):
            raise SpaceError(f"{what} is {show(given)}; needed is {mapping_of(StartKeys)}") from error
        raise SpaceError(_key_message(first, first["loc"], f"{what}: ", given, StartKeys)) from error


def _without_groups(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """The file with names that have dots instead of groups, and ``values`` where a list stands alone.

    What has another form is left for the models to refuse.
    """

    def parameters(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        flat = flat_parameters(given, ParameterKeys.model_fields)
        return {name: {"values": v} if isinstance(v, list) else v for name, v in flat.items()}

    def flat(config: Any) -> Any:
        return flat_config(config) if isinstance(config, dict) else config

    def row(given: Any) -> Any:
        return {**given, "config": flat(given["config"])} if isinstance(given, dict) and "config" in given else given

    def each(entries: Any, change: Callable[[Any], Any]) -> Any:
        return [change(entry) for entry in entries] if isinstance(entries, list) else entries

    known: dict[str, Callable[[Any], Any]] = {
        "parameters": parameters,
        "configs": lambda configs: each(configs, flat),
        "default": lambda default: each(flat(default), row),
        "starts": lambda starts: each(starts, row),
    }
    return {key: known[key](value) if key in known else value for key, value in data.items()}


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
        return f"parameter {show(error['input'])} is not a name; allowed are Python identifiers"
    if len(path) > 1 and path[0] in _ENTRIES:
        noun, model = _ENTRIES[path[0]]
        entry = path[1]
        where = f"{noun} {entry + 1 if isinstance(entry, int) else repr(entry)}"
        if len(path) == 2 and kind not in ("missing", "extra_forbidden"):
            return f"{where} is {show(error['input'])}; needed is {mapping_of(model)}"
        where, holder, path = f"{where}: ", data[path[0]][entry], path[2:]
    return _key_message(error, path, where, holder, model)


def _key_message(
    error: ErrorDetails, path: Sequence[Any], where: str, holder: Mapping[Any, Any], model: type[_Keys]
) -> str:
    """What is wrong with a key of one mapping, which ``where`` names."""
    kind, cause, key = error["type"], error.get("ctx", {}), path[0]
    if kind in ("extra_forbidden", "invalid_key"):
        key = error["input"] if kind == "invalid_key" else key
        return f"{where}unknown key {show(key)}; allowed are {', '.join(model.model_fields)}"
    if kind == "missing" and len(path) == 1:
        return f"{where}key {key!r} is missing; needed are {', '.join(_required(model))}"
    value, field = holder[key], model.model_fields[str(key)]
    cures = {
        "value_error": lambda: str(cause["error"]),
        "literal_error": lambda: "allowed are " + cause["expected"].replace("'", "").replace(" or ", ", "),
        "bool_type": lambda: "allowed are true, false",
    }
    return f"{where}{key!r} is {show(value)}; {cures.get(kind, lambda: f'needed is {field.description}')()}"


def _required(model: type[_Keys]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def mapping_of(model: type[_Keys]) -> str:
    """The form of a mapping, for a message."""
    needed = " and ".join(repr(name) for name in _required(model))
    optional = ", ".join(repr(name) for name in model.model_fields if name not in _required(model))
    return f"a mapping with {needed}" + (f" and maybe {optional}" if optional else "")


def show(value: Any) -> str:
    """The value for a message, shortened; a file may hold anything."""
    return reprlib.repr(value)
