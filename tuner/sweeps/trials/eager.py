"""Ranks trials that work eagerly only among trials that were timed as graphs: both are compared eagerly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from search_spaces import SearchSpace
from tuner.sweeps.trials.modes import EAGER
from tuner.sweeps.trials.trial import RegimeState, Trial
from tuner.sweeps.variants import config_variant
from workers.records import Evaluation, EvaluationJob, Measurement, Method, Status
from workers.runner import Runner

Finish = Callable[[Trial, Status, tuple[Measurement, ...], str, float | None], None]
"""Commits a trial with its status, measurements, message and value."""


class EagerTrials:
    """The trials that wait for the regime's yardstick: one of its leaders, timed eagerly once.

    Args:
        definition: Name of the definition.
        space: The space.
        method: The sweep's method.
        runner: Times the yardstick.
        finish: Called with each trial once it has a value; None if there is nothing to compare it with.
    """

    def __init__(self, definition: str, space: SearchSpace, method: Method, runner: Runner, finish: Finish) -> None:
        self._definition = definition
        self._space = space
        self._method = replace(method, mode=EAGER)
        self._runner = runner
        self._finish = finish
        self._timing: dict[str, tuple[RegimeState, float]] = {}
        """Key of a yardstick's evaluation -> its regime, and its objective in the regime's mode."""
        self._waiting: list[tuple[Trial, Evaluation]] = []

    @property
    def in_flight(self) -> int:
        """Number of trials that wait and yardsticks that are being timed."""
        return len(self._waiting) + len(self._timing)

    def rank(self, trial: Trial, evaluation: Evaluation) -> None:
        """Finish a trial, now or once the yardstick is timed."""
        state = trial.state
        self._waiting.append((trial, evaluation))
        base = next((x for x in state.leaders if x.artifact is not None and x.mode == state.mode.decided), None)
        if state.mode.has_yardstick or base is None:
            self._finish_all(state)
        elif all(other is not state for other, _ in self._timing.values()):
            key = f"{base.config_hash}@{state.regime.name}@{EAGER}"
            self._timing[key] = state, base.value
            variant = config_variant(self._definition, self._space, base.config)
            variant = replace(variant.built(str(base.artifact)), key=key)
            self._runner.submit_evaluation(EvaluationJob(variant, state.regime.workloads, self._method, check=False))

    def took(self, evaluation: Evaluation) -> bool:
        """Whether this is the evaluation of a yardstick, which is then used."""
        if evaluation.key not in self._timing:
            return False
        state, value = self._timing.pop(evaluation.key)
        if evaluation.status is Status.PASSED:
            state.mode.set_yardstick(value, state.objective.of_passed(evaluation.measurements))
        self._finish_all(state)
        return True

    def _finish_all(self, state: RegimeState) -> None:
        mine = [(trial, e) for trial, e in self._waiting if trial.state is state]
        self._waiting = [(trial, e) for trial, e in self._waiting if trial.state is not state]
        for trial, evaluation in mine:
            value = state.mode.ranked(state.objective.of_passed(evaluation.measurements))
            self._finish(trial, evaluation.status, evaluation.measurements, evaluation.message, value)
