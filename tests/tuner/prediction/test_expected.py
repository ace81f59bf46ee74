"""What a sweep's searches are told to expect: by the inputs' values where they can be read, by the GPU's figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from search_spaces.dataset import PATH
from search_spaces.dataset.make import MOE
from search_spaces.moe_fp8.profiles import routing_profiles
from search_spaces.parameters import Parameter
from search_spaces.prediction.model import KernelPrediction, Model, Prediction, WorkloadFeatures
from search_spaces.space import SearchSpace
from tuner.prediction.expected import expectations, features_of, spread
from tuner.sweeps.regimes import Regime
from workers.fib.dataset import Dataset
from workers.fib.made_inputs import filled_inputs


class ByRows(Model):
    """As many microseconds as there are rows, times the tile."""

    def predict(self, config, features, hardware) -> Prediction:
        rows = sum(features.counts["rows_per_expert"])
        return Prediction((KernelPrediction("k", config["tile"] * (1.0 + rows), {}),))


SPACE = SearchSpace("s", "sm_90a", (Parameter("tile", (1, 2)),), (), {"tile": 1}, {}, model=ByRows())


def moe_problem():
    return replace(Dataset(PATH).problem(MOE), generator=routing_profiles())


def test_rows_are_those_of_the_inputs():
    problem = moe_problem()
    for workload in problem.workloads:
        features = features_of(problem, workload)
        assert dict(features.axes) == workload["axes"]
        tokens = np.asarray(filled_inputs(problem, workload, "cpu")["routing_logits"]).shape[0]
        top_k = 8
        assert 0 <= sum(features.counts["rows_per_expert"]) <= tokens * top_k


def test_without_a_generator_only_the_sizes_are_known():
    problem = Dataset(PATH).problem(MOE)
    assert features_of(problem, problem.workloads[0]).counts == {}


def test_a_regime_expects_the_mean_logarithm_over_its_workloads():
    problem = moe_problem()
    uuids = tuple(w["uuid"] for w in problem.workloads)[:2]
    regime = Regime("all", None, None, uuids)
    (expect,) = expectations(problem, SPACE, [regime], "NVIDIA H200").values()
    rows = [sum(features_of(problem, problem.workload(u)).counts["rows_per_expert"]) for u in uuids]
    assert math.isclose(expect({"tile": 2}), sum(math.log(2.0 + 2 * r) for r in rows) / 2)


def test_workloads_of_no_weight_are_not_looked_at():
    problem = moe_problem()
    uuids = tuple(w["uuid"] for w in problem.workloads)
    regime = Regime("all", None, None, uuids, weights=dict.fromkeys(uuids, 0.0))
    assert expectations(problem, SPACE, [regime], "NVIDIA H200") == {}


def test_nothing_is_expected_without_a_model_or_of_an_unknown_gpu():
    problem = moe_problem()
    regime = Regime("all", None, None, tuple(w["uuid"] for w in problem.workloads))
    assert expectations(problem, replace(SPACE, model=None), [regime], "NVIDIA H200") == {}
    assert expectations(problem, SPACE, [regime], "Some CPU") == {}


def test_a_few_workloads_stand_for_all_from_the_least_to_the_most_work():
    features = [WorkloadFeatures({"n": 1}, {"rows": (r,)}) for r in (5, 1, 9, 3, 7)]
    assert [f.counts["rows"][0] for f in spread(features)] == [1, 5, 9]
    assert spread(features[:1]) == (features[0],)
    assert spread([]) == ()
