"""Finals on samples that are given: what is made of them. All figures are synthetic."""

import math

import numpy as np

from tuner.sweeps.finals.final import ROUNDS_PER_LOOK, Finalist, run_final
from tuner.sweeps.finals.ranking import rank
from tuner.sweeps.regimes import Regime
from workers.records import Comparison, Evaluation, Measurement, Method, Status, Variant
from workers.runner import Runner


class Scripted(Runner):
    """Answers every comparison with the same samples."""

    builders = evaluators = 1

    def __init__(self, samples: dict[str, list[float]]) -> None:
        self._samples = samples
        self._outcomes: list[Comparison] = []

    def submit_comparison(self, job):
        measured = {
            variant.key: tuple(
                Measurement(w, Status.PASSED, tuple(self._samples[variant.key]), method=job.method)
                for w in job.workloads
            )
            for variant in job.variants
        }
        evaluations = (Evaluation(key, Status.PASSED, measurements, 0.0) for key, measurements in measured.items())
        self._outcomes.append(Comparison(tuple(evaluations), {}))

    def wait(self, timeout_s):
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def environment(self): ...
    def submit_build(self, variant): ...
    def submit_evaluation(self, job): ...
    def close(self): ...


def test_the_winner_follows_from_the_samples_as_they_are_stored():
    """Samples are stored as float32: two that differ by less must not have another winner before than after."""
    apart = [math.exp(0.1 * (i - ROUNDS_PER_LOOK / 2)) for i in range(ROUNDS_PER_LOOK)]
    samples = {"simple": [3.0 * (1 + 1e-9) * a for a in apart], "odd": [3.0 * a for a in reversed(apart)]}
    finalists = {
        key: Finalist(
            Variant(key, "d", {}, "main.py::run", "python", "cpu").built(key),
            {},
            (number,),
        )
        for number, key in enumerate(samples)
    }
    result = run_final(
        Scripted(samples), finalists, Regime("0+", 0, None, ("w",)), default="", method=Method(), max_rounds=12,
        deadline=math.inf, seed=0,
    )  # fmt: skip
    assert result is not None
    simplicity = {key: f.simplicity for key, f in finalists.items()}
    assert rank({k: {"w": v} for k, v in samples.items()}, simplicity).winner == "odd"
    stored = {k: {"w": np.float32(v).tolist()} for k, v in samples.items()}
    assert result.winner == rank(stored, simplicity).winner == "simple"
