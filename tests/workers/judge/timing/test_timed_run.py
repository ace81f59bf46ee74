"""The timed call: what it leaves behind is poisoned between samples, inputs never are."""

import pytest
import torch

from workers.devices.cpu import HostDevice
from workers.fib import adapter as fib
from workers.judge.outputs.check import Candidate
from workers.judge.timing.timed_run import TimedRun


@pytest.fixture
def make_run(dataset):
    definition = fib.definition_model(dataset.definition("scale_add_d64"))
    inputs = (torch.ones(3, 64), torch.ones(3, 64))

    def build(function, destination_passing):
        return TimedRun(Candidate(function, destination_passing), definition, inputs, HostDevice()), inputs

    return build


def test_written_outputs_are_poisoned_and_written_again(make_run):
    run, _ = make_run(lambda x, y, out: torch.add(y, x, alpha=2, out=out), True)
    for _ in range(2):
        run()
        assert bool((run.outputs()[0] == 3).all())
        run.poison()
        assert bool(run.outputs()[0].isnan().all())


def test_returned_result_is_poisoned(make_run):
    run, _ = make_run(lambda x, y: 2 * x + y, False)
    run.poison()
    run()
    assert bool((run.outputs()[0] == 3).all())
    run.poison()
    assert bool(run.outputs()[0].isnan().all())


@pytest.mark.parametrize("function", [lambda x, y: x, lambda x, y: (x[1:],)])
def test_result_that_is_an_input_is_left_alone(make_run, function):
    run, inputs = make_run(function, False)
    run()
    run.poison()
    assert bool((inputs[0] == 1).all())
