"""What a surrogate sees of a config: columns in [0, 1], in groups that share a length scale.

Nothing here knows a parameter's name. Three things are taken from the values themselves: numbers that are all positive
are seen by their logarithm (sizes act by ratios), whole numbers also by how often two divides them (hardware works in
powers of two, so 96 and 128 may be closer in effect than 120 and 128), and the product of all such sizes is one more
column (work and resources of a kernel grow with products of sizes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.parameters import Parameter, Value
from tuner.search.gaussian_process.encoding import Encoding

Column = NDArray[np.float64]

MOST_CORNERS = 64
"""Most columns of one categorical parameter."""


@dataclass(frozen=True)
class Features:
    """Maps points to feature columns.

    Args:
        tables: Per column, the parameter's position and the column's value for each of its values.
        groups: Per column, the group whose length scale it has; columns of one group are consecutive.
        product: Per parameter, the logarithm of each value where it counts into the product of sizes, else None.
        product_range: Smallest and largest possible logarithm of that product.
    """

    tables: tuple[tuple[int, Column], ...]
    groups: tuple[int, ...]
    product: tuple[Column | None, ...]
    product_range: tuple[float, float]

    @classmethod
    def of(cls, encoding: Encoding) -> Features:
        """The features of a space."""
        tables: list[tuple[int, Column]] = []
        groups: list[int] = []
        group = 0
        product: list[Column | None] = []
        for position, parameter in enumerate(encoding.space.parameters):
            for columns in _columns(parameter):
                tables += [(position, c) for c in columns]
                groups += [group] * len(columns)
                group += 1
            product.append(_log_sizes(parameter))
        sizes = [p for p in product if p is not None]
        if len(sizes) > 1:
            groups.append(group)
        else:
            product = [None] * len(product)
        low, high = sum(float(p.min()) for p in sizes), sum(float(p.max()) for p in sizes)
        return cls(tuple(tables), tuple(groups), tuple(product), (low, high))

    def __call__(self, points: NDArray[np.int16]) -> NDArray[np.float64]:
        """Feature rows of points, shape [points, columns]."""
        columns = [values[points[:, position]] for position, values in self.tables]
        sizes = [(i, p) for i, p in enumerate(self.product) if p is not None]
        if sizes:
            low, high = self.product_range
            total = sum((p[points[:, i]] for i, p in sizes), np.zeros(len(points)))
            columns.append((total - low) / (high - low))
        if not columns:
            return np.zeros((len(points), 1))
        return np.stack(columns, axis=1)


def _columns(parameter: Parameter) -> list[list[Column]]:
    """Groups of columns of one parameter; none if it has only one value."""
    values = parameter.values
    if len(values) == 1:
        return []
    if parameter.kind == "categorical" and len(values) > 2:
        # Any two different values are at distance 1.
        return [list(_corners(len(values)) / np.sqrt(2.0))]
    if not _numeric(values):
        return [[_scaled(np.arange(len(values), dtype=np.float64))]]
    numbers = np.array(values, dtype=np.float64)
    out = [[_scaled(_logarithm(numbers))]]
    twos = _powers_of_two(numbers)
    return out if twos is None else [*out, [_scaled(twos)]]


def _corners(count: int) -> NDArray[np.float64]:
    """Columns that put each value at a corner of its own, shape [columns, values].

    With more than :data:`MOST_CORNERS` values, one column for each would fill the memory with zeros. Random directions
    of unit length are used instead; they are nearly as far apart as corners.

    Source: Johnson and Lindenstrauss (1984).
    """
    if count <= MOST_CORNERS:
        return np.eye(count)
    directions = np.random.default_rng(0).standard_normal((MOST_CORNERS, count))
    return directions / np.linalg.norm(directions, axis=0)


def _numeric(values: Sequence[Value]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _logarithm(numbers: Column) -> Column:
    """The logarithm of numbers that can be sizes; other values unchanged."""
    if numbers.min() > 0:
        return np.log(numbers)
    return np.log1p(numbers) if numbers.min() == 0 else numbers


def _powers_of_two(numbers: Column) -> Column | None:
    """How often two divides each value; None where that adds nothing to the order."""
    if len(numbers) < 3 or not all(v > 0 and v.is_integer() for v in numbers.tolist()):
        return None
    whole = numbers.astype(np.int64)
    twos: Column = np.log2((whole & -whole).astype(np.float64))
    return None if _never_turns(twos[np.argsort(whole)]) else twos


def _never_turns(twos: Column) -> bool:
    steps = np.diff(twos)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _log_sizes(parameter: Parameter) -> Column | None:
    values = parameter.values
    if len(values) < 3 or parameter.kind == "categorical" or not _numeric(values):
        return None
    numbers = np.array(values, dtype=np.float64)
    return np.log(numbers) if numbers.min() > 0 else None


def _scaled(column: Column) -> Column:
    return (column - column.min()) / (column.max() - column.min())
