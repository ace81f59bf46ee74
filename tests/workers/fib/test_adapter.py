"""The adapter to flashinfer-bench, against the real package."""

import json

import pytest
import torch
from flashinfer_bench.data import TraceSet

from workers.errors import DatasetError
from workers.fib import adapter as fib
from workers.records import Measurement, Status, Variant

GOOD = "import torch\n\n\ndef run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n"


@pytest.fixture
def problem(dataset):
    return dataset.problem("scale_add_d64")


def made(**more) -> Variant:
    sources = {"main.py": GOOD, "pkg/__init__.py": ""}
    return Variant("k1", "scale_add_d64", sources, "main.py::run", "python", "cpu", ("torch",), **more)


def test_solution_and_back():
    model = fib.solution(made(destination_passing=False), name="fast", description="for people")
    assert (model.name, model.spec.target_hardware, model.description) == ("fast", ["cpu"], "for people")
    back = fib.variant_of(json.loads(model.model_dump_json()), "cpu")
    assert (back.key, back.entry_point, back.language) == ("fast", "main.py::run", "python")
    assert (back.dependencies, back.destination_passing) == (("torch",), False)
    assert back.sources["main.py"] == GOOD


def test_schema_errors_name_the_field(problem):
    with pytest.raises(DatasetError, match=r"definition 'scale_add_d64' breaks .* at axes"):
        fib.definition_model({**problem.definition, "axes": 3})
    with pytest.raises(DatasetError, match=r"Solution 's' breaks .* at spec"):
        fib.solution_model({"name": "s", "definition": "d", "author": "a", "sources": []})


def test_inputs_are_the_same_every_time_and_leave_the_generator_alone(problem):
    definition = fib.definition_model(problem.definition)
    first, second = (fib.workload_model(w) for w in problem.workloads)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    once = fib.make_inputs(definition, first, problem.root, "cpu")
    assert torch.equal(torch.rand(3), expected)
    again = fib.make_inputs(definition, first, problem.root, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    other = fib.make_inputs(definition, second, problem.root, "cpu")
    assert [tuple(t.shape) for t in other] == [(40, 64), (40, 64)]
    assert not torch.equal(other[0][:3], once[0])


def test_reference(problem):
    definition = fib.definition_model(problem.definition)
    x, y = torch.ones(2, 64), torch.ones(2, 64)
    (out,) = fib.call_reference(definition, [x, y], "cpu")
    assert torch.equal(out, torch.full((2, 64), 3.0))


def test_reference_that_takes_its_inputs_in_another_order(problem):
    """As of four MoE definitions of flashinfer-trace: the names say what is meant, in the check and as a variant."""
    document = {**problem.definition, "reference": "def run(y, x):\n    return 2 * x + y\n"}
    x, y = torch.ones(2, 64), torch.zeros(2, 64)
    (out,) = fib.call_reference(fib.definition_model(document), [x, y], "cpu")
    assert torch.equal(out, torch.full((2, 64), 2.0))
    variant = fib.reference_variant(document, "cpu")
    assert torch.equal(fib.build(variant, document)(x, y), out)
    assert fib.reference_variant(problem.definition, "cpu").entry_point == "main.py::run"


TRACES = {
    Status.PASSED: "PASSED",
    Status.INCORRECT_NUMERICAL: "INCORRECT_NUMERICAL",
    Status.INCORRECT_DTYPE: "INCORRECT_DTYPE",
    Status.TIMEOUT: "TIMEOUT",
    Status.CRASHED: "RUNTIME_ERROR",
    Status.NOT_REPEATABLE: "RUNTIME_ERROR",
}


@pytest.mark.parametrize("status", TRACES)
def test_trace_of_every_kind_of_status(problem, status):
    rules = {"judged_by": {"out": "close"}}
    measurement = Measurement("u", status, (1.0,), 2000.0, 1900.0, 2100.0, 0.5, 0.25, 0.99, rules, message="because")
    trace = fib.trace("scale_add_d64", problem.workloads[0], "s", measurement, "cpu x", {"torch": "2"}, 6000.0)
    evaluation = trace.evaluation
    assert evaluation.status.value == TRACES[status]
    assert "because" in evaluation.log
    if status is Status.PASSED:
        assert (evaluation.performance.latency_ms, evaluation.performance.speedup_factor) == (2.0, 3.0)
        assert evaluation.correctness.extra == {"matched_ratio": 0.99, **rules}
    elif TRACES[status] == "RUNTIME_ERROR":
        assert evaluation.log.startswith(status.value)


def test_what_is_written_is_a_trace_set(problem, dataset, tmp_path):
    measurement = Measurement("u", Status.PASSED, (1.0,), 2.0, 1.0, 3.0, 0.0, 0.0, 1.0)
    model = fib.solution(made(), name="fast")
    fib.write_solution(tmp_path, model, "toy")
    for workload in problem.workloads:
        trace = fib.trace("scale_add_d64", workload, "fast", measurement, "cpu x", {})
        fib.append_traces(tmp_path, [trace], "toy")
    (tmp_path / "definitions").symlink_to(dataset.root / "definitions")
    loaded = TraceSet.from_path(str(tmp_path))
    assert loaded.get_solution("fast").sources[0].content == GOOD
    assert [t.workload.uuid for t in loaded.traces["scale_add_d64"]] == [w["uuid"] for w in problem.workloads]
