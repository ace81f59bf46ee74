"""A fault in the check ahead of a workload's turn is booked on that workload, on a CPU that says it works ahead of the
host (ahead_stand_in.py). Which workload hung decides which sizes a config is kept from."""

from dataclasses import replace

import pytest

from workers.judge.evaluator import VariantEvaluator
from workers.records import Deadlines, Status

ON_THE_SECOND = """
import os
import sys
import time

import torch


def fail():
    raise RuntimeError("illegal address")


def run(x, y, out):
    torch.add(y, x, alpha=2, out=out)
    if x.shape[0] == ROWS:
        FAULT
"""
HANGS = "while True: time.sleep(0.01)"
DIES = "os._exit(3)"
FAULTS = {
    "hangs": (HANGS, Status.TIMEOUT),
    "dies": (DIES, Status.CRASHED),
    "submits what hangs": ("sys.submitted.append(lambda: time.sleep(60))", Status.TIMEOUT),
    "submits what breaks the device": ("sys.submitted.append(fail)", Status.CRASHED),
}


@pytest.fixture(scope="module")
def ahead(bench):
    """The bench with an evaluator whose device works ahead, and that has little patience."""
    stand_in = ("tests.workers.judge.ahead_stand_in",)
    evaluator = VariantEvaluator(
        bench.problem, "cpu", str(bench.cache_dir), Deadlines(check_s=1.0, measure_s=4.0), preload=stand_in
    )
    yield replace(bench, evaluator=evaluator)
    evaluator.close()


@pytest.mark.parametrize(("fault", "turn"), [("dies", 0), *((fault, 1) for fault in FAULTS)])
def test_a_fault_is_booked_on_the_workload_that_it_is_on(ahead, make, fault, turn):
    """One on the second workload, which is checked while the first is measured, was booked on the first."""
    text, status = FAULTS[fault]
    rows = ahead.problem.workloads[turn]["axes"]["n"]
    evaluation = ahead.judge(make(ON_THE_SECOND.replace("FAULT", text).replace("ROWS", str(rows)), key=fault))
    assert evaluation.status is status, evaluation.message
    assert (evaluation.measurements[-1].workload, evaluation.measurements[-1].status) == (ahead.workloads[turn], status)
    assert status is not Status.TIMEOUT or "check" in evaluation.message
    passed = ahead.judge(make(key="good"))
    assert [m.status for m in passed.measurements] == [Status.PASSED] * 2, passed.message
