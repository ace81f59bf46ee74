"""Stock flashinfer-bench has the last word on an export for a GPU: by its verdict a Solution is written or not."""

from dataclasses import replace

import pytest

from tuner.progress import Steps
from tuner.results.export import ExportRefusedError, _stock_traces
from tuner.settings import SweepSettings
from tuner.sweeps.setup import resolve
from workers.fib import adapter as fib
from workers.fib.official_run import StockJob, StockRun
from workers.records import Measurement, Prepared, Status
from workers.runner import Runner

NAME = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"


@pytest.fixture(scope="module")
def setup():
    return resolve(SweepSettings(definition=NAME, target="sm_90a", db="sqlite://"))


@pytest.fixture(scope="module")
def model(setup):
    return fib.solution(fib.reference_variant(setup.problem.definition, "sm_90a"), "tuned")


class Answers(Runner):
    """Gives the statuses of a flashinfer-bench run, one for each workload; fewer if it was cut off."""

    submit_build = submit_evaluation = submit_comparison = wait = environment = close = None

    def __init__(self, setup, statuses):
        self.setup, self.statuses, self.job = setup, statuses, None

    def stock(self, job: StockJob) -> StockRun:
        self.job = job
        traces = [
            fib.trace(NAME, workload, "tuned", Measurement(workload["uuid"], status, median_us=20.0), "NVIDIA H100", {})
            for workload, status in zip(self.setup.problem.workloads, self.statuses, strict=False)
        ]
        documents = tuple(t.model_dump(mode="json") for t in traces)
        return StockRun(None, 9.0, documents, "Traceback ...\nout of memory")


def test_traces_of_a_solution_that_passes_everywhere_are_kept(setup, model):
    runner = Answers(setup, [Status.PASSED] * len(setup.problem.workloads))
    traces = _stock_traces(runner, setup, model, Steps())
    assert [t["workload"]["uuid"] for t in traces] == [w["uuid"] for w in setup.problem.workloads]
    assert runner.job.rule == setup.official_rule
    assert [s["name"] for s in runner.job.solutions] == ["tuned"]


def test_where_flashinfer_bench_cannot_judge_our_verdict_stands(setup, model):
    """It refuses every infinity, also one that the reference has; a Solution that fails otherwise is refused."""
    uuids = [w["uuid"] for w in setup.problem.workloads]
    cannot = replace(setup, prepared={uuids[0]: Prepared(plainly=False), uuids[1]: Prepared()})
    passed = [Status.PASSED] * (len(uuids) - 1)
    traces = _stock_traces(Answers(setup, [Status.INCORRECT_NUMERICAL, *passed]), cannot, model, Steps())
    assert [t["workload"]["uuid"] for t in traces] == uuids[1:]
    for wrong in ([Status.RUNTIME_ERROR, *passed], [Status.PASSED, Status.INCORRECT_NUMERICAL, *passed[1:]]):
        with pytest.raises(ExportRefusedError, match="1 of 6"):
            _stock_traces(Answers(setup, wrong), cannot, model, Steps())


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ([Status.PASSED] * 5 + [Status.INCORRECT_NUMERICAL], "1 of 6 workloads: .* INCORRECT_NUMERICAL"),
        ([Status.PASSED] * 4, "2 of 6 workloads: .* not run, .* not run; its log ends: .* out of memory"),
    ],
)
def test_anything_less_is_refused_with_where_and_why(setup, model, statuses, said):
    with pytest.raises(ExportRefusedError, match=said):
        _stock_traces(Answers(setup, statuses), setup, model, Steps())
