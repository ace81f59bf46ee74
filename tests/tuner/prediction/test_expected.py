"""What a sweep's searches are told to expect: by the inputs' figures and the GPU's."""

from __future__ import annotations

import math
from dataclasses import replace

from db.records import WinnerRecord, WinnerWorkload
from search_spaces.parameters import Parameter
from search_spaces.prediction.model import KernelPrediction, Model, Prediction, WorkloadFeatures
from search_spaces.space import SearchSpace
from tuner.prediction.expected import expectations, features, of_winners, spread
from tuner.sweeps.regimes import Regime


class ByRows(Model):
    """As many microseconds as there are rows, times the tile."""

    def predict(self, config, features, hardware) -> Prediction:
        rows = sum(features.counts["rows_per_expert"])
        return Prediction((KernelPrediction("k", config["tile"] * (1.0 + rows), {}),))


SPACE = SearchSpace("s", "sm_90a", (Parameter("tile", (1, 2)),), (), {"tile": 1}, {}, model=ByRows())


REGIME = Regime("all", None, None, ("a", "b"))
LIKE = {
    "a": features({"n": 1}, {"rows_per_expert": [1, 2], "rows": 3}),
    "b": features({"n": 4}, {"rows_per_expert": [9], "rows": 9}),
}


def test_what_is_drawn_and_not_listed_is_what_a_model_gets():
    assert LIKE["a"] == WorkloadFeatures({"n": 1}, {"rows_per_expert": (1, 2)})


def test_a_regime_expects_the_mean_logarithm_over_its_workloads():
    (expect,) = expectations(SPACE, [REGIME], LIKE, "NVIDIA H200").values()
    assert math.isclose(expect({"tile": 2}), (math.log(2 * 4.0) + math.log(2 * 10.0)) / 2)


def test_workloads_of_no_weight_are_not_looked_at():
    regime = replace(REGIME, weights={"a": 0.0})
    (expect,) = expectations(SPACE, [regime], LIKE, "NVIDIA H200").values()
    assert math.isclose(expect({"tile": 1}), math.log(10.0))
    assert expectations(SPACE, [replace(REGIME, weights={"a": 0.0, "b": 0.0})], LIKE, "NVIDIA H200") == {}


def test_nothing_is_expected_without_a_model_or_of_an_unknown_gpu():
    assert expectations(replace(SPACE, model=None), [REGIME], LIKE, "NVIDIA H200") == {}
    assert expectations(SPACE, [REGIME], LIKE, "Some CPU") == {}


def test_winners_are_shown_beside_what_was_expected_and_a_broken_model_loses_nothing():
    row = WinnerWorkload("b", {"n": 4}, 11.0, 10.0, 12.0)
    winner = WinnerRecord("all", "hash", 11.0, 10.0, 12.0, workloads=(row,), config={"tile": 2})
    assert of_winners(SPACE, [winner], LIKE, "NVIDIA H200") == {"b": {"us": 20.0, "bound": "unknown", "bound_us": 0.0}}
    broken = replace(winner, config={})
    assert of_winners(SPACE, [broken], LIKE, "NVIDIA H200") == {}


def test_a_few_workloads_stand_for_all_from_the_least_to_the_most_work():
    features = [WorkloadFeatures({"n": 1}, {"rows": (r,)}) for r in (5, 1, 9, 3, 7)]
    assert [f.counts["rows"][0] for f in spread(features)] == [1, 5, 9]
    assert spread(features[:1]) == (features[0],)
    assert spread([]) == ()
