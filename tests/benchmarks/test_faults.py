"""Planted faults: each kind is noticed for what it is, the unharmed variant beside it is not blamed."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu_sweep.faults import EXPECTED, WRONG_LATER, faulty
from workers.build.builder import VariantBuilder
from workers.fib.dataset import Dataset
from workers.judge.evaluator import VariantEvaluator
from workers.records import Deadlines, EvaluationJob, Method, Status, Variant

QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
GOOD = "import torch\n\n\ndef run(x, out):\n    torch.mul(x, 2, out=out)\n"


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    matrix = {"shape": ["n"], "dtype": "float32"}
    definition = {
        "name": "twice", "op_type": "toy", "axes": {"n": {"type": "var"}}, "inputs": {"x": matrix},
        "outputs": {"out": matrix}, "reference": "def run(x):\n    return 2 * x\n",
    }  # fmt: skip
    workload = {"uuid": "w", "axes": {"n": 64}, "inputs": {"x": {"type": "random"}}}
    for folder, name, text in (
        ("definitions", "twice.json", json.dumps(definition)),
        ("workloads", "twice.jsonl", json.dumps({"definition": "twice", "workload": workload})),
    ):
        (root / folder).mkdir()
        (root / folder / name).write_text(text)
    problem = Dataset(root).problem("twice")
    cache = str(root / "cache")
    builder = VariantBuilder(problem.definition, "cpu", cache, 60.0, preload=("torch",))
    evaluator = VariantEvaluator(problem, "cpu", cache, Deadlines(60.0, 3.0, 3.0))

    def judge(variant):
        build = builder.build(variant)
        assert build.status is Status.BUILT, build.log
        return evaluator.evaluate(EvaluationJob(variant.built(build.artifact), ("w",), QUICK))

    yield judge
    builder.close()
    evaluator.close()


def good(key="good"):
    return Variant(key, "twice", {"main.py": GOOD}, "main.py::run", "python", "cpu")


@pytest.mark.parametrize("at_call", [1, 2])
def test_each_fault_has_its_status_and_hurts_nobody_else(judge, at_call):
    for kind, status in EXPECTED.items():
        evaluation = judge(faulty(good(), kind, at_call))
        expected = WRONG_LATER.get(kind, status) if at_call > 1 else status
        assert (evaluation.key, evaluation.status) == (f"good+{kind}", expected), evaluation.message
        assert judge(good()).status is Status.PASSED


def test_unknown_fault_is_told():
    with pytest.raises(ValueError, match="unknown fault 'gremlin'; known are illegal_address"):
        faulty(good(), "gremlin")
