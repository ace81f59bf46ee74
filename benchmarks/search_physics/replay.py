"""Searches over the configs that sweeps recorded, with the model, without, and with wrong ones; no hand-made starts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search_physics.recorded import Recorded
from search_spaces.parameters import Config
from search_spaces.prediction.model import Hardware
from search_spaces.space import SearchSpace
from tuner.prediction.expected import spread
from tuner.replay.from_sweep import RecordedTrial, recording_of_trials
from tuner.search import Search
from tuner.search.expectation import Expect
from workers.records import Status

REGIMES = {"0-16": (0, 16), "17-256": (17, 256), "257-2048": (257, 2048), "2049+": (2049, 1 << 30)}
KINDS = ("model", "none", "reversed", "noise", "random")
"""``none``: auto without a model; ``noise``: a model that says anything; ``random``: no search."""
COUNTS = (5, 10, 20, 40, 60)


@dataclass(frozen=True)
class Curve:
    """The best found over the best recorded, by number of trials.

    Args:
        regime: Of the sweeps.
        configs: Recorded in it.
        kind: One of :data:`KINDS`.
        median: Trials -> median over seeds.
        worst: Trials -> worst seed.
    """

    regime: str
    configs: int
    kind: str
    median: dict[int, float]
    worst: dict[int, float]


def replay(recorded: Recorded, hardware: Hardware, sweeps: Sequence[str], seeds: int) -> list[Curve]:
    """Every regime with every kind of model."""
    out = []
    for regime in REGIMES:
        trials = _trials(recorded, sweeps, regime)
        best = min(value for state, value in trials.values() if state == Status.PASSED and value is not None)
        space = _space(recorded, regime, trials)
        for kind in KINDS:
            expect = _expect(recorded, hardware, regime, kind)
            runs = np.array([_run(space, trials, kind, expect, seed) for seed in range(seeds)])
            ratios = np.exp(runs - best)
            out.append(
                Curve(
                    regime,
                    len(trials),
                    kind,
                    {n: float(np.median(ratios[:, n - 1])) for n in COUNTS},
                    {n: float(ratios[:, n - 1].max()) for n in COUNTS},
                )
            )
    return out


def _key(config: Config) -> tuple:
    return tuple(sorted((name, repr(value)) for name, value in config.items()))


Trials = dict[tuple, tuple[Status, float | None]]


def _trials(recorded: Recorded, sweeps: Sequence[str], regime: str) -> Trials:
    tried = [t for sweep in sweeps for t in recorded.tried[sweep] if t.regime == regime]
    return {_key(t.config): (Status(t.state), t.objective) for t in tried}


def _space(recorded: Recorded, regime: str, trials: Trials) -> SearchSpace:
    by_key = {_key(t.config): t.config for sweep in recorded.tried.values() for t in sweep}
    kept = []
    for key, (status, value) in trials.items():
        passed = status is Status.PASSED and value is not None
        kept.append(RecordedTrial(by_key[key], status, {"all": math.exp(value or 0.0)} if passed else {}))
    return recording_of_trials(recorded.space, kept, name=regime, hardware="", workloads=("all",)).space()


def _expect(recorded: Recorded, hardware: Hardware, regime: str, kind: str) -> Expect | None:
    low, high = REGIMES[regime]
    listed = [f for u, f in recorded.features.items() if low <= f.axes["seq_len"] <= high and not u.startswith("hot")]
    looked_at, model = spread(listed), recorded.space.model
    assert model is not None, "moe_fp8_cute has a model"

    def said(config: Config) -> float:
        return sum(math.log(model.predict(config, f, hardware).us) for f in looked_at) / len(looked_at)

    kinds: dict[str, Callable[[Config], float]] = {
        "model": said,
        "reversed": lambda config: -said(config),
        "noise": lambda config: random.Random(str(_key(config))).gauss(0.0, 0.3),
    }
    return kinds.get(kind)


def _run(space: SearchSpace, trials: Trials, kind: str, expect: Expect | None, seed: int) -> list[float]:
    search = Search(space, sampler="random" if kind == "random" else "auto", seed=seed, expect=expect)
    best, found = math.inf, []
    for _ in range(COUNTS[-1]):
        proposal = search.ask()
        if proposal is None:
            break
        status, value = trials[_key(proposal.config)]
        search.tell(proposal.number, value if status in (Status.PASSED, Status.RACED_OUT) else None)
        if status is Status.PASSED and value is not None:
            best = min(best, value)
        found.append(best)
    return found
