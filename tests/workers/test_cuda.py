"""The GPU as a device: known durations, graphs, sticky errors. Needs an NVIDIA GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from workers.records import ComparisonJob, EvaluationJob, Method, Status
from workers.timer import measure

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
METHODS = {
    mode: Method(mode=mode, warmup_s=0.05, min_samples=10, max_samples=50, budget_s=1.0)
    for mode in ("eager", "cuda_graph")
}
# A million cycles are 0.5 ms at 2 GHz; no GPU with a target runs below 1 or above 3 GHz under load.
CYCLES = 1_000_000
BETWEEN_US = (CYCLES / 3e3, CYCLES / 1e3)


@pytest.fixture(scope="module")
def device():
    from workers.cuda import CudaDevice

    return CudaDevice()


@pytest.mark.parametrize("mode", METHODS)
def test_known_duration(device, mode):
    timing = measure(lambda: torch.cuda._sleep(CYCLES), METHODS[mode], device)
    assert BETWEEN_US[0] < timing.interval.median < BETWEEN_US[1]
    assert timing.interval.rel_half_width < 0.1


def test_modes_agree_where_there_is_one_kernel(device):
    medians = [measure(lambda: torch.cuda._sleep(CYCLES), METHODS[m], device).interval.median for m in METHODS]
    assert medians[0] == pytest.approx(medians[1], rel=0.1)


def test_cold_cache_is_slower_than_warm(device):
    """A copy within the L2 has to fetch its source again after a flush."""
    source = torch.ones(4 << 20, dtype=torch.uint8, device=device.name)
    target = torch.empty_like(source)
    cold, warm = (
        measure(lambda: target.copy_(source), Method("eager", 0.05, 20, 50, 0.0, 1.0, cold), device).interval.median
        for cold in (True, False)
    )
    assert cold > warm


def test_conditions_are_read(device):
    conditions = device.conditions()
    assert conditions["sm_mhz"] > 0
    assert 0 < conditions["temperature_c"] < 110


STICKY = """
import torch
from workers.cuda import CudaDevice

device = CudaDevice()
assert device.is_healthy()
torch.zeros(4, device="cuda")[torch.tensor([1 << 40], device="cuda")]
print("healthy" if device.is_healthy() else "lost")
"""


def test_sticky_error_is_noticed():
    done = subprocess.run([sys.executable, "-c", STICKY], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "lost", done.stderr


HEAD = "import torch\n\n\ndef run(x, y, out):\n"
CANDIDATES = {
    "good": (HEAD + "    torch.add(y, x, alpha=2, out=out)\n", Status.PASSED),
    "zeros": (HEAD + "    out.zero_()\n", Status.INCORRECT_NUMERICAL),
    "illegal index": (HEAD + "    x[torch.tensor([1 << 40], device=x.device)]\n", Status.CRASHED),
    "endless kernel": (HEAD + "    torch.cuda._sleep(1 << 60)\n", Status.TIMEOUT),
    "out of memory": (HEAD + "    torch.empty(1 << 50, device=x.device)\n", Status.RUNTIME_ERROR),
}


@pytest.fixture(scope="module")
def judged(dataset, make, tmp_path_factory):
    pytest.importorskip("flashinfer_bench")
    from workers.builder import VariantBuilder
    from workers.environment import gpu_target
    from workers.evaluator import VariantEvaluator
    from workers.records import Deadlines

    cache = str(tmp_path_factory.mktemp("cache"))
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, gpu_target(), cache, preload=("torch",))
    evaluator = VariantEvaluator(problem, gpu_target(), cache, Deadlines(60.0, 20.0, 20.0))
    yield problem, builder, evaluator
    builder.close()
    evaluator.close()


@pytest.mark.parametrize("mode", METHODS)
def test_faults_end_one_candidate_and_the_next_is_judged_well(judged, make, mode):
    problem, builder, evaluator = judged
    uuids = tuple(w["uuid"] for w in problem.workloads)
    for name in ("good", "zeros", "good", "illegal index", "good", "endless kernel", "good", "out of memory", "good"):
        source, status = CANDIDATES[name]
        variant = make(source, key=name)
        evaluation = evaluator.evaluate(EvaluationJob(variant, builder.build(variant).artifact, uuids, METHODS[mode]))
        assert evaluation.status is status, (name, evaluation.message)


def test_comparison_on_the_gpu(judged, make):
    problem, builder, evaluator = judged
    variants = [make(key=key, marker=f"# {key}") for key in "ab"]
    pairs = tuple((v, builder.build(v).artifact) for v in variants)
    job = ComparisonJob(pairs, tuple(w["uuid"] for w in problem.workloads), METHODS["cuda_graph"], rounds=20)
    comparison = evaluator.compare(job)
    assert [e.status for e in comparison.evaluations] == [Status.PASSED, Status.PASSED]
