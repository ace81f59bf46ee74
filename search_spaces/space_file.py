"""Reads a ``space.yaml`` and the sources beside it.

Every mistake ends in one line that says file, key, value and what is allowed.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from search_spaces.expression import Expression, compile_expression
from search_spaces.inputs.generator import InputGenerator
from search_spaces.parameters import Config, Constraint, Parameter, SpaceError, broken, checked_config
from search_spaces.source_files import ANY, python_names, read_sources, why_unfit
from search_spaces.space import CONFIG_FILE, HEADER_FILE, HEADER_LANGUAGES, Start, macros
from search_spaces.space_yaml import yaml_text
from search_spaces.space_yaml.keys import (
    ConstraintKeys,
    ParameterKeys,
    SpaceKeys,
    mapping_of,
    read_keys,
    row_of,
    show,
)
from search_spaces.space_yaml.listed_configs import listed_parameters
from search_spaces.targets import Limits, target_named

_log = logging.getLogger(__name__)

SPACE_FILE = "space.yaml"
MAX_CHECKED = 20_000
"""Most value combinations on which a constraint is tried when the file is read."""

SIZES = "sizes"
FACTS = ("target", *(f.name for f in fields(Limits)))
"""What constraints may read beside parameters and ``sizes.AXIS``."""


@dataclass(frozen=True, kw_only=True)
class FileConstraint(Constraint):
    """A constraint of a file. ``facts`` are the names that it reads of definition and target."""

    where: str = ""
    facts: tuple[str, ...] = ()

    def on(self, definition: Mapping[str, Any], target: str, size_axis: str | None) -> Constraint:
        """The constraint for one definition and target.

        Raises:
            SpaceError: It reads an axis that is neither a constant of the definition nor the size axis.
        """
        if not self.facts:
            return self
        axes = definition.get("axes", {})
        sizes = {f"{SIZES}.{n}": axis["value"] for n, axis in axes.items() if axis.get("type") == "const"}
        known = {"target": target, **asdict(target_named(target).limits), **sizes}
        size = f"{SIZES}.{size_axis}"
        unknown = [name for name in self.facts if name not in known and name != size]
        if unknown:
            listed = ", ".join(sorted(sizes)) or "none"
            also = "" if size_axis is None else f"; the size axis is {size}"
            raise SpaceError(f"{self.where} reads {unknown[0]!r}; constant axes are {listed}{also}")
        holds, facts = self.holds, {name: known[name] for name in self.facts if name in known}
        if size in self.facts and size_axis is not None:
            return SizedConstraint(
                self.parameters, self.reason, lambda _: True, axis=size_axis, rule=holds, facts=facts
            )
        return Constraint(self.parameters, self.reason, lambda config: holds({**config, **facts}))


@dataclass(frozen=True, kw_only=True)
class SizedConstraint(Constraint):
    """A constraint that reads the size axis. As long as no sizes are known, it admits everything.

    Args:
        axis: The size axis.
        rule: What has to hold at each size.
        facts: Everything else that it reads beside parameters.
    """

    axis: str
    rule: Callable[[Mapping[str, Any]], bool]
    facts: Mapping[str, Any]

    def at(self, axis: str | None, sizes: Collection[int]) -> Constraint:
        if axis != self.axis:
            return self
        each = [{**self.facts, f"{SIZES}.{axis}": size} for size in sorted(set(sizes))]
        return Constraint(self.parameters, self.reason, lambda c: all(self.rule({**c, **facts}) for facts in each))

    def admits_at(self, config: Mapping[str, Any], axis: str | None, size: int) -> bool:
        if axis != self.axis:
            return True
        try:
            return bool(self.rule({**config, **self.facts, f"{SIZES}.{axis}": size}))
        except SpaceError:  # as where it is searched: a rule that cannot be computed admits nothing
            return False


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
        listed, together = listed_parameters(keys)
        parameters = (*listed, *(_parameter(name, spec) for name, spec in keys.parameters.items()))
        constraints = (
            *(FileConstraint(c.parameters, c.reason, c.holds) for c in together),
            *(_constraint(f"constraint {i}", c, parameters) for i, c in enumerate(keys.constraints, 1)),
        )
        if keys.language in HEADER_LANGUAGES:
            _check_macros(parameters)
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
                Start(
                    _valid(f"start {i}: 'config'", {**default, **s.config}, parameters, constraints, default), *s.sizes
                )
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
    data = yaml_text.load(text, values=("parameters", "configs", "default", "starts"), but=("doc", "kind"))
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"holds {show(data)}"
        raise SpaceError(f"{what}; needed is {mapping_of(SpaceKeys)}")
    return read_keys(data)


def _name(name: str) -> str:
    """The space's name, which becomes part of the Solution's name and its file name."""
    why = why_unfit(name)
    if why is not None:
        raise SpaceError(f"'name' {show(name)} {why}")
    return name


def _parameter(name: str, spec: ParameterKeys) -> Parameter:
    numbers = all(type(v) in (int, float) for v in spec.values)
    kind = spec.kind or ("ordinal" if numbers else "categorical")
    return Parameter(name, spec.values, kind, " ".join(spec.doc.split()))


def _constraint(where: str, spec: ConstraintKeys, parameters: tuple[Parameter, ...]) -> FileConstraint:
    """The rule, tried on the values it reads, so that a wrong expression is found before the sweep. Facts of definition
    and target are not known yet."""
    text = show(spec.expression)
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
        return FileConstraint(names, reason, _judging(expression, text), where=where, facts=facts)
    combinations = itertools.product(*(values[n] for n in expression.names))
    outcomes, failure = set(), None
    for combination in itertools.islice(combinations, MAX_CHECKED):
        try:
            outcome = expression(dict(zip(expression.names, combination, strict=True)))
        except SpaceError as error:
            failure = failure or error
            continue
        if not isinstance(outcome, bool):
            raise SpaceError(f"{where}: expression {text} gives {show(outcome)}; needed is true or false")
        outcomes.add(outcome)
    if not outcomes:
        raise SpaceError(f"{where}: {failure}") from failure
    if True not in outcomes and math.prod(len(values[n]) for n in expression.names) <= MAX_CHECKED:
        raise SpaceError(f"{where}: expression {text} is false for all values, so no config is valid")
    return FileConstraint(expression.names, reason, expression)


def _judging(expression: Expression, text: str) -> Callable[[Mapping[str, Any]], bool]:
    """The expression of a rule whose facts are not known yet: what is no truth then is an error, not a true one."""

    def holds(values: Mapping[str, Any]) -> bool:
        outcome = expression(values)
        if not isinstance(outcome, bool):
            raise SpaceError(f"expression {text} gives {show(outcome)}; needed is true or false")
        return outcome

    return holds


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
        row = row_of(f"row {i} of 'default'", given)
        first = rows[0].config if rows else {}
        where = f"row {i} of 'default': 'config'"
        config = _valid(where, {**first, **row.config}, parameters, constraints, first or None)
        rest = 1 + max((r.largest or 0 for r in rows), default=-1)
        is_rest = i == len(keys.default) and "sizes" not in row.model_fields_set
        rows.append(Start(config, *((rest, None) if is_rest else row.sizes)))
    _check_cover(rows)
    return tuple(rows)


def _check_cover(rows: Sequence[Start]) -> None:
    """Rows of a default have every size once: a table of upper bounds, which it becomes, knows nothing else."""
    next_size: int | None = 0
    for number, row in sorted(enumerate(rows, 1), key=lambda pair: pair[1].smallest):
        what = f"row {number} of 'default' begins at {row.smallest}"
        if next_size is None or row.smallest < next_size:
            raise SpaceError(f"{what}, which another row has too; each size belongs to one row")
        if row.smallest > max(next_size, 1):
            raise SpaceError(f"{what}, and no row has {next_size}; rows cover all sizes, one after the other")
        next_size = None if row.largest is None else row.largest + 1
    if next_size is not None:
        raise SpaceError(f"no row of 'default' has sizes from {next_size} on; write null for the largest size")


def _valid(
    what: str,
    given: Mapping[Any, Any],
    parameters: tuple[Parameter, ...],
    constraints: tuple[FileConstraint, ...],
    known: Config | None = None,
) -> Config:
    config = checked_config(what, given, parameters)
    constraint = broken((c for c in constraints if not c.facts), config, known)
    if constraint is not None:
        raise SpaceError(f"{what} breaks a constraint: {constraint.reason}")
    return config


def _check_macros(parameters: tuple[Parameter, ...]) -> None:
    """Two parameters must not become one macro of the header."""
    owner: dict[str, str] = {}
    for parameter in parameters:
        for macro in {m for value in parameter.values for m, _ in macros("CONFIG", parameter.name, value)}:
            if owner.setdefault(macro, parameter.name) != parameter.name:
                raise SpaceError(f"parameter {parameter.name!r} and another one both become the macro {macro}")


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
        raise SpaceError(f"'inputs' names {show(name)}, which cannot be read: {reason}") from error


def _check_entry_point(entry: str, sources: Mapping[str, str]) -> None:
    file, separator, function = entry.partition("::")
    if not separator or not file or not function.isidentifier():
        raise SpaceError(f"'entry_point' is {show(entry)}; needed is file::function, as in main.py::run")
    if file not in sources:
        known = ", ".join(sorted(sources)) or "none, as the folder holds no source code"
        raise SpaceError(f"'entry_point' names {show(file)}; the sources are {known}")
    names = python_names(file, sources) if file.endswith(".py") else None
    if not (function in sources[file] if names is None else function in names or ANY in names):
        raise SpaceError(f"'entry_point' names {function!r}, which {file} does not define")
