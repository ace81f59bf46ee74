"""Tunable parameters and the rules that their values obey."""

from __future__ import annotations

import itertools
import keyword
import logging
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_log = logging.getLogger(__name__)

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]
Config = dict[str, Value]
"""One point of a space: a value for every parameter."""

MAX_VALUES = 32_767
"""Most values of a parameter: the search stores positions in 16 bits."""

MAX_NUMBER = 10**300
"""Largest whole number: a float must be able to hold it, since models compute with floats."""


class SpaceError(ValueError):
    """A space, a parameter or a config is not usable; the message is one line for the user."""


def value_key(value: Any) -> tuple[str, Any]:
    """A key by which values are told apart: 1, 1.0 and ``True`` are three values."""
    return type(value).__name__, tuple(map(value_key, value)) if isinstance(value, tuple) else value


def value_of_json(value: Any) -> Any:
    """A value that was read from JSON, which has lists instead of tuples."""
    return tuple(map(value_of_json, value)) if isinstance(value, list) else value


def same_value(declared: Any, given: Any) -> bool:
    """Whether a value that a user wrote means a declared one.

    8 and 8.0 are the same value; ``true`` and 1 are not. A list is the same as a tuple, which JSON does not have.
    """
    if isinstance(declared, tuple):
        return (
            isinstance(given, tuple | list)
            and len(given) == len(declared)
            and all(same_value(d, g) for d, g in zip(declared, given, strict=True))
        )
    return bool(declared == given) and isinstance(declared, bool) == isinstance(given, bool)


def is_parameter_name(name: str) -> bool:
    """Whether a name is made of Python identifiers with dots between them, as in ``gemm_1.block_m``."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


@dataclass(frozen=True)
class Parameter:
    """A tunable parameter.

    Args:
        name: The key in every config: a Python identifier, after the names of its groups and dots if it is in any.
        values: All allowed values. For an ordinal parameter their order is meaningful (neighbours are similar).
        kind: ``ordinal`` for sizes and counts, ``categorical`` if the order has no meaning.
        doc: One line of description.
    """

    name: str
    values: tuple[Value, ...]
    kind: Literal["ordinal", "categorical"] = "ordinal"
    doc: str = ""

    def __post_init__(self) -> None:
        if not is_parameter_name(self.name):
            raise SpaceError(f"parameter name {self.name!r} is not an identifier")
        if not self.values:
            raise SpaceError(f"parameter {self.name!r} has no values")
        if len(set(map(value_key, self.values))) != len(self.values):
            raise SpaceError(f"parameter {self.name!r} lists a value twice: {list(self.values)}")
        for value in itertools.chain(*(v if isinstance(v, tuple) else (v,) for v in self.values)):
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise SpaceError(
                    f"parameter {self.name!r} has a number of {value.bit_length()} bits, which is too large"
                )
        if len(self.values) > MAX_VALUES:
            raise SpaceError(f"parameter {self.name!r} has {len(self.values)} values; at most {MAX_VALUES} are allowed")
        if self.kind not in ("ordinal", "categorical"):
            raise SpaceError(f"parameter {self.name!r} has kind {self.kind!r}; allowed are ordinal, categorical")


@dataclass(frozen=True)
class Constraint:
    """A rule that every valid config obeys.

    Args:
        parameters: The names that ``holds`` reads; it is called once they all have a value.
        reason: Why a config that breaks it cannot work or is equivalent to another one. Shown to users.
        holds: True for a config that obeys. Gets a mapping with at least ``parameters``.
    """

    parameters: tuple[str, ...]
    reason: str
    holds: Callable[[Mapping[str, Any]], bool]
    _failures: list[str] = field(default_factory=list, repr=False, compare=False)

    def at(self, axis: str | None, sizes: Collection[int]) -> Constraint:
        """The constraint where the axis has these sizes; most do not depend on them."""
        return self

    def admits_at(self, config: Mapping[str, Any], axis: str | None, size: int) -> bool:
        """Whether a config that obeys may be used at a size of the axis."""
        return True

    def admits(self, config: Mapping[str, Any]) -> bool:
        """Whether a config obeys. If the rule raises, it does not; the first such config is logged."""
        try:
            return bool(self.holds(config))
        except Exception as error:  # code of a space may raise anything
            if not self._failures:
                self._failures.append(f"{type(error).__name__}: {error}")
                shown = ", ".join(f"{n}={config.get(n)!r}" for n in self.parameters)
                what = f"{error}" if isinstance(error, SpaceError) else f"{self._failures[0]} for {shown}"
                _log.warning(f"constraint {self.reason!r} cannot be computed, such configs are invalid: {what}")
            return False


def broken(
    constraints: Iterable[Constraint], config: Mapping[str, Any], known: Mapping[str, Any] | None = None
) -> Constraint | None:
    """The constraint that a complete config breaks, None if it is valid.

    Where it breaks several: the one that reads the fewest parameters that are as in ``known``, a valid config, and so
    says most about what was changed. The first of equals; the first of all without ``known``.
    """
    failing = (c for c in constraints if not c.admits(config))
    if known is None:
        return next(failing, None)
    return min(failing, key=lambda c: sum(config[n] == known.get(n) for n in c.parameters), default=None)


def checked_config(what: str, given: Mapping[Any, Any], parameters: Sequence[Parameter]) -> Config:
    """The config in the order of the parameters, with each value replaced by the declared one (:func:`same_value`).

    Args:
        what: Subject of the message, such as ``'default'``.

    Raises:
        SpaceError: A parameter is unknown or missing, or a value is not among the declared ones.
    """
    unknown = [name for name in given if name not in {p.name for p in parameters}]
    if unknown:
        known = ", ".join(p.name for p in parameters)
        raise SpaceError(f"{what} names unknown parameter {reprlib.repr(unknown[0])}; known are {known}")
    config: Config = {}
    for parameter in parameters:
        name, values = parameter.name, parameter.values
        allowed = f"{list(values)}" if len(values) <= 40 else f"{reprlib.repr(list(values))} ({len(values)} values)"
        if name not in given:
            raise SpaceError(f"{what} has no value for parameter {name!r}; allowed are {allowed}")
        value = given[name]
        same = [v for v in values if same_value(v, value)]
        if not same:
            raise SpaceError(f"{what} has {name}={reprlib.repr(value)}; allowed are {allowed}")
        config[name] = same[0]
    return config
