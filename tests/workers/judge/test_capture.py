"""What cannot be captured in a graph is timed eagerly, says so, and costs the others nothing. On a CPU that says it has
graphs (graph_stand_in.py)."""

from dataclasses import replace

import pytest

from search_spaces import targets
from workers.judge.evaluator import VariantEvaluator
from workers.records import AUTO, ComparisonJob, Deadlines, Method, Status

METHOD = Method(mode=AUTO, warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
ADD = "    torch.add(y, x, alpha=2, out=out)\n"
WAITS = (
    "import sys\nimport torch\n\n\ndef run(x, y, out):\n    if getattr(sys, 'capturing', False):\n        {}\n" + ADD
)
SYNCS = WAITS.format("raise RuntimeError('it synchronises')")
SYNCS_WHEN_LARGE = WAITS.format("if x.shape[0] > 3: raise RuntimeError('it synchronises')")
BREAKS = WAITS.format("raise RuntimeError('it breaks the process')")
SPOILED = (
    "import sys\nimport torch\nready = {}\n\n\ndef run(x, y, out):\n    if getattr(sys, 'capturing', False):\n"
    "        ready['half'] = True\n        raise RuntimeError('it synchronises')\n"
    "    assert not ready, 'half made by a capture'\n" + ADD
)


@pytest.fixture(scope="module")
def graphs(bench):
    """The bench with an evaluator whose device has graphs."""
    cpu = targets.target_named("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(targets._BY_NAME, "cpu", replace(cpu, modes=("cuda_graph", "eager")))
        evaluator = VariantEvaluator(
            bench.problem, "cpu", str(bench.cache_dir), Deadlines(), preload=("tests.workers.judge.graph_stand_in",)
        )
        yield replace(bench, evaluator=evaluator)
        evaluator.close()


def modes(evaluation):
    return [m.method.mode for m in evaluation.measurements]


@pytest.mark.parametrize("source", [SYNCS, SYNCS_WHEN_LARGE, BREAKS, SPOILED])
def test_a_variant_that_cannot_be_captured_is_timed_eagerly_on_all_workloads_and_says_why(graphs, make, source):
    evaluation = graphs.judge(make(source), method=METHOD)
    assert evaluation.status is Status.PASSED, evaluation.message
    assert modes(evaluation) == ["eager", "eager"]
    assert "timed eagerly: it cannot be captured in a CUDA graph" in evaluation.message
    assert all("cannot be captured" in m.conditions["uncaptured"] for m in evaluation.measurements)
    assert modes(graphs.judge(make(key="good"), method=METHOD)) == ["cuda_graph", "cuda_graph"]


def test_limits_of_the_race_are_those_of_graphs_and_do_not_stop_what_is_timed_eagerly(graphs, make):
    limits = dict.fromkeys(graphs.workloads, 1e-6)
    evaluation = graphs.judge(make(SYNCS + "# raced\n"), method=METHOD, stop_above_us=limits)
    assert (evaluation.status, modes(evaluation)) == (Status.PASSED, ["eager", "eager"])
    raced = graphs.judge(make(key="good"), method=METHOD, stop_above_us=limits)
    assert (raced.status, modes(raced)) == (Status.RACED_OUT, ["cuda_graph"])


def test_where_graphs_are_asked_for_one_that_cannot_be_captured_fails(graphs, make):
    evaluation = graphs.judge(make(SYNCS + "# strictly\n"), method=replace(METHOD, mode="cuda_graph"))
    assert evaluation.status is Status.RUNTIME_ERROR
    assert "cannot be captured in a CUDA graph: it synchronises; mode auto or eager times it" in evaluation.message


def test_a_wrong_variant_is_wrong_in_either_mode(graphs, make):
    wrong = SYNCS.replace("alpha=2", "alpha=3")
    assert graphs.judge(make(wrong), method=METHOD).status is Status.INCORRECT_NUMERICAL
    wrong_eagerly = (
        "import torch\ncalls = []\n\n\ndef run(x, y, out):\n    import sys\n    calls.append(1)\n"
        "    if getattr(sys, 'capturing', False):\n        raise RuntimeError('it synchronises')\n"
        "    torch.add(y, x, alpha=2 if len(calls) < 2 else 3, out=out)\n"
    )
    assert graphs.judge(make(wrong_eagerly), method=METHOD).status is Status.NOT_REPEATABLE


@pytest.mark.parametrize("source", [SYNCS, BREAKS, SPOILED])
def test_a_comparison_shows_both_modes_where_both_work(graphs, make, source):
    variants = [make(key="a", note="# a"), make(source + "# compared\n", key="b"), make(key="c", note="# c")]
    built = tuple(v.built(graphs.builder.build(v).artifact) for v in variants)
    comparison = graphs.evaluator.compare(ComparisonJob(built, graphs.workloads, METHOD, rounds=6))
    both = ["cuda_graph", "eager"] * 2
    assert [e.status for e in comparison.evaluations] == [Status.PASSED] * 3, comparison.evaluations[1].message
    assert [modes(e) for e in comparison.evaluations] == [both, ["eager"] * 2, both]
    assert all(len(m.samples_us) == 6 for e in comparison.evaluations for m in e.measurements)
    assert "cannot be captured" in comparison.evaluations[1].measurements[0].conditions["uncaptured"]


def test_a_final_in_eager_mode_measures_what_cannot_be_captured(graphs, make):
    """A sweep has learnt that it cannot be captured, and asks for eager figures of all: of this one as well."""
    late = SYNCS + "# a finalist\n"
    assert modes(graphs.judge(make(late, key="late"), method=METHOD)) == ["eager", "eager"]
    built = tuple(
        v.built(graphs.builder.build(v).artifact) for v in (make(key="a", note="# a"), make(late, key="late"))
    )
    for mode, found in (("eager", Status.PASSED), ("cuda_graph", Status.RUNTIME_ERROR)):
        job = ComparisonJob(built, graphs.workloads, replace(METHOD, mode=mode), rounds=6)
        good, other = graphs.evaluator.compare(job).evaluations
        assert (good.status, other.status) == (Status.PASSED, found), other.message
        if mode == "eager":
            assert modes(good) == modes(other) == ["eager", "eager"]


def test_a_failure_is_recorded_with_a_mode_that_there_is(graphs, make):
    wrong = make(SYNCS.replace("alpha=2", "alpha=3"), key="wrong")
    built = (wrong.built(graphs.builder.build(wrong).artifact),)
    (evaluation,) = graphs.evaluator.compare(ComparisonJob(built, graphs.workloads, METHOD, rounds=6)).evaluations
    assert evaluation.status is Status.INCORRECT_NUMERICAL
    assert AUTO not in modes(evaluation)
