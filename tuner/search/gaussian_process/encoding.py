"""Configs as points: one small integer per parameter, the position of its value in the list of allowed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.constraint_search import Point
from search_spaces.parameters import Config, Parameter, Scalar, value_key
from search_spaces.space import SearchSpace


class Encoding:
    """Translates between configs and points of one space, and names the choices for Optuna.

    Optuna compares choices with ``==``, so ``True`` and ``1`` of one parameter would be the same choice, and its own
    storage takes no tuples. Such a parameter is given to Optuna as the text of its values.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.names: tuple[str, ...] = tuple(p.name for p in space.parameters)
        self.sizes: tuple[int, ...] = tuple(len(p.values) for p in space.parameters)
        self._codes = [{value_key(v): i for i, v in enumerate(p.values)} for p in space.parameters]
        self.choices: tuple[tuple[Scalar, ...], ...] = tuple(_choices(p) for p in space.parameters)
        self._choice_codes = [{c: i for i, c in enumerate(choices)} for choices in self.choices]

    def point(self, config: Mapping[str, Any]) -> Point:
        """The point of a config.

        Raises:
            SpaceError: A parameter is unknown or missing, or a value is not allowed.
        """
        checked = self.space.check(config)
        return tuple(codes[value_key(checked[name])] for name, codes in zip(self.names, self._codes, strict=True))

    def config(self, point: Sequence[int]) -> Config:
        """The config at a point."""
        return {p.name: p.values[code] for p, code in zip(self.space.parameters, point, strict=True)}

    def optuna_params(self, point: Sequence[int]) -> dict[str, Scalar]:
        """The point as Optuna's parameters."""
        return {n: c[code] for n, c, code in zip(self.names, self.choices, point, strict=True)}

    def point_of_params(self, params: Mapping[str, Any]) -> Point:
        """The point of a complete set of Optuna's parameters."""
        return tuple(codes[params[name]] for name, codes in zip(self.names, self._choice_codes, strict=True))


def _choices(parameter: Parameter) -> tuple[Scalar, ...]:
    plain = tuple(v for v in parameter.values if not isinstance(v, tuple))
    if len(set(plain)) == len(parameter.values):
        return plain
    return tuple(repr(v) for v in parameter.values)
