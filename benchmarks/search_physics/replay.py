"""Searches over the configs that sweeps recorded, with the model, without, and with wrong ones; no hand-made starts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search_physics.recorded import Recorded
from benchmarks.search_replay.recording import recording_of
from search_spaces.parameters import Config
from search_spaces.prediction.model import Hardware, WorkloadFeatures
from search_spaces.space import SearchSpace
from tuner.prediction.expected import spread
from tuner.results.recording import recording_of_trials
from tuner.search import Search
from tuner.search.beside import introduce
from tuner.search.expectation import Expect
from tuner.sweeps.start.head_start import sweep_seed
from workers.records import Status

REGIMES = {"0-16": (0, 16), "17-256": (17, 256), "257-2048": (257, 2048), "2049+": (2049, 1 << 30)}
KINDS = ("model", "model alone", "none", "none alone", "reversed", "noise", "random")
"""``none``: auto without a model; ``noise``: a model that says anything; ``alone``: without what the searches of the
other regimes find; ``random``: no search."""
COUNTS = (5, 10, 20, 40, 60)
LONGER = (*COUNTS, 100, 200)
"""Numbers of trials with the model; of the other kinds :data:`COUNTS` says enough."""
SHARE = 0.7
"""Of the recorded configs that a seed's searches can choose from, so that seeds differ."""


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
    """All regimes at a time with every kind of model."""
    trials = {regime: _trials(recorded, sweeps, regime) for regime in REGIMES}
    features = {regime: _features(recorded, regime) for regime in REGIMES}
    found = {kind: [_run(recorded, hardware, trials, kind, seed, features) for seed in range(seeds)] for kind in KINDS}
    return [_curve(regime, len(trials[regime]), kind, found[kind]) for regime in REGIMES for kind in KINDS]


def replay_wide(
    recorded: Recorded, hardware: Hardware, sweeps: Sequence[str], seeds: int, kinds: Sequence[str] = KINDS
) -> list[Curve]:
    """Searches on one workload each, with recorded routing, that take turns: over sweeps that measured their configs
    on all workloads."""
    tried = [t for sweep in sweeps for t in recorded.tried[sweep]]
    trials, features = {}, {}
    for uuid in sorted(
        {t.workload for s in sweeps for t in recorded.timed if t.sweep == s and "hot" not in t.workload}
    ):
        us = {_key(t.config): t.us for t in recorded.of(uuid) if t.sweep in sweeps}
        name = f"{recorded.features[uuid].axes['seq_len']} tokens"
        features[name] = [recorded.features[uuid]]
        trials[name] = {
            key: (Status.PASSED, math.log(us[key])) if key in us else (Status.RUNTIME_ERROR, None)
            for key in (_key(t.config) for t in tried)
        }
    found = {kind: [_run(recorded, hardware, trials, kind, seed, features) for seed in range(seeds)] for kind in kinds}
    return [_curve(name, len(known), kind, found[kind]) for name, known in trials.items() for kind in kinds]


def _curve(regime: str, configs: int, kind: str, runs: Sequence[Mapping[str, Sequence[float]]]) -> Curve:
    ratios = np.array([run[regime] for run in runs])
    median = {n: float(np.median(ratios[:, n - 1])) for n in _counts(kind)}
    return Curve(regime, configs, kind, median, {n: float(ratios[:, n - 1].max()) for n in _counts(kind)})


def _counts(kind: str) -> tuple[int, ...]:
    return LONGER if kind == "model" else COUNTS


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
        kept.append((by_key[key], status, {"all": math.exp(value or 0.0)} if passed else {}))
    return recording_of(recording_of_trials(recorded.space, kept, name=regime, hardware="")).space()


def _expect(recorded: Recorded, hardware: Hardware, features: Sequence[WorkloadFeatures], kind: str) -> Expect | None:
    looked_at, model = spread(features), recorded.space.model
    assert model is not None, "moe_fp8_cute has a model"

    def said(config: Config) -> float:
        return sum(math.log(model.predict(config, f, hardware).us) for f in looked_at) / len(looked_at)

    kinds: dict[str, Callable[[Config], float]] = {
        "model": said,
        "model alone": said,
        "reversed": lambda config: -said(config),
        "noise": lambda config: random.Random(str(_key(config))).gauss(0.0, 0.3),
    }
    return kinds.get(kind)


def _features(recorded: Recorded, regime: str) -> list[WorkloadFeatures]:
    """Of the regime's workloads with recorded routing."""
    low, high = REGIMES[regime]
    listed = {u: f for u, f in recorded.features.items() if "hot" not in u}
    return [f for f in listed.values() if low <= f.axes["seq_len"] <= high]


def _part(trials: Trials, seed: str) -> Trials:
    """What one seed can choose from; the first trial was the default."""
    draw = random.Random(seed)
    return {key: trial for i, (key, trial) in enumerate(trials.items()) if i == 0 or draw.random() < SHARE}


def _run(
    recorded: Recorded,
    hardware: Hardware,
    trials: Mapping[str, Trials],
    kind: str,
    seed: int,
    features: Mapping[str, Sequence[WorkloadFeatures]],
) -> dict[str, list[float]]:
    """Searches of all regimes that take turns: regime -> the best so far over the best there is, by trials."""
    parts = {regime: _part(known, f"{seed} {regime}") for regime, known in trials.items()}
    searches = {
        regime: Search(
            _space(recorded, regime, part),
            sampler="random" if kind == "random" else "auto",
            seed=sweep_seed(seed, i),
            expect=_expect(recorded, hardware, features[regime], kind),
        )
        for i, (regime, part) in enumerate(parts.items())
    }
    if not kind.endswith("alone"):
        sizes = [[f.axes["seq_len"] for f in features[regime]] for regime in searches]
        introduce(list(searches.values()), sizes)
    best, found = dict.fromkeys(searches, math.inf), {regime: list[float]() for regime in searches}
    for _ in range(_counts(kind)[-1]):
        for regime, search in searches.items():
            proposal = search.ask()
            if proposal is not None:
                status, value = parts[regime][_key(proposal.config)]
                search.tell(proposal.number, value if status in (Status.PASSED, Status.RACED_OUT) else None)
                if status is Status.PASSED and value is not None:
                    best[regime] = min(best[regime], value)
            found[regime].append(best[regime])
    least = {r: min(v for s, v in part.values() if s is Status.PASSED and v is not None) for r, part in parts.items()}
    return {regime: [math.exp(value - least[regime]) for value in values] for regime, values in found.items()}
