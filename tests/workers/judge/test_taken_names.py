"""What a candidate takes from the process that judges it is its own fault, and whole for the next one."""

from dataclasses import replace

import pytest

from tests.workers.judge.bodies import passing
from workers.records import ComparisonJob, Method, Status

QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)


def assert_good_passes(bench, make) -> None:
    evaluation = bench.judge(make(key="good"))
    assert evaluation.status is Status.PASSED, evaluation.message


def test_candidate_that_breaks_the_evaluator_does_not_reach_the_next(bench, make):
    """A candidate may break what the judge itself needs outside its guarded calls; the next one must not pay."""
    body = "good(x, y, out)\nclass Broken:\n    def __init__(self): raise OSError('broken')\ntorch.no_grad = Broken"
    first = bench.judge(make(passing(body)))
    assert first.status is Status.TAMPERED
    assert "replaced torch.no_grad" in first.message
    assert_good_passes(bench, make)


TAKES = {
    "a built-in function": ("import builtins\nbuiltins.list = None", Status.TAMPERED, "replaced builtins.list"),
    "a function of Python's library": ("import pickle\npickle.dumps = None", Status.TAMPERED, "replaced pickle.dumps"),
    "the output": ("if calls == 1: os.closerange(1, 3)", Status.PROCESS_CHANGED, "standard output and error"),
}


@pytest.mark.parametrize("what", TAKES)
def test_what_a_candidate_takes_from_the_evaluator_is_its_own_fault(bench, make, what):
    """It was the worker's, which tried the candidate three times; without output the process was killed for it."""
    body, status, said = TAKES[what]
    evaluation = bench.judge(make(passing(f"good(x, y, out)\n{body}"), key=what))
    assert (evaluation.status, said in evaluation.message) == (status, True), evaluation.message
    assert_good_passes(bench, make)


@pytest.mark.parametrize(
    "body",
    [
        "good(x, y, out)\ntorch.no_grad = None",
        "import builtins\ngood(x, y, out)\nbuiltins.list = None",
        "good(x, y, out)\nsys.modules['workers.judge.judge'].timer = None",
    ],
)
def test_comparison_blames_the_one_that_broke_the_evaluator(bench, make, body):
    """All share one process: without more, all of them would be refused, and those of the next job as well."""
    variants = [make(key="a"), make(passing(body), key="breaks"), make(key="b", marker="# b")]
    built = tuple(v.built(bench.builder.build(v).artifact) for v in variants)
    job = ComparisonJob(built, bench.workloads, QUICK, rounds=3, keep_loaded=True)
    for variants, broken in ((built, Status.TAMPERED), (built[1:2], Status.TAMPERED), (built[::2], None)):
        found = bench.evaluator.compare(replace(job, variants=variants)).evaluations
        wanted = [broken if e.key == "breaks" else Status.PASSED for e in found]
        assert [e.status for e in found] == wanted, [e.message for e in found]
    assert_good_passes(bench, make)


def test_a_comparison_names_what_was_replaced_at_import_once(bench, make):
    """The same sentence stood twice at the head of the message, with the traceback of each."""
    cheats = "import sys\nif 'workers.judge.judge' in sys.modules: sys.modules['workers.judge.judge'].timer = None\n"
    variants = [make(key="a"), make(cheats + passing("good(x, y, out)"), key="cheats")]
    built = tuple(v.built(bench.builder.build(v).artifact) for v in variants)
    first, second = bench.evaluator.compare(ComparisonJob(built, bench.workloads, QUICK, rounds=3)).evaluations
    assert (first.status, second.status) == (Status.PASSED, Status.TAMPERED)
    lines = second.message.splitlines()
    assert "workers.judge.judge.timer" in lines[0]
    assert lines[0] != lines[1]
    assert second.message.count("Traceback") == 1


def test_an_error_of_one_that_wrapped_a_function_of_pythons_library_is_its_error(bench, make):
    """Libraries do that as they are imported; it is not what the comparison failed by."""
    body = "import json\njson.dumps = lambda *_: ''\nraise ValueError('no luck')"
    variants = [make(key="a"), make(passing(body), key="raises")]
    built = tuple(v.built(bench.builder.build(v).artifact) for v in variants)
    found = bench.evaluator.compare(ComparisonJob(built, bench.workloads, QUICK, rounds=3)).evaluations
    assert [e.status for e in found] == [Status.PASSED, Status.RUNTIME_ERROR], [e.message for e in found]
    assert "no luck" in found[1].message
