"""The ask-and-tell search of one regime."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from search_spaces.parameters import Config, SpaceError
from search_spaces.space import SearchSpace
from tuner.search.config_table import ConfigTable
from tuner.search.expectation import Expect
from tuner.search.gaussian_process.encoding import Point
from tuner.search.stopping_rule import FEWEST_TRIALS, StopAdvice, advise

if TYPE_CHECKING:
    import optuna

_SAMPLERS = {
    "auto": ("tuner.search.samplers._auto", "AutoSampler"),
    "tpe": ("tuner.search.samplers._tpe", "TPEConfigSampler"),
    "gp": ("tuner.search.samplers._gp", "GPConfigSampler"),
    "random": ("tuner.search.samplers._random", "RandomConfigSampler"),
    "grid": ("tuner.search.samplers._grid", "GridConfigSampler"),
}


def sampler_names() -> tuple[str, ...]:
    """Names that ``--sampler`` takes; the first is the default."""
    return tuple(_SAMPLERS)


@dataclass(frozen=True)
class Proposal:
    """A config to try.

    Args:
        number: Number of the proposal, for :meth:`Search.tell`.
        config: A valid config that was not proposed before.
        origin: Why it was chosen.
    """

    number: int
    config: Config
    origin: Literal["default", "warm", "sampler"]


class Search:
    """Proposes configs of one space and learns from their values.

    Values are minimised; only their order and relative distances matter, not their scale. Used by one thread. Any
    number of proposals may be in flight. The same space, seed and sequence of calls gives the same proposals, where a
    search learns beside others: of calls of all of them.

    Args:
        space: The space to search.
        sampler: One of :func:`sampler_names`.
        seed: Seed of all random choices.
        warm_start: Configs to propose right after the default; those that are not valid in this space are skipped.
        prior: Finished trials ``(config, value or None)`` of a related sweep: another GPU, shape or version of the
            space. They guide the sampler and do not count as trials of this search.
        expect: What a model expects of a config, in the unit of the values; None where it expects nothing.

    Raises:
        ValueError: The sampler is unknown.
        SpaceError: No config of the space is valid.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: str = "auto",
        seed: int = 0,
        warm_start: Sequence[Config] = (),
        prior: Sequence[tuple[Config, float | None]] = (),
        expect: Expect | None = None,
    ) -> None:
        if sampler not in _SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; allowed are {', '.join(_SAMPLERS)}")
        import optuna

        from tuner.search.storage import CompactStorage

        self.space = space
        self._rng = random.Random(seed)
        self._table = ConfigTable.of(space, self._rng)
        self._encoding = self._table.encoding
        module, name = _SAMPLERS[sampler]
        self._sampler = getattr(importlib.import_module(module), name)(self._table, seed)
        if prior:
            self._sampler.learn_from(prior)
        if expect is not None:
            self.expect(expect)
        of_the_relative = [config for config, _ in prior]
        self._suggested = {self._encoding.point(c) for c in warm_start if c in of_the_relative and self._usable(c)}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study: optuna.Study = optuna.create_study(
            storage=CompactStorage(), sampler=self._sampler, direction="minimize"
        )
        """Optuna's study of all trials, including those in flight; failed ones have the state FAIL. It guides the
        search: the sampler is asked and told through it, and learns observed trials from it."""
        self._unread = False
        self._advice: tuple[int, StopAdvice] | None = None
        self._in_flight: dict[int, optuna.Trial] = {}
        queue: list[tuple[Config, Literal["default", "warm"]]] = [(space.default, "default")]
        queue += [(config, "warm") for config in warm_start]
        self._queue: list[tuple[Point, Literal["default", "warm"]]] = [
            (self._encoding.point(config), origin) for config, origin in queue if self._usable(config)
        ]

    def ask(self) -> Proposal | None:
        """The next config, None when every valid config was proposed or observed."""
        self._read()
        fixed, origin = self._next_queued()
        if fixed is not None:
            self.study.enqueue_trial(self._encoding.optuna_params(fixed))
            if origin == "warm" and fixed in self._suggested:
                self._sampler.suggested(self._table.add([fixed])[0])
        elif not self._table.any_free(self._rng):
            return None
        trial = self.study.ask(self._sampler.distributions)
        point = self._encoding.point_of_params(trial.params)
        (row,) = self._table.add([point])
        self._table.take(row)
        self._in_flight[trial.number] = trial
        return Proposal(trial.number, self._encoding.config(point), origin)

    def tell(self, number: int, value: float | None, *, detail: str = "") -> None:
        """Report a proposal's value, None if it failed to compile, to run or to be correct.

        Raises:
            ValueError: No proposal of that number is in flight, or the value is not finite.
        """
        import optuna

        if number not in self._in_flight:
            raise ValueError(f"no proposal {number} is in flight; in flight are {sorted(self._in_flight)}")
        _check_finite(value)
        trial = self._in_flight.pop(number)
        if detail:
            trial.set_user_attr("detail", detail)
        if value is None:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(number, value)

    def observe(self, config: Config, value: float | None) -> None:
        """Add a finished trial of an earlier process of this sweep; its config is not proposed again.

        Raises:
            SpaceError: The config does not belong to the space.
            ValueError: The value is not finite.
        """
        import optuna

        _check_finite(value)
        point = self._encoding.point(config)
        now = datetime.now()
        trial = optuna.trial.FrozenTrial(
            number=0,
            trial_id=0,
            state=optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE,
            value=value,
            datetime_start=now,
            datetime_complete=now,
            params=self._encoding.optuna_params(point),
            distributions=self._sampler.distributions,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        self.study.add_trial(trial)  # gives it its number
        self._unread = True

    def expect(self, expect: Expect) -> None:
        """Take what a model expects of configs, in the unit of the values; again once more is known of the workloads.
        Samplers without a model of their own do not."""
        self._sampler.expect(expect)

    def prepare(self) -> None:
        """Find out what is expected of the configs that may be proposed next. Takes a second or so, which the first
        proposal that builds on results would take otherwise. Other threads may tell meanwhile, and nothing else."""
        self._sampler.prepare()

    def learn_beside(self, place: float, others: Sequence[Search]) -> None:
        """Learn from what searches of the same space for other sizes are told; samplers without a model do not.

        Args:
            place: Where this search is among them by size, in [0, 1].
            others: The other searches, which must have been given their places before this one is asked.
        """
        self._sampler.learn_beside(place, [other._sampler for other in others])

    def should_stop(self) -> StopAdvice:
        """Whether more trials are worth it; computed once per finished trial, in a few milliseconds."""
        self._read()
        values = list(self._table.values.values())
        if self._advice is None or self._advice[0] != len(values):
            exhausted = self._table.complete and bool(self._table.taken.all())
            outlook = self._sampler.outlook() if len(values) >= FEWEST_TRIALS else None
            self._advice = (len(values), advise(values, outlook, exhausted=exhausted))
        return self._advice[1]

    def _read(self) -> None:
        """Have the sampler read observed trials, all of them at once."""
        if self._unread:
            self._sampler.read(self.study)
            self._unread = False

    def _usable(self, config: Config) -> bool:
        try:
            return self.space.is_valid(self.space.check(config))
        except SpaceError:
            return False

    def _next_queued(self) -> tuple[Point | None, Literal["default", "warm", "sampler"]]:
        while self._queue:
            point, origin = self._queue.pop(0)
            (row,) = self._table.add([point])
            if not self._table.taken[row]:
                return point, origin
        return None, "sampler"


def _check_finite(value: float | None) -> None:
    if value is not None and not abs(value) < float("inf"):
        raise ValueError(f"a value must be finite; got {value!r}; a failed trial is told as None")
