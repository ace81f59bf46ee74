"""Triton kernels that builders compiled, on a GPU: the first call compiles nothing. Needs an NVIDIA GPU."""

from dataclasses import replace

import pytest

from workers.records import AUTO, Deadlines, EvaluationJob, Method, Status

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
pytest.importorskip("triton")

METHOD = Method(mode=AUTO, warmup_s=0.005, min_samples=5, max_samples=20, budget_s=0.2)
KERNEL = """
import torch
import triton
import triton.language as tl


{decorator}@triton.jit
def kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


def run(x, y, out):
    n = x.numel()
    {before}
    kernel[(triton.cdiv(n, 256),)](x, y, out, n{block})
"""
PLAIN = KERNEL.format(decorator="", before="pass", block=", BLOCK=256")
AUTOTUNED = KERNEL.format(
    decorator="@triton.autotune([triton.Config({'BLOCK': 256}, num_warps=w) for w in (1, 4)], key=['n'])\n",
    before="pass",
    block="",
)
# Another source than PLAIN, or it would find what was compiled for that.
NEEDS_A_GPU = KERNEL.replace("2 * tl.load(x + i, i < n)", "tl.load(x + i, i < n) * 2").format(
    decorator="", before="assert __import__('os').environ.get('CUDA_VISIBLE_DEVICES') != ''", block=", BLOCK=256"
)


@pytest.fixture(scope="module")
def judged(dataset, tmp_path_factory):
    from workers.build.builder import VariantBuilder
    from workers.devices.environment import gpu_target
    from workers.judge.evaluator import VariantEvaluator

    cache, target = str(tmp_path_factory.mktemp("cache")), gpu_target()
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, target, cache, 60.0, workloads=problem.workloads)
    evaluator = VariantEvaluator(problem, target, cache, Deadlines(60.0, 20.0, 20.0))
    uuids = tuple(w["uuid"] for w in problem.workloads)

    def judge(variant):
        build = builder.build(replace(variant, language="triton", target=target))
        assert build.status is Status.BUILT, build.log
        evaluation = evaluator.evaluate(EvaluationJob(variant.built(build.artifact), uuids, METHOD))
        assert evaluation.status is Status.PASSED, evaluation.message
        return build, evaluation

    yield judge
    builder.close()
    evaluator.close()


def test_first_call_of_triton_kernels_compiles_nothing(judged, make):
    build, evaluation = judged(make(PLAIN, key="plain"))
    assert "Triton cache error" not in evaluation.message
    assert build.figures["registers"] > 0
    for measurement in evaluation.measurements:
        assert "compiled_kernels" not in measurement.conditions, measurement.conditions
        assert measurement.method.mode == "cuda_graph"


def test_time_in_its_own_triton_autotuner_is_told_and_its_configs_are_compiled(judged, make):
    _, evaluation = judged(make(AUTOTUNED, key="autotuned"))
    assert all(m.conditions["autotune_s"] > 0 for m in evaluation.measurements)
    assert all("compiled_kernels" not in m.conditions for m in evaluation.measurements)


def test_what_no_builder_could_launch_is_compiled_by_the_first_call_of_triton_and_told(judged, make):
    build, evaluation = judged(make(NEEDS_A_GPU, key="asks"))
    assert "host code stopped without a GPU" in build.log
    assert evaluation.measurements[0].conditions["compiled_kernels"] == 1
    assert evaluation.usage["phase_compile_s"] >= evaluation.measurements[0].conditions["compile_s"]
