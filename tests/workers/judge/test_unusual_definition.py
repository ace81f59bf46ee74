"""One definition with everything that used to be refused, judged by a real evaluator: see REFERENCE."""

import json

import pytest

from workers.build.builder import VariantBuilder
from workers.fib import adapter as fib
from workers.fib.dataset import Dataset
from workers.judge.evaluator import VariantEvaluator
from workers.records import Deadlines, EvaluationJob, Method, Status, Variant

QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
REFERENCE = """
import torch


def run(x, bias):
    x.mul_(2)
    lse = x.logsumexp(-1)
    lse[0] = -float("inf")
    padded = torch.empty_like(x)
    padded[:-2] = x[:-2] if bias is None else x[:-2] + bias
    return padded, lse, x.argmax(-1), torch.ones(len(x))
"""
GOOD = """
import torch


def run(x, bias, y, lse, best, ones):
    y[:-2] = 2 * x[:-2] if bias is None else 2 * x[:-2] + bias
    torch.logsumexp(2 * x, -1, out=lse)
    lse[0] = -float("inf")
    best.copy_(x.argmax(-1))
    ones.fill_(1)
"""
WRONG = {
    "index": ("best.copy_(x.argmax(-1))", "best.copy_(x.argmax(-1) + 1)"),
    "infinity": ('lse[0] = -float("inf")', 'lse[1] = -float("inf")'),
    "bias": ("2 * x[:-2] + bias", "2 * x[:-2]"),
    "no bias": ("2 * x[:-2] if bias is None", "2 * x[:-2] + 1 if bias is None"),
    "constant": ("ones.fill_(1)", "ones.fill_(2)"),
    "padding too far": ("    torch.logsumexp(2", "    y[-3] = float('nan')\n    torch.logsumexp(2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    root = tmp_path_factory.mktemp("unusual")
    for part in ("definitions", "workloads"):
        (root / part / "toy").mkdir(parents=True)
    matrix, vector = ({"shape": shape, "dtype": "float32"} for shape in (["n", "d"], ["n"]))
    document = {
        "name": "unusual", "op_type": "toy", "axes": {"n": {"type": "var"}, "d": {"type": "const", "value": 64}},
        "inputs": {"x": matrix, "bias": {"shape": ["d"], "dtype": "float32", "optional": True}},
        "outputs": {"y": matrix, "lse": vector, "best": {**vector, "dtype": "int64"}, "ones": vector},
        "reference": REFERENCE,
    }  # fmt: skip
    (root / "definitions/toy/unusual.json").write_text(json.dumps(document))
    given = {"x": {"type": "random"}}
    lines = [
        {
            "definition": "unusual",
            "workload": {"uuid": "with", "axes": {"n": 8}, "inputs": {**given, "bias": given["x"]}},
        },
        {"definition": "unusual", "workload": {"uuid": "without", "axes": {"n": 19}, "inputs": given}},
    ]
    (root / "workloads/toy/unusual.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Dataset(root).problem("unusual")


@pytest.fixture(scope="module")
def judge(problem, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    builder = VariantBuilder(problem.definition, "cpu", cache, 120.0, preload=("torch",))
    evaluator = VariantEvaluator(problem, "cpu", cache, Deadlines())

    def of(variant, check=True):
        built = variant.built(builder.build(variant).artifact)
        return evaluator.evaluate(EvaluationJob(built, ("with", "without"), QUICK, check=check))

    of.prepared = evaluator.warm
    yield of
    builder.close()
    evaluator.close()


def variant(source, key):
    return Variant(key, "unusual", {"main.py": source}, "main.py::run", "python", "cpu")


def test_right_one_passes_and_the_record_names_the_rules(judge):
    evaluation = judge(variant(GOOD, "good"))
    assert evaluation.status is Status.PASSED, evaluation.message
    rules = evaluation.measurements[0].conditions[fib.JUDGED_BY]
    assert {output: text.split()[0].rstrip(":") for output, text in rules.items()} == {
        "y": "close", "lse": "close", "best": "selected", "ones": "close"
    }  # fmt: skip
    assert "no evidence, since it is constant (1)" in rules["ones"]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_one_does_not(judge, name):
    right, wrong = WRONG[name]
    assert right in GOOD
    evaluation = judge(variant(GOOD.replace(right, wrong), name.replace(" ", "_")))
    assert evaluation.status is Status.INCORRECT_NUMERICAL


def test_candidate_must_leave_its_inputs_alone_even_where_the_reference_does_not(judge):
    evaluation = judge(variant(GOOD + "    x.mul_(2)\n", "writes"))
    assert evaluation.status is Status.INPUTS_MODIFIED


def test_the_reference_is_timed_on_copies_that_are_renewed(judge, problem):
    evaluation = judge(fib.reference_variant(problem.definition, "cpu"), check=False)
    assert evaluation.status is Status.PASSED, evaluation.message
    assert judge(variant(GOOD, "good_again")).status is Status.PASSED


def test_what_is_worth_knowing_is_said(judge):
    prepared = judge.prepared()
    assert [p.unjudgeable for p in prepared.values()] == [None, None]
    notes = " ".join(prepared["with"].notes)
    assert "the reference writes to its input 'x'" in notes
    assert "128 elements of output 'y' do not count" in notes
    assert "'ones' is no evidence" in notes
    assert not prepared["with"].plainly
