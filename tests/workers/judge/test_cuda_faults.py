"""Faults on a GPU, with real kernels that do them: the process is replaced, its workloads come back, the culprit alone
has the blame. Needs an NVIDIA GPU."""

import pytest

from benchmarks.gpu_sweep.faults import EXPECTED, WRONG_LATER, faulty
from workers.records import AUTO, BuildResult, ComparisonJob, Deadlines, Evaluation, EvaluationJob, Method, Status

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
pytest.importorskip("flashinfer_bench")

METHODS = {
    mode: Method(mode=mode, warmup_s=0.005, min_samples=5, max_samples=20, budget_s=0.2)
    for mode in ("eager", "cuda_graph", AUTO)
}
HASTY = Deadlines(60.0, 5.0, 5.0)
TRITON = """
import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


def run(x, y, out):
    kernel[(triton.cdiv(x.numel(), 256),)](x, y, out, x.numel(), BLOCK=256)
"""
WAITS = "def run(x, y, out):\n    out.copy_(2 * x + y) if x.sum().item() != 1e30 else None\n"
HUNGRY = """
import torch


def run(x, y, out):
    free, _ = torch.cuda.mem_get_info()
    scratch = torch.empty(free + torch.cuda.memory_reserved() - (4 << 30), dtype=torch.uint8, device=x.device)
    torch.add(y, x, alpha=2, out=out)
"""


HOARDS = """
import torch

workspaces = {}


def run(x, y, out):
    if x.shape not in workspaces:
        size = torch.cuda.get_device_properties(0).total_memory * 6 // 10
        workspaces[x.shape] = torch.empty(size, dtype=torch.uint8, device=x.device)
    torch.add(y, x, alpha=2, out=out)
"""


@pytest.fixture(scope="module")
def judged(dataset, tmp_path_factory):
    from workers.build.builder import VariantBuilder
    from workers.devices.environment import gpu_target
    from workers.judge.evaluator import VariantEvaluator

    cache = str(tmp_path_factory.mktemp("cache"))
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, gpu_target(), cache, 60.0, preload=("torch",))
    evaluator = VariantEvaluator(problem, gpu_target(), cache, HASTY)
    uuids = tuple(w["uuid"] for w in problem.workloads)

    def judge(variant, mode):
        build = builder.build(variant)
        assert build.status is Status.BUILT, build.log
        return evaluator.evaluate(EvaluationJob(variant.built(build.artifact), uuids, METHODS[mode]))

    yield judge, builder, evaluator, uuids
    builder.close()
    evaluator.close()


def assert_passes(evaluation, uuids):
    assert evaluation.status is Status.PASSED, evaluation.message
    assert [m.workload for m in evaluation.measurements] == list(uuids)


@pytest.mark.parametrize("mode", METHODS)
def test_good_candidates(judged, make, mode):
    judge, _, _, uuids = judged
    first = judge(make(), mode)
    assert_passes(first, uuids)
    assert_passes(judge(make(TRITON, key="triton"), mode), uuids)
    assert_passes(judge(make("def run(x, y):\n    return 2 * x + y\n", key="returns", returns=True), mode), uuids)
    for measurement in first.measurements:
        assert measurement.conditions["anchor_us"] > 0
        assert "sm_mhz" in measurement.conditions
    assert first.usage["candidate_s"] > 0
    assert first.usage["check_s"] > 0
    assert first.usage["candidate_s"] + first.usage["check_s"] + first.usage["cold_s"] < first.usage["evaluate_s"]


@pytest.mark.parametrize("kind", EXPECTED)
def test_fault_in_the_first_call(judged, make, kind):
    judge, _, _, uuids = judged
    evaluation = judge(faulty(make(), kind), "cuda_graph")
    assert evaluation.status is EXPECTED[kind], evaluation.message
    assert_passes(judge(make(), "cuda_graph"), uuids)


ON_THE_SECOND = """
import torch


def run(x, y, out):
    torch.add(y, x, alpha=2, out=out)
    if x.shape[0] == ROWS:
        FAULT
"""
OUT_OF_BOUNDS = "out += torch.arange(4, device=x.device)[torch.full((1,), 1 << 40, device=x.device)]"


@pytest.mark.parametrize("mode", METHODS)
@pytest.mark.parametrize(
    ("fault", "status"), [("torch.cuda._sleep(1 << 62)", Status.TIMEOUT), (OUT_OF_BOUNDS, Status.CRASHED)]
)
def test_fault_on_the_second_workload_is_booked_there(judged, make, fault, status, mode):
    """It is checked while the first one's measurement ends, and was booked on that."""
    judge, _, evaluator, uuids = judged
    rows = evaluator._problem.workload(uuids[1])["axes"]["n"]
    found = judge(make(ON_THE_SECOND.replace("FAULT", fault).replace("ROWS", str(rows)), key=fault), mode)
    assert (found.status, found.measurements[-1].workload) == (status, uuids[1]), found.message
    assert_passes(judge(make(), mode), uuids)


@pytest.mark.parametrize("kind", ["illegal_address", "endless", "wrong_result"])
def test_fault_in_a_later_call(judged, make, kind):
    """The third call is a timed one in eager mode, and the captured one in graph mode."""
    judge, _, _, uuids = judged
    for mode in METHODS:
        evaluation = judge(faulty(make(), kind, at_call=3), mode)
        assert evaluation.status is WRONG_LATER.get(kind, EXPECTED[kind]), (mode, evaluation.message)
        assert evaluation.measurements[-1].status is evaluation.status
        assert_passes(judge(make(), mode), uuids)


