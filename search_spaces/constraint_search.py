"""Lists or samples the valid configs of a space, deciding one parameter after the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any

from search_spaces.parameters import Config, Constraint, Parameter, SpaceError, Value

Point = tuple[int, ...]
"""A config as positions in the value lists of its parameters."""

PROBES = 100
"""Number of random descents from which the number of valid configs is estimated."""
MORE_PROBES, PROBES_CPU_S = 1000, 0.5
"""The same where all of these ended in dead ends, and the most CPU time for it: in a large space with many rules few
descents arrive, and it is not a sparse one for that."""
REMEMBERED = 1 << 15
"""Most answers that are kept per parameter."""
RESTARTS = 600
"""Random descents that may end in dead ends before valid configs are looked for near a known one."""
LEAST_STEPS = 8
"""Fewest steps from the known config to a random one; otherwise as many as there are parameters."""
STEPS_BETWEEN = 3
"""Steps from one random config to the next."""


CHECKS = 2_000_000
"""Constraint checks that may be spent on one question; most spaces need a small part of them."""
CPU_S = 4.0
"""Seconds of this thread's CPU time that may be spent, for constraints that are slow to compute. Not wall time: what a
search sees must not depend on the machine's load."""
CLOCK_EVERY = 512
"""Checks between looks at the clock."""


class TooSparseError(SpaceError):
    """No valid config was found within the effort that was allowed. There may be one."""


class Effort:
    """What may be spent on looking for valid configs.

    Args:
        checks: Most constraint checks.
        cpu_s: Most CPU time of this thread in seconds.
    """

    def __init__(self, checks: int = CHECKS, cpu_s: float = CPU_S) -> None:
        self.spent = 0
        self._checks = checks
        self._until = time.thread_time() + cpu_s
        self._next_look = CLOCK_EVERY

    def spend(self, checks: int) -> bool:
        """Add checks; False if no more may be spent."""
        self.spent += checks
        if self.spent >= self._next_look:
            self._next_look = self.spent + CLOCK_EVERY
            if time.thread_time() > self._until:
                self._checks = 0
        return self.spent <= self._checks

    @property
    def used_up(self) -> bool:
        """Whether no more may be spent."""
        return self.spent > self._checks


