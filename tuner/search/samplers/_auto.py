"""The default sampler: a Gaussian process over the valid configs, with a space-filling start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from search_spaces.parameters import Config
from tuner.search.config_table import ConfigTable
from tuner.search.expectation import Expect, Expectation
from tuner.search.gaussian_process.features import Features
from tuner.search.gaussian_process.model import GaussianModel, Others
from tuner.search.gaussian_process.transform import Scale
from tuner.search.options import Options
from tuner.search.samplers._base import ConfigSampler
from tuner.search.stopping_rule import Outlook
from tuner.search.suggestions import Relative
from tuner.search.transfer import Transfer

Rows = NDArray[np.intp]

LEAST_TOLD = 4
"""Configs that must have worked before there is a model, or anything to tell other searches."""


@dataclass(frozen=True)
class _State:
    """What the model is asked with.

    Args:
        seen: Rows that it knows, finished or in flight.
        told: Which of them have a value.
        residual: Their targets less what was expected; 0 where there is no value.
        best: The smallest target.
        scale: From values to targets.
        of_pool: What is expected of the candidates, as targets.
    """

    seen: list[int]
    told: NDArray[np.bool_]
    residual: NDArray[np.float64]
    best: float
    scale: Scale
    of_pool: NDArray[np.float64] | float = 0.0


class AutoSampler(ConfigSampler):
    """Expected improvement under a Gaussian process, times the chance that the config works at all.

    Args:
        table: See :class:`ConfigSampler`.
        seed: See :class:`ConfigSampler`.
        options: Its constants.
    """

    def __init__(self, table: ConfigTable, seed: int, options: Options | None = None) -> None:
        super().__init__(table, seed)
        self.options = options or Options()
        self._threads = ThreadpoolController()
        self._random = np.random.default_rng(seed)
        self._features = Features.of(table.encoding)
        self._model = GaussianModel(table, self._features, self.options.beliefs)
        self._works = GaussianModel(table, self._features, self.options.beliefs)
        self._works_since: int | None = None
        self._relative: Relative | None = None
        self._expectation: Expectation | None = None
        self._pool: Rows = np.zeros(0, dtype=np.intp)
        self._left_out: set[int] = set()
        self._fitted_at = 0
        self._place = 0.0
        self._siblings: tuple[AutoSampler, ...] = ()

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> int:
        # One thread: the matrices are small, and the other cores are building and measuring.
        with self._threads.limit(limits=1):
            return self._propose()

    def _propose(self) -> int:
        relative = self._relative
        if relative is not None and len(self.table.order) <= relative.suggestions:
            row = self._best_of(relative)
            relative.aside.add(row)
            return row
        row = self._choose()
        while relative is not None and row in relative.aside:
            relative.aside.discard(row)  # the search now proposes it by itself, so it may learn from the result
            row = self._choose()
        return row

    def _choose(self) -> int:
        """The row to propose. A related sweep may have suggested it already, which the model does not know."""
        order, values = self._known()
        passed = [r for r, v in values.items() if v is not None]
        if len(order) < self.options.start or len(passed) < LEAST_TOLD:
            return self._first(len(order))
        return self._best_promise(passed)

    def learn_from(self, prior: Sequence[tuple[Config, float | None]]) -> None:
        transfer = Transfer(self.table.encoding, prior)
        if transfer.usable:
            self._relative = Relative(self.table, transfer, self.options.related)

    def prepare(self) -> None:
        if self._expectation is not None:
            self._expectation.of(self._candidates([]))

    def expect(self, expect: Expect) -> None:
        if self._expectation is None:
            self._expectation = Expectation(self.table, expect)
        else:
            self._expectation.renew(expect)

    def learn_beside(self, place: float, siblings: Sequence[ConfigSampler]) -> None:
        self._place = place
        self._siblings = tuple(s for s in siblings if isinstance(s, AutoSampler))

    def suggested(self, row: int) -> None:
        if self._relative is not None:
            self._relative.aside.add(row)

    def outlook(self) -> Outlook | None:
        """Estimated from joint draws of the most promising free configs."""
        with self._threads.limit(limits=1):
            return self._outlook()

    def _outlook(self) -> Outlook | None:
        passed = [v for v in self._known()[1].values() if v is not None]
        if not len(self._pool) or not passed:
            return None
        state = self._state()
        self._model.update(state.seen)
        promise = self._promise(state)
        chosen = np.argsort(-promise)[: self.options.outlook_configs]
        chosen = chosen[np.isfinite(promise[chosen])]
        if not len(chosen):
            return Outlook(0.0, 0.0)
        normal = np.random.default_rng(len(state.seen)).standard_normal((self.options.outlook_draws, len(chosen)))
        draws = self._model.draw(state.residual, state.told, chosen, self.options.doubt * normal, state.of_pool)
        gain = np.maximum(state.best - draws.min(axis=1), 0)
        return Outlook(float(gain.mean()) * state.scale.spread, float((gain > 0).mean()))

    # -- start -------------------------------------------------------------------------------------------------------

    def _first(self, count: int) -> int:
        """A trial of the start: spread over the space, and every other one where a model expects the best."""
        expectation = self._expectation
        if expectation is None or count % 2 == 0:
            return self._farthest()
        free = np.array(expectation.climb(), dtype=np.intp)
        if not len(free):
            return self._farthest()
        return self._apart_from(self.table.order[1:], free, expectation.of(free))

    def _best_of(self, relative: Relative) -> int:
        """The free config with the best prediction by the related sweep, at a distance from its earlier suggestions.

        The best configs of a related sweep resemble each other: if it is wrong about one, it is wrong about all.
        """
        free = self.table.free()
        return self._apart_from(self.table.order[1:], free, relative.predict(free))

    def _apart_from(self, tried: list[int], free: Rows, expected: NDArray[np.float64]) -> int:
        """The free row with the smallest expected value at some distance from those that were tried."""
        if tried:
            apart = self._steps(free, tried)
            allowed = apart.min(axis=1) >= self.options.related_apart * np.median(apart[:, 0])
            if allowed.any():
                expected = np.where(allowed, expected, np.inf)
        return int(free[int(np.argmin(expected))])

    def _farthest(self) -> int:
        """Of a random few free configs, the one farthest from every taken one, in steps of the value lists."""
        free = np.flatnonzero(self._free())
        if len(free) == 0:
            return self.random_row()
        few = self._random.choice(free, min(len(free), self.options.start_candidates), replace=False)
        taken, _ = self._known()
        if not taken:
            return int(few[0])
        apart = self._steps(few, taken).min(axis=1)
        return int(few[np.argmax(apart + 1e-9 * self._random.random(len(few)))])

    def _steps(self, rows: Rows, others: Rows | list[int]) -> NDArray[np.float64]:
        """Distances between configs in steps of the value lists; a whole list counts 1. Shape [rows, others]."""
        last = np.maximum(np.array(self.table.encoding.sizes) - 1, 1)
        points = self.table.points
        steps: NDArray[np.float64] = np.abs(points[rows][:, None] / last - (points[others] / last)[None]).sum(axis=2)
        return steps

    # -- model -------------------------------------------------------------------------------------------------------

    def _best_promise(self, passed: list[int]) -> int:
        if not len(self._pool) or len(self._known()[1]) >= self._fit_due():
            self._refit(passed)
        if not self._free()[self._pool].any():
            return self.random_row()
        state = self._state()
        self._model.update(state.seen)
        return int(self._pool[int(np.argmax(self._promise(state)))])

    def _known(self) -> tuple[list[int], dict[int, float | None]]:
        """Taken rows in order, and values by row, without the suggestions of a related sweep."""
        aside = set() if self._relative is None else self._relative.aside
        if not aside:
            return self.table.order, self.table.values
        values = {r: v for r, v in self.table.values.items() if r not in aside}
        return [r for r in self.table.order if r not in aside], values

    def _free(self) -> NDArray[np.bool_]:
        """Rows that are free, or taken only because a related sweep suggested them."""
        free = ~self.table.taken
        if self._relative is not None:
            free[list(self._relative.aside)] = True
        return free

    def _fit_due(self) -> float:
        """Number of finished trials at which the next fit is due.

        Results that arrive between fits come on top of ``observations_limit``. Late in a sweep a fixed share of all
        trials would be too many, so the number is bounded.
        """
        options = self.options
        return min(self._fitted_at * options.refit_growth, self._fitted_at + options.observations_limit / 4)

    def _promise(self, state: _State) -> NDArray[np.float64]:
        """Logarithm of expected improvement times probability to work, for each candidate; -inf where taken."""
        improvement = self._model.log_expected_improvement(state.residual, state.told, state.best, state.of_pool)
        promise = improvement + self._log_chance_to_work()
        promise[~self._free()[self._pool]] = -np.inf
        return promise

    def _state(self) -> _State:
        order, values = self._known()
        seen = [r for r in order if values.get(r, 0.0) is not None and r not in self._left_out]
        told = np.array([r in values for r in seen])
        raw = np.array([values[r] for r in seen if r in values], dtype=np.float64)
        scale = Scale.of(raw)
        wanted = np.zeros(len(seen))
        wanted[told] = scale(raw)
        best = float(wanted[told].min())
        if self._expectation is None:
            return _State(seen, told, wanted, best, scale)
        apart = self._expectation.of([r for r in seen if r in values]) - raw
        prior = self._expectation.targets(seen, apart, scale)
        return _State(seen, told, wanted - prior, best, scale, self._expectation.targets(self._pool, apart, scale))

    def _refit(self, passed: list[int]) -> None:
        """Fit the hyperparameters and choose the candidates again."""
        values = np.array([self.table.values[r] for r in passed], dtype=np.float64)
        kept = self._kept(values)
        self._left_out = set(passed) - {passed[i] for i in kept}
        rows = [passed[i] for i in kept]
        self._pool = self._candidates([passed[i] for i in np.argsort(values)[: self.options.leaders]])
        self._fit(rows, values[kept])
        self._refit_works()
        self._fitted_at = len(self._known()[1])

    def _fit(self, rows: list[int], values: NDArray[np.float64]) -> None:
        """Fit to what the expectation leaves, and find how far it is to be trusted."""
        self._model.refit(rows, self._residual(rows, values), self._pool, self._others())
        expectation = self._expectation
        if expectation is None:
            return
        scale, expectation.trust = Scale.of(values), 1.0
        line = expectation.targets(rows, expectation.of(rows) - values, scale)
        trust = self._model.slope(rows, scale(values), line, self.options.trust)
        expectation.trust = min(max(trust, 0.0), 1.0)

    def _others(self) -> Others | None:
        """What the searches of other sizes know now; None where there are none."""
        if not self._siblings:
            return None
        most = self.options.others_limit // len(self._siblings)
        known = [(s._place, *s.told(most)) for s in self._siblings]
        points, wanted = np.concatenate([p for _, p, _ in known]), np.concatenate([w for _, _, w in known])
        return Others(self._place, points, np.repeat([p for p, _, _ in known], [len(w) for _, _, w in known]), wanted)

    def told(self, most: int) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
        """Points and targets of configs that worked, less what was expected: half of ``most`` are the best, the others
        from the whole range."""
        values = {r: v for r, v in self._known()[1].items() if v is not None}
        rows, raw = list(values), np.array(list(values.values()))
        if len(rows) < LEAST_TOLD:
            return self.table.points[:0], np.zeros(0)
        ranked = np.argsort(raw, kind="stable")
        if len(ranked) > most:
            rest = np.linspace(most // 2, len(ranked) - 1, most - most // 2).astype(np.intp)
            ranked = np.concatenate([ranked[: most // 2], ranked[rest]])
        kept = np.array(rows, dtype=np.intp)[ranked]
        return self.table.points[kept], self._residual(rows, raw)[ranked]

    def _residual(self, rows: list[int], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Targets of finished rows, less what was expected of them."""
        scale, expectation = Scale.of(values), self._expectation
        wanted = scale(values)
        if expectation is None:
            return wanted
        return wanted - expectation.targets(rows, expectation.of(rows) - values, scale)

    def _refit_works(self) -> None:
        """Fit the model of failures, once there has been a failure."""
        self._works_since = None
        order, values = self._known()
        if None in values.values():
            self._works_since = max(0, len(order) - self.options.observations_limit)
            self._works.refit(*self._outcomes(), self._pool)

    def _outcomes(self) -> tuple[list[int], NDArray[np.float64]]:
        """Finished rows in the order taken, and a label for each: 1 if it worked, -1 if not."""
        order, values = self._known()
        rows = [r for r in order[self._works_since :] if r in values]
        return rows, np.array([1.0 if values[r] is not None else -1.0 for r in rows])

    def _kept(self, values: NDArray[np.float64]) -> Rows:
        """Positions of the values to learn from: all of them, or the best and a random rest."""
        limit = self.options.observations_limit
        if len(values) <= limit:
            return np.arange(len(values))
        ranked = np.argsort(values)
        rest = self._random.choice(ranked[limit // 2 :], limit - limit // 2, replace=False)
        return np.sort(np.concatenate([ranked[: limit // 2], rest]))

    def _candidates(self, leaders: list[int]) -> Rows:
        """Rows that the model looks at until the next fit: all free ones, or a sample and the leaders' neighbours."""
        table = self.table
        if table.complete and len(table.points) <= self.options.pool_limit:
            return np.flatnonzero(self._free())
        near = [] if self._expectation is None else self._expectation.climb()
        for leader in leaders:
            near += table.add(table.neighbours(tuple(int(c) for c in table.points[leader])))
        for _ in range(0 if table.complete else self.options.fresh):
            self.random_row()
        free = table.free()
        limit = self.options.pool_limit if table.complete else self.options.sample_limit
        sample = self._random.choice(free, min(len(free), limit), replace=False)
        wanted = np.union1d(sample, np.array(near, dtype=np.intp))
        wanted = wanted[~table.taken[wanted]]
        table.forget_all_free_but(wanted)
        return wanted

    def _log_chance_to_work(self) -> NDArray[np.float64] | float:
        """Logarithm of the probability that each candidate works, by the model of failures."""
        if self._works_since is None:
            return 0.0
        rows, labels = self._outcomes()
        self._works.update(rows)
        return np.maximum(self._works.log_chance_above_zero(labels), self.options.least_log_chance)
