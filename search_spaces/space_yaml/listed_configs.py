"""``configs`` of a ``space.yaml``: a list of configs as it is, such as that of Triton's autotuner.

Each name in it becomes a parameter like any other, and constraints leave what is in the list.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from search_spaces.constraint_search import only_listed
from search_spaces.parameters import Constraint, Parameter, SpaceError, checked_config, value_key
from search_spaces.space_yaml.keys import SpaceKeys, one_type


def listed_parameters(keys: SpaceKeys) -> tuple[tuple[Parameter, ...], tuple[Constraint, ...]]:
    """The parameters of the list, and what keeps their values together.

    Raises:
        SpaceError: The mappings do not all name the same parameters, or one that has values of its own.
    """
    if not keys.configs:
        return (), ()
    first = keys.configs[0]
    for i, config in enumerate(keys.configs, 1):
        for name in [n for n in (*first, *config) if n not in first or n not in config][:1]:
            others = "the first one has it" if name in first else "the first one has not"
            says = "no value" if name in first else "a value"
            raise SpaceError(f"config {i} of 'configs' has {says} for {name!r}; {others}")
    if not first:
        raise SpaceError("the mappings of 'configs' name no parameter")
    for name in first:
        if name in keys.parameters:
            raise SpaceError(f"parameter {name!r} is in 'configs' and in 'parameters'; one of them lists its values")
    parameters = tuple(_parameter(name, [config[name] for config in keys.configs]) for name in first)
    listed = [checked_config(f"config {i} of 'configs'", c, parameters) for i, c in enumerate(keys.configs, 1)]
    return parameters, only_listed(tuple(first), listed, "these values together are not one of 'configs'")


def _parameter(name: str, values: Sequence[Any]) -> Parameter:
    """The parameter with each value once: numbers in rising order, others in the list's."""
    try:
        known = {value_key(v): v for v in one_type(values)}
    except SpaceError as error:
        raise SpaceError(f"'configs': the values of {name!r}: {error}") from error
    different: Collection[Any] = known.values()
    if {type(v) for v in different} <= {int, float}:
        return Parameter(name, tuple(sorted(different)), "ordinal")
    return Parameter(name, tuple(different), "categorical")