class Walk:
    """The tree of a space: one level per parameter, pruned where the values so far break a constraint.

    Args:
        name: The space's, for messages.
        parameters: Its parameters.
        constraints: Its constraints.
        start: A valid config, near which others are looked for where they are rare; None if none is known.

    Attributes:
        is_sparse: Whether random descents were seen to lead nowhere, so that configs are found near ``start``.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Parameter],
        constraints: Sequence[Constraint],
        start: Config | None = None,
    ) -> None:
        self._name = name
        self._constraints = constraints
        self._start = start
        self.is_sparse = False
        self._values = [p.values for p in parameters]
        self._names = [p.name for p in parameters]
        self._checks = _closing(constraints, self._names)
        self._order = _early_order(constraints, self._names)
        self._early = _closing(constraints, [self._names[i] for i in self._order])
        self._keys = [_key(positions) for positions in _reads(self._early, self._order, self._names)]
        self._known: list[dict[Any, list[int]]] = [{} for _ in self._order]

    def points(self, effort: Effort | None = None) -> Iterator[Point]:
        """Valid points in lexicographic order, one by one.

        Raises:
            TooSparseError: The effort is used up. None is without a bound.
        """
        return self._in_order((), {}, effort)

    def all(self, limit: int, effort: Effort) -> list[Point] | None:
        """All valid points in lexicographic order.

        Args:
            limit: Most points.
            effort: What may be spent.

        Returns:
            None if there are more points, or if finding them takes more effort.
        """
        try:
            found = list(islice(self._in_order((), {}, effort), limit + 1))
        except TooSparseError:
            return None
        return None if len(found) > limit else found

    def sample(self, rng: random.Random, effort: Effort | None = None, last: Point | None = None) -> Point:
        """A random valid point.

        Parameters are decided in an order in which constraints apply as early as possible, each among the values that
        break nothing so far; after a dead end it starts again. Compared with a uniform draw this favours configs of
        sparse branches. Where all this leads nowhere, the point is some random steps away from the known config.

        Args:
            rng: Decides.
            effort: What may be spent.
            last: The point before, if several are drawn: few steps from it are enough where there are steps.

        Raises:
            TooSparseError: The effort is used up, by default ``CHECKS`` and ``CPU_S``.
            SpaceError: No config is valid.
        """
        effort = effort or Effort()
        for _ in range(0 if self.is_sparse else RESTARTS):
            point = self._descent(rng, effort)[0]
            if point is not None:
                return point
        self.is_sparse = True
        point = self._near_start(rng, effort) if last is None else self._near(last, rng, effort)
        if point is not None:
            return point
        for point in self._in_order((), {}, effort, rng):
            return point
        raise SpaceError(f"space {self._name!r}: no config satisfies all {len(self._constraints)} constraints")

    def _near_start(self, rng: random.Random, effort: Effort) -> Point | None:
        """The end of a random walk from the known config; None if there is none, or nothing valid is around it."""
        if self._start is None or not self._admits_all(self._start, effort):
            return None
        config = dict(self._start)
        moved = [self._step(config, rng, effort) for _ in range(max(LEAST_STEPS, len(self._names)))]
        return self._point(config) if any(moved) else None

    def _near(self, point: Point, rng: random.Random, effort: Effort) -> Point:
        """A valid point that is a few steps away from a point that was reached by steps."""
        config: Config = {
            name: values[code] for name, values, code in zip(self._names, self._values, point, strict=True)
        }
        moved = 0
        while moved < STEPS_BETWEEN:
            moved += self._step(config, rng, effort)
        return self._point(config)

    def _point(self, config: Config) -> Point:
        return tuple(values.index(config[name]) for name, values in zip(self._names, self._values, strict=True))

    def _step(self, config: Config, rng: random.Random, effort: Effort) -> bool:
        """Change one parameter of a valid config, and if that breaks a constraint one more; False if nothing helps."""
        count = len(self._names)
        first = rng.randrange(count)
        before = dict(config)
        config[self._names[first]] = rng.choice(self._values[first])
        if self._admits_all(config, effort):
            return config != before
        for second in rng.sample(range(count), count):
            name, values = self._names[second], self._values[second]
            if second == first:
                continue
            for code in rng.sample(range(len(values)), len(values)):
                config[name] = values[code]
                if self._admits_all(config, effort):
                    return True
            config[name] = before[name]
        config.update(before)
        return False

    def _admits_all(self, config: Config, effort: Effort) -> bool:
        if not effort.spend(1):
            raise self._too_sparse(effort)
        return all(c.admits(config) for c in self._constraints)

    def size(self, rng: random.Random) -> float:
        """Estimate of the number of valid points: the mean product of branches along random descents.

        Source: Knuth, Estimating the efficiency of backtrack programs (1975). Rough, but unbiased.
        """
        products = [self._descent(rng)[1] for _ in range(PROBES)]
        effort = Effort(cpu_s=PROBES_CPU_S)
        with suppress(TooSparseError):
            while len(products) < MORE_PROBES and not any(products[:PROBES]):
                products.append(self._descent(rng, effort)[1])
        return sum(products) / len(products)

    def _descent(self, rng: random.Random, effort: Effort | None = None) -> tuple[Point | None, float]:
        """One random descent: the point and the product of its branching factors; None and 0 at a dead end."""
        product = 1.0
        codes = [0] * len(self._values)
        for step, position in enumerate(self._order):
            fitting = self._known[step].get(self._keys[step](codes))
            if fitting is None:
                fitting = self._fitting(step, codes)
                if effort is not None and not effort.spend(len(self._values[position])):
                    raise self._too_sparse(effort)
            if not fitting:
                return None, 0.0
            product *= len(fitting)
            codes[position] = fitting[int(rng.random() * len(fitting))]
        return tuple(codes), product

    def _fitting(self, step: int, codes: list[int]) -> list[int]:
        """The values of a step's parameter that break no constraint, cached by the choices that its constraints read.

        A constraint reads few parameters, so a few hundred answers serve millions of descents.
        """
        known = self._known[step]
        if len(known) >= REMEMBERED:
            known.clear()
        partial: Config = {self._names[p]: self._values[p][codes[p]] for p in self._order[:step]}
        position = self._order[step]
        fitting = []
        for code, value in enumerate(self._values[position]):
            partial[self._names[position]] = value
            if all(c.admits(partial) for c in self._early[step]):
                fitting.append(code)
        known[self._keys[step](codes)] = fitting
        return fitting

    def _too_sparse(self, effort: Effort) -> TooSparseError:
        return TooSparseError(f"space {self._name!r}: no valid config found after {effort.spent} checks")

    def _in_order(
        self, codes: Point, partial: Config, effort: Effort | None = None, rng: random.Random | None = None
    ) -> Iterator[Point]:
        depth = len(codes)
        if depth == len(self._values):
            yield codes
            return
        count = len(self._values[depth])
        for code in range(count) if rng is None else rng.sample(range(count), count):
            if effort is not None and not effort.spend(1 + len(self._checks[depth])):
                raise self._too_sparse(effort)
            partial[self._names[depth]] = self._values[depth][code]
            if all(c.admits(partial) for c in self._checks[depth]):
                yield from self._in_order((*codes, code), partial, effort, rng)
        partial.pop(self._names[depth], None)


@dataclass(frozen=True)
class _Begins:
    """Whether the values of some parameters are those of a config in a list."""

    names: tuple[str, ...]
    known: frozenset[tuple[Value, ...]]

    def __call__(self, config: Mapping[str, Any]) -> bool:
        return tuple(config[n] for n in self.names) in self.known


def only_listed(names: tuple[str, ...], configs: Sequence[Config], reason: str) -> tuple[Constraint, ...]:
    """Constraints that admit the listed configs alone.

    There is one for the first parameters, the first two and so on, all of them at last: few configs of a large space
    can be listed only if a branch without any is left at once.

    Args:
        names: The parameters.
        configs: A value for each of them.
        reason: Why another config is not valid.
    """
    rows = [tuple(config[n] for n in names) for config in configs]
    lengths = range(1, len(names) + 1)
    return tuple(Constraint(names[:n], reason, _Begins(names[:n], frozenset(r[:n] for r in rows))) for n in lengths)


def _early_order(constraints: Sequence[Constraint], names: list[str]) -> list[int]:
    """An order of the parameters: first those that complete a constraint with the fewest others."""
    order: list[str] = []
    waiting = [set(c.parameters) for c in constraints]
    while waiting:
        nearest = min(waiting, key=len)
        order += [n for n in names if n in nearest]
        waiting = [rest for c in waiting if (rest := c - nearest)]
    order += [n for n in names if n not in order]
    return [names.index(n) for n in order]


def _reads(closing: list[list[Constraint]], order: list[int], names: list[str]) -> list[tuple[int, ...]]:
    """For each step of an order, the positions of the earlier parameters that its constraints read."""
    found = []
    for step, constraints in enumerate(closing):
        read = {n for c in constraints for n in c.parameters}
        found.append(tuple(position for position in order[:step] if names[position] in read))
    return found


def _key(positions: tuple[int, ...]) -> Callable[[list[int]], Any]:
    """The key of a step's cached answers: the choices at these positions."""
    return itemgetter(*positions) if positions else lambda _: None


def _closing(constraints: Sequence[Constraint], order: list[str]) -> list[list[Constraint]]:
    """For each step of an order, the constraints whose last parameter it decides."""
    step = {name: i for i, name in enumerate(order)}
    closing: list[list[Constraint]] = [[] for _ in order]
    for constraint in constraints:
        closing[max((step[n] for n in constraint.parameters), default=0)].append(constraint)
    return closing
