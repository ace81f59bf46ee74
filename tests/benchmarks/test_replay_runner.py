"""The replay runner: recorded outcomes through the runner's interface, and recordings made from a sweep's trials."""

import pytest

from benchmarks.search_replay.runner import ReplayFamily, ReplayRunner, config_of
from tests.tuner.toy_recording import RECORDING
from tuner.errors import UsageError
from tuner.sweeps.variants import config_variant
from workers.records import BuildResult, ComparisonJob, EvaluationJob, Method, Status, Variant


def variant(row):
    space = RECORDING.space()
    config = RECORDING.config(row)
    return config_variant("tiny", space, config)


def evaluate(runner, row, limits=None):
    built = variant(row).built(f"row-{row}")
    return runner.evaluated(EvaluationJob(built, ("small", "large"), Method(), limits or {}))


def test_a_variant_carries_its_config():
    assert config_of(variant(2)) == {"tile": 32, "wide": True}


def test_builds_end_as_recorded():
    runner = ReplayRunner(RECORDING)
    for row, status in [(0, Status.BUILT), (2, Status.COMPILE_ERROR)]:
        runner.submit_build(variant(row))
        (outcome,) = runner.wait(0)
        assert isinstance(outcome, BuildResult)
        assert (outcome.key, outcome.status) == (variant(row).key, status)
    assert runner.judged == [2]


def test_measurements_are_the_recorded_times_per_workload():
    outcome = evaluate(ReplayRunner(RECORDING), 0)
    assert outcome.status is Status.PASSED
    assert [(m.workload, m.median_us) for m in outcome.measurements] == [("small", 2000.0), ("large", 8000.0)]


def test_failures_and_races_keep_what_ran_before():
    runner = ReplayRunner(RECORDING)
    wrong = evaluate(runner, 3)
    assert wrong.status is Status.INCORRECT_NUMERICAL
    assert [m.status for m in wrong.measurements] == [Status.PASSED, Status.INCORRECT_NUMERICAL]
    raced = evaluate(runner, 4)
    assert raced.status is Status.RACED_OUT
    assert [m.median_us for m in raced.measurements] == [9000.0]
    assert runner.judged == [3, 4]


def test_a_trial_above_the_limit_of_a_workload_stops_there():
    runner = ReplayRunner(RECORDING)
    assert evaluate(runner, 0, {"small": 1500.0}).status is Status.RACED_OUT
    assert evaluate(runner, 1, {"small": 1500.0}).status is Status.PASSED
    # After the last workload there is nothing left to save.
    assert evaluate(runner, 0, {"large": 1500.0}).status is Status.PASSED


def test_comparisons_give_a_sample_per_round_and_are_no_evaluations():
    runner = ReplayRunner(RECORDING)
    variants = tuple(variant(row).built(f"row-{row}") for row in (0, 1))
    outcome = runner.compared(ComparisonJob(variants, ("small",), Method(), rounds=4))
    assert [e.measurements[0].samples_us for e in outcome.evaluations] == [(2000.0,) * 4, (1000.0,) * 4]
    assert runner.judged == []


@pytest.mark.parametrize("in_flight", [1, 2, 8])
def test_the_sweep_keeps_the_wanted_number_in_flight(in_flight):
    runner = ReplayRunner(RECORDING, in_flight)
    assert runner.builders + runner.evaluators + 1 == in_flight


def test_what_was_not_recorded_is_refused():
    runner = ReplayRunner(RECORDING)
    table = "TABLE = [(None, {'tile': 8, 'wide': True})]"
    stranger = Variant("k", "tiny", {"config.py": table}, "main.py::run", "python", "cpu")
    with pytest.raises(UsageError, match="not in recording tiny"):
        runner.submit_build(stranger)
    with pytest.raises(UsageError, match=r"has no config\.py"):
        runner.submit_build(Variant("k", "tiny", {}, "main.py::run", "python", "cpu"))


def test_the_family_solves_its_own_definition_only():
    family = ReplayFamily(RECORDING)
    assert family.why_not(family.definition) is None
    assert "not of gemm" in family.why_not({"name": "gemm"})
    assert len(list(family.space(family.definition, "cpu").enumerate())) == 5
