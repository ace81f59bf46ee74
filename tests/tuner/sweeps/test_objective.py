"""What the search is told about a trial."""

import math

import pytest

from tuner.sweeps.objective import Objective
from workers.records import Measurement, Status


def measured(**medians_us: float) -> list[Measurement]:
    return [Measurement(w, Status.PASSED, median_us=us) for w, us in medians_us.items()]


def test_value_is_the_log_of_the_geometric_mean():
    objective = Objective(("a", "b"))
    assert math.exp(objective.value(Status.PASSED, measured(a=2, b=8))) == pytest.approx(4)


def test_incumbent_is_the_best_complete_trial():
    objective = Objective(("a", "b"))
    objective.note(measured(a=2, b=8))
    objective.note(measured(a=3, b=3))
    objective.note(measured(a=1, b=100))
    assert objective.best_us == pytest.approx(3)
    assert objective.limits_us(1.5) == pytest.approx({"a": 4.5})


def test_a_raced_out_trial_is_estimated_from_what_it_ran():
    objective = Objective(("a", "b"))
    objective.note(measured(a=2, b=8))
    estimate = objective.value(Status.RACED_OUT, measured(b=16))
    assert math.exp(estimate) == pytest.approx(4 * 2)


@pytest.mark.parametrize("status", [Status.INCORRECT_NUMERICAL, Status.COMPILE_ERROR, Status.TIMEOUT, Status.CRASHED])
def test_a_failure_has_no_value_whatever_it_measured(status):
    objective = Objective(("a",))
    objective.note(measured(a=2))
    assert objective.value(status, measured(a=1)) is None


def test_geometric_mean_needs_every_workload():
    assert Objective(("a", "b")).geomean_us({"a": measured(a=3)[0]}) is None


def at(anchor_us: float, **medians_us: float) -> list[Measurement]:
    return [
        Measurement(w, Status.PASSED, median_us=us, conditions={"anchor_us": anchor_us}) for w, us in medians_us.items()
    ]


def test_a_device_that_became_slower_does_not_make_later_trials_worse():
    objective = Objective(("a", "b"))
    objective.note(at(400, a=2, b=8))
    assert objective.value(Status.PASSED, at(440, a=2.2, b=8.8)) == pytest.approx(
        objective.value(Status.PASSED, at(400, a=2, b=8))
    )
    objective.note(at(440, a=2.1, b=8.4))
    assert objective.best_us == pytest.approx(4 * 1.05 / 1.1)


def test_figures_for_people_are_as_measured():
    objective = Objective(("a",))
    objective.note(at(400, a=2))
    assert objective.geomean_us({"a": at(500, a=3)[0]}) == pytest.approx(3)
