"""Tunable parameters and the rules that their values obey."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_log = logging.getLogger(__name__)

Scalar = bool | int | float | str
Config = dict[str, Scalar]
"""One point of a space: a value for every parameter."""

MAX_VALUES = 32_767
"""Most values of a parameter: the search stores positions in 16 bits."""

MAX_NUMBER = 10**300
"""Largest whole number: a float must be able to hold it, since models compute with floats."""


class SpaceError(ValueError):
    """A space, a parameter or a config is not usable; the message is one line for the user."""


@dataclass(frozen=True)
class Parameter:
    """A tunable parameter.

    Args:
        name: A Python identifier, the key in every config.
        values: All allowed values. For an ordinal parameter their order is meaningful (neighbours are similar).
        kind: ``ordinal`` for sizes and counts, ``categorical`` if the order has no meaning.
        doc: One line of description.
    """

    name: str
    values: tuple[Scalar, ...]
    kind: Literal["ordinal", "categorical"] = "ordinal"
    doc: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SpaceError(f"parameter name {self.name!r} is not an identifier")
        if not self.values:
            raise SpaceError(f"parameter {self.name!r} has no values")
        keys = [(type(v).__name__, v) for v in self.values]
        if len(set(keys)) != len(keys):
            raise SpaceError(f"parameter {self.name!r} lists a value twice: {list(self.values)}")
        for value in self.values:
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


def checked_config(what: str, given: Mapping[Any, Any], parameters: Sequence[Parameter]) -> Config:
    """The config in the order of the parameters, with each value replaced by the declared one that equals it.

    8 and 8.0 are the same value; ``true`` and 1 are not.

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
        same = [v for v in values if v == value and isinstance(v, bool) == isinstance(value, bool)]
        if not same:
            raise SpaceError(f"{what} has {name}={reprlib.repr(value)}; allowed are {allowed}")
        config[name] = same[0]
    return config