def test_what_cannot_be_captured_is_told_and_runs_in_eager_mode(judged, make):
    judge, _, _, uuids = judged
    refused = judge(make(WAITS, key="waits"), "cuda_graph")
    assert refused.status is Status.RUNTIME_ERROR
    assert "cannot be captured in a CUDA graph" in refused.message
    assert_passes(judge(make(), "cuda_graph"), uuids)
    assert_passes(judge(make(WAITS, key="waits"), "eager"), uuids)


def test_what_cannot_be_captured_is_timed_eagerly_and_says_so(judged, make):
    judge, _, evaluator, uuids = judged
    child = evaluator.processes()["child"]
    timed = judge(make(WAITS, key="waits", note="# once more"), AUTO)
    assert_passes(timed, uuids)
    assert {m.method.mode for m in timed.measurements} == {"eager"}
    assert "timed eagerly: it cannot be captured in a CUDA graph" in timed.message
    good = judge(make(), AUTO)
    assert_passes(good, uuids)
    assert {m.method.mode for m in good.measurements} == {"cuda_graph"}
    assert evaluator.processes()["child"] == child, "a failed capture need not cost the process"


def test_one_that_cannot_be_captured_costs_the_others_of_a_comparison_nothing(judged, make):
    _, builder, evaluator, uuids = judged
    sources = {"a": make(key="a", note="# a"), "waits": make(WAITS, key="waits"), "triton": make(TRITON, key="triton")}
    built = tuple(v.built(builder.build(v).artifact) for v in sources.values())
    comparison = evaluator.compare(ComparisonJob(built, uuids, METHODS[AUTO], rounds=12))
    assert [e.status for e in comparison.evaluations] == [Status.PASSED] * 3, comparison.evaluations[1].message
    modes = [[m.method.mode for m in e.measurements] for e in comparison.evaluations]
    assert modes == [["cuda_graph", "eager"] * 2, ["eager"] * 2, ["cuda_graph", "eager"] * 2]


def test_candidate_may_have_nearly_all_of_the_memory_and_gives_it_back(judged, make):
    judge, _, _, uuids = judged
    assert_passes(judge(make(HUNGRY, key="hungry"), "eager"), uuids)
    assert_passes(judge(make(HUNGRY, key="hungry again", marker="# again"), "eager"), uuids)


def test_workspace_of_one_workload_makes_room_for_that_of_the_next(judged, make):
    judge, _, _, uuids = judged
    assert_passes(judge(make(HOARDS, key="hoards"), "cuda_graph"), uuids)
    assert_passes(judge(make(), "cuda_graph"), uuids)


def test_comparison_names_the_culprit_and_keeps_the_others(judged, make):
    _, builder, evaluator, uuids = judged
    good = [make(key=key, marker=f"# {key}") for key in "ab"]
    variants = [good[0], faulty(make(key="c"), "misaligned", at_call=4), good[1], faulty(make(key="d"), "wrong_result")]
    pairs = tuple(v.built(builder.build(v).artifact) for v in variants)
    comparison = evaluator.compare(ComparisonJob(pairs, uuids, METHODS["cuda_graph"], rounds=12))
    statuses = [e.status for e in comparison.evaluations]
    assert statuses == [Status.PASSED, Status.CRASHED, Status.PASSED, Status.INCORRECT_NUMERICAL]
    assert [len(m.samples_us) for m in comparison.evaluations[0].measurements] == [12, 12]
    assert comparison.usage["candidate_s"] > 0


@pytest.mark.ray
def test_faults_among_good_variants_on_ray(dataset, make, tmp_path):
    """Several jobs in flight, the next one loaded ahead: every good record is there, no good variant is blamed."""
    from workers.cluster.ray_runner import RayRunner
    from workers.devices.environment import gpu_target

    problem = dataset.problem("scale_add_d64")
    uuids = tuple(w["uuid"] for w in problem.workloads)
    variants = [make(key=f"v{i}", marker=f"# {i}") for i in range(9)]
    planted = {2: "illegal_address", 3: "segfault", 6: "writes_inputs"}
    variants = [faulty(v, planted[i]) if i in planted else v for i, v in enumerate(variants)]
    runner = RayRunner(problem, gpu_target(), deadlines=HASTY, builders=2, cache_dir=tmp_path)
    found = {}
    try:
        for variant in variants:
            runner.submit_build(variant)
        while len(found) < len(variants):
            outcomes = runner.wait(120.0)
            assert outcomes, f"nothing came back; there were {sorted(found)}"
            for outcome in outcomes:
                if isinstance(outcome, BuildResult):
                    variant = next(v for v in variants if v.key == outcome.key)
                    job = EvaluationJob(variant.built(outcome.artifact), uuids, METHODS["cuda_graph"])
                    runner.submit_evaluation(job)
                elif isinstance(outcome, Evaluation):
                    found[outcome.key] = outcome
    finally:
        runner.close()
    for index, variant in enumerate(variants):
        expected = EXPECTED[planted[index]] if index in planted else Status.PASSED
        assert found[variant.key].status is expected, (variant.key, found[variant.key].message)
