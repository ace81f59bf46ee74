"""A first call that compiles kernels or tunes itself has a deadline of its own, and is neither a check nor a sample."""

from dataclasses import replace

import pytest

from workers.judge.evaluator import VariantEvaluator
from workers.records import ComparisonJob, Deadlines, Status

LATE = "from pathlib import Path\n\n\ndef build(out_dir):\n    (Path(out_dir) / 'triton').mkdir()\n    return {}\n"
"""A build that leaves what builders leave of Triton kernels."""

SLOW_ONCE = (
    "import time\nimport torch\n\nknown = set()\n\n\ndef run(x, y, out):\n"
    "    if x.shape not in known:\n        known.add(x.shape)\n        time.sleep(2.5)\n"
    "    torch.add(y, x, alpha=2, out=out)\n"
)


@pytest.fixture(scope="module")
def short(bench):
    """Little time to check, more to compile."""
    deadlines = Deadlines(compile_s=5.0, check_s=1.5, measure_s=10.0)
    evaluator = VariantEvaluator(bench.problem, "cpu", str(bench.cache_dir), deadlines)
    evaluator.warm()
    yield replace(bench, evaluator=evaluator)
    evaluator.close()


def test_compiling_in_the_first_call_does_not_count_as_check(short, make):
    evaluation = short.judge(make(SLOW_ONCE, build=LATE))
    assert evaluation.status is Status.PASSED, evaluation.message
    assert evaluation.usage["phase_compile_s"] > 4.0, "the report says how long a device waited for compilers"
    assert all(m.median_us < 1e6 for m in evaluation.measurements)
    assert short.judge(make(SLOW_ONCE)).status is Status.TIMEOUT


def test_a_first_call_that_fails_is_told_and_one_that_hangs_meets_its_own_deadline(short, make):
    raises = short.judge(make("def run(x, y, out):\n    raise ValueError('no such size')\n", build=LATE))
    assert raises.status is Status.RUNTIME_ERROR
    assert "no such size" in raises.message
    hangs = short.judge(make("def run(x, y, out):\n    while True: pass\n", build=LATE))
    assert hangs.status is Status.TIMEOUT
    assert "phase 'compile" in hangs.message


def test_in_a_comparison_as_well(short, make):
    variants = [make(key="a", note="# a"), make(SLOW_ONCE + "# b\n", key="b", build=LATE)]
    built = tuple(v.built(short.builder.build(v).artifact) for v in variants)
    method = replace(short.judge(make()).measurements[0].method, interleaved=True)
    comparison = short.evaluator.compare(ComparisonJob(built, short.workloads, method, rounds=6))
    assert [e.status for e in comparison.evaluations] == [Status.PASSED] * 2, comparison.evaluations[1].message
