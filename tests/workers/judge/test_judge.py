"""A device that works ahead of the host gets its next work early: the judge on a CPU that says it is such a device."""

import colorsys
import gc
import threading

import pytest
import torch

from workers.devices.cpu import HostDevice
from workers.judge import verified_run
from workers.judge.judge import Judge
from workers.judge.outputs.check import Verdict
from workers.judge.verdicts import Verdicts
from workers.records import Method, Status

CALLS = (
    "import torch\n\ncalls = []\n\n\ndef run(x, y, out):\n    calls.append(x.shape[0])\n"
    "    torch.add(y, x, alpha=2, out=out)\n"
)


@pytest.fixture
def judge_here(bench, tmp_path, monkeypatch):
    """A judge in this process that knows the workloads."""
    monkeypatch.setattr(HostDevice, "runs_ahead", True)
    judge = Judge(lambda *_: None, bench.problem, "cpu", str(tmp_path))
    for uuid in bench.workloads:
        judge.prepare(uuid)
    return judge


NOISY = Method("cuda_graph", 0.0, min_samples=10, max_samples=30, target_rel_ci=0.0, cold_cache=False)


@pytest.fixture
def judged_noisy(bench, make, order, tmp_path, monkeypatch):
    """Judge a source where ten samples of a graph are queued, and are never enough; after 25, one on other values."""
    monkeypatch.setattr(HostDevice, "runs_ahead", True)
    monkeypatch.setattr(HostDevice, "modes", ("cuda_graph",))
    monkeypatch.setattr(verified_run, "_moment", lambda _: 25)
    judge = Judge(lambda *_: None, bench.problem, "cpu", str(tmp_path))
    for uuid in bench.workloads:
        judge.prepare(uuid)

    def run(source, workloads):
        variant = make(source, key=f"noisy{hash(source)}")
        built = bench.builder.build(variant)
        job = order(variant, built, workloads, method=NOISY)
        return judge.judge(job, bench.evaluator.stage(variant.built(built.artifact)))

    return run


@pytest.fixture
def judged(bench, make, order, judge_here, monkeypatch):
    """Judge a source with another one ahead, in this process: the judgement and everything that was sent."""
    sent = []
    monkeypatch.setattr(judge_here, "_send", lambda *message: sent.append(message))

    def stage(variant):
        return bench.evaluator.stage(variant.built(bench.builder.build(variant).artifact))

    def run(source, ahead=CALLS) -> tuple:
        variant, following = make(source, key="present"), make(ahead + "\n", key="next")
        built = bench.builder.build(variant)
        return judge_here.judge(order(variant, built, bench.workloads), stage(variant), stage(following)), sent

    return run


def phases(sent: list) -> list[str]:
    return [str(phase) for kind, phase in sent if kind == "phase"]


def test_next_variant_is_loaded_while_the_last_workload_warms_up(judged, bench):
    judgement, sent = judged(CALLS)
    assert judgement.status is Status.PASSED
    last = bench.workloads[-1]
    seen = phases(sent)
    assert seen[seen.index(f"measure {last}") :][:3] == [f"measure {last}", "load next", f"measure {last}"]


STALE_LATER = """
import torch

calls, kept = [], {}


def run(x, y, out):
    calls.append(x.shape[0])
    if calls.count(x.shape[0]) > HONEST:
        out.copy_(kept[x.shape[0]])
    else:
        kept[x.shape[0]] = torch.add(y, x, alpha=2, out=out).clone()
"""


def test_a_run_on_other_values_comes_at_its_moment_also_after_one_behind_the_first_samples(bench, judged_noisy):
    """Who is honest for the first samples, and noisy, would get many more in which to be fast and wrong."""
    sources = {honest: STALE_LATER.replace("HONEST", str(honest)) for honest in (20, 1000)}
    found = {honest: judged_noisy(source, bench.workloads[:1]).status for honest, source in sources.items()}
    assert found == {20: Status.STALE_OUTPUT, 1000: Status.PASSED}


KEPT = """
import torch

kept = {}


def run(x, y, out):
    kept.setdefault(x.shape[0], len(kept))
    if kept[x.shape[0]] != len(kept) - 1:
        raise ValueError("a graph would read what is no longer there")
    torch.add(y, x, alpha=2, out=out)
"""


def test_no_sample_follows_a_run_on_the_next_workload(bench, judged_noisy):
    """A workspace that grew was freed, or a table in it was written anew, under a graph that was replayed again."""
    judgement = judged_noisy(KEPT, bench.workloads)
    assert judgement.status is Status.PASSED, judgement.message


WRITES_LATE = """
import torch

seen = []


def run(x, y, out):
    seen.append(x)
    torch.add(y, x, alpha=2, out=out)
    if sum(x is other for other in seen) == 20 and seen[0] is not x:
        seen[0][0, 0] += 1
"""


def test_memory_is_inspected_behind_the_samples_that_turned_out_to_be_the_last(bench, judged_noisy):
    """It would be inspected behind the first ones only, and what is written to other workloads later stay."""
    judgement = judged_noisy(WRITES_LATE, bench.workloads)
    assert judgement.status is Status.INPUTS_MODIFIED
    assert f"the memory of workload {bench.workloads[0]}" in judgement.message


REPLACES_LATE = """
import torch

calls = []


def run(x, y, out):
    torch.add(y, x, alpha=2, out=out)
    calls.append(x.shape[0])
    if len(calls) == 20:
        torch.cuda.synchronize = lambda *_: None
"""


def test_the_evaluator_is_looked_at_behind_the_samples_that_turned_out_to_be_the_last(bench, judged_noisy, monkeypatch):
    """It would be looked at behind the first ones only, and the verdict be given by what was replaced later."""
    monkeypatch.setattr(torch.cuda, "synchronize", torch.cuda.synchronize)  # is put right again afterwards
    judgement = judged_noisy(REPLACES_LATE, bench.workloads[:1])
    assert judgement.status is Status.TAMPERED, judgement.message


def test_the_evaluator_is_looked_at_again_where_a_candidate_left_threads(judge_here, monkeypatch):
    """They could replace it between the look behind the samples and the verdict."""
    verdicts, passed = judge_here._verdicts, Verdict(Status.PASSED)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    assert verdicts.of_an_untouched_evaluator(lambda: passed, None, None) is passed
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert verdicts.of_an_untouched_evaluator(lambda: passed, None, None).status is Status.TAMPERED
    finally:
        done.set()
        thread.join()


def test_check_of_the_following_workload_is_begun_and_judges_it(judged, bench):
    wrong_on_large = CALLS + "    if x.shape[0] > 3:\n        out.zero_()\n"
    judgement, sent = judged(wrong_on_large)
    assert judgement.status is Status.INCORRECT_NUMERICAL
    events = [m for kind, m in sent if kind == "event"]
    assert [(m.workload, m.status) for m in events] == [
        (bench.workloads[0], Status.PASSED),
        (bench.workloads[1], Status.INCORRECT_NUMERICAL),
    ]


def test_a_workload_that_has_no_room_beside_what_a_candidate_keeps_is_made_after_it_was_loaded_anew(
    judged, judge_here, monkeypatch
):
    """It was a lost worker, three times: a candidate may keep workspaces of all memory that a workload leaves."""
    residents, failed = judge_here._residents, []
    make = residents._make

    def without_room(uuid, may_compute):
        if not failed:
            failed.append(uuid)
            raise MemoryError("no room")
        return make(uuid, may_compute)

    residents.keep_only("")
    monkeypatch.setattr(residents, "_make", without_room)
    judgement, _ = judged(CALLS)
    assert (judgement.status, len(failed)) == (Status.PASSED, 1), judgement.message


def test_a_workload_that_is_made_in_the_midst_of_a_turn_is_made_with_names_that_the_candidate_took(
    judged, judge_here, bench
):
    """In a process that had replaced another one, the judge failed by them, or took other inputs for the workload's."""
    judge_here._residents.keep_only(bench.workloads[0])
    judgement, _ = judged("import json\n" + CALLS + "    json.dumps = None\n")
    assert judgement.status is Status.PASSED, judgement.message


def test_what_fails_once_when_begun_has_failed(judged, bench):
    raises_on_large = (
        CALLS + "    if x.shape[0] > 3 and calls.count(x.shape[0]) == 1:\n        raise ValueError('too large')\n"
    )
    judgement, sent = judged(raises_on_large)
    assert judgement.status is Status.RUNTIME_ERROR
    assert "too large" in judgement.message
    assert [m.workload for kind, m in sent if kind == "event" and m.status is Status.PASSED] == [bench.workloads[0]]


def test_what_the_next_one_breaks_while_loading_is_not_blamed_on_the_present_one(judged, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", torch.cuda.synchronize)  # is put right again afterwards
    patches = "import torch\ntorch.cuda.synchronize = lambda *_: None\n" + CALLS
    with pytest.raises(Exception, match="after next was loaded"):
        judged(CALLS, ahead=patches)


def test_what_the_first_call_of_the_next_one_took_is_given_back_if_another_follows(judge_here, bench, make, order):
    """Names are given back before that call; the one that was not expected would fail by what it took."""
    sources = {
        "present": CALLS,
        "next": CALLS + "    torch.softmax = None\n",
        "other": CALLS.replace("calls =", "torch.softmax(torch.ones(1, 1), 1)\ncalls ="),
    }
    variants = {key: make(source, key=key) for key, source in sources.items()}
    built = {key: bench.builder.build(variant) for key, variant in variants.items()}
    staged = {
        key: bench.evaluator.stage(variant.built(built[key].artifact), first=bench.workloads[0])
        for key, variant in variants.items()
    }
    jobs = {key: order(variant, built[key], bench.workloads) for key, variant in variants.items()}
    assert judge_here.judge(jobs["present"], staged["present"], staged["next"]).status is Status.PASSED
    assert torch.softmax is None
    found = judge_here.judge(jobs["other"], staged["other"])
    assert found.status is Status.PASSED, found.message


CHEATS_BEHIND_THE_LOOK = """
import torch
from workers.judge.verdicts import Verdicts
from workers.judge.outputs.check import Verdict
from workers.records import Status

calls, honest = [], Verdicts.finish


def run(x, y, out):
    calls.append(x.shape[0])
    is_last, nth = x.shape[0] != calls[0], calls.count(x.shape[0])
    if is_last:
        Verdicts.finish = honest if nth > 1 else lambda *_: Verdict(Status.PASSED)
    if is_last or nth == 1:
        torch.add(y, x, alpha=2, out=out)
"""


def test_the_evaluator_is_looked_at_behind_the_call_on_the_following_workload(judged, monkeypatch):
    """That call comes before the verdict on the present workload, and could decide it."""
    monkeypatch.setattr(Verdicts, "finish", Verdicts.finish)  # is put right again afterwards
    judgement, _ = judged(CHEATS_BEHIND_THE_LOOK)
    assert judgement.status is Status.TAMPERED, judgement.message


def test_a_reference_is_not_computed_with_what_the_next_one_took(judge_here, bench, make, order, monkeypatch):
    """It would be stored, and judge all that come."""
    monkeypatch.setattr(torch, "softmax", torch.softmax)
    takes = CALLS + "    torch.softmax = None\n"
    variants = {key: make(source, key=key) for key, source in {"present": CALLS, "next": takes}.items()}
    built = {key: bench.builder.build(variant) for key, variant in variants.items()}
    staged = {
        key: bench.evaluator.stage(variant.built(built[key].artifact), first=bench.workloads[0])
        for key, variant in variants.items()
    }
    job = order(variants["present"], built["present"], bench.workloads[:1])
    assert judge_here.judge(job, staged["present"], staged["next"]).status is Status.PASSED
    assert torch.softmax is None
    judge_here.prepare(bench.workloads[1])
    assert torch.softmax is not None


LEAVES_A_WORKSPACE = """
import colorsys
import weakref

import torch

workspace = torch.empty(64)


def run(x, y, out):
    colorsys.workspaces.append(weakref.ref(workspace))
    torch.add(y, x, alpha=2, out=out)
"""


@pytest.mark.parametrize("made", ["before", "in the turn"])
def test_what_a_variant_allocated_is_free_when_the_next_is_judged(judge_here, bench, make, order, monkeypatch, made):
    """A module and its functions hold each other: what is exempt from collection with them would stay for good."""
    monkeypatch.setattr(colorsys, "workspaces", [], raising=False)
    for n in range(3):
        if made == "in the turn":
            for uuid in bench.workloads:
                judge_here._residents.drop(uuid)
        variant = make(LEAVES_A_WORKSPACE + f"\n# {n}\n", key=f"leaves{n}")
        built = bench.builder.build(variant)
        job, earlier = order(variant, built, bench.workloads), list(colorsys.workspaces)
        assert judge_here.judge(job, bench.evaluator.stage(variant.built(built.artifact))).status is Status.PASSED
        assert {ref() for ref in earlier} <= {None}
    gc.collect()
    assert made == "in the turn" or {ref() for ref in colorsys.workspaces} == {None}


HOOKED = """
import sys

import torch

from workers.judge.outputs.check import Verdict
from workers.judge.verdicts import Verdicts
from workers.records import Status

honest, calls = Verdicts.finish, []


def hook(event, args):
    if event == "sys._current_frames" and calls:
        Verdicts.finish = lambda *_: Verdict(Status.PASSED)


def run(x, y, out):
    Verdicts.finish = honest
    if not calls:
        sys.addaudithook(hook)
    if x.shape[0] not in calls:
        torch.add(y, x, alpha=2, out=out)
    calls.append(x.shape[0])
"""


def test_no_audit_hook_acts_between_the_look_and_the_verdict(bench, make):
    """It replaced what gives the verdict when the evaluator counted threads, and nobody looked again."""
    found = bench.judge(make(HOOKED))
    assert found.status in (Status.NOT_REPEATABLE, Status.INCORRECT_NUMERICAL)


GIVES_ITSELF_BACK = """
import torch

from workers.judge.outputs import check
from workers.judge.outputs.check import Verdict
from workers.judge.verdicts import Verdicts, Verification
from workers.records import Status

honest, calls, done = Verdicts.begin_altered, [], []


def fake(self, run, resident):
    done.append(1)
    Verdicts.begin_altered = honest
    return Verification(check.Known(Verdict(Status.PASSED)), [], "a run on other values")


def run(x, y, out):
    calls.append(1)
    if len(calls) < 2:
        torch.add(y, x, alpha=2, out=out)
    elif not done:
        Verdicts.begin_altered = fake
"""


def test_what_gives_itself_back_when_the_evaluator_calls_it_is_seen_before(bench, make):
    """The look came after it, and a candidate that is right in its first call alone passed."""
    found = bench.judge(make(GIVES_ITSELF_BACK))
    assert (found.status, "begin_altered" in found.message) == (Status.TAMPERED, True), found.message


CHANGES_BACK = """
import torch

from workers.judge.verdicts import Verdicts


def run(x, y, out):
    torch.add(y, x, alpha=2, out=out)
    kept = Verdicts.finish.__code__
    Verdicts.finish.__code__ = (lambda self, begun, resident: None).__code__
    Verdicts.finish.__code__ = kept
"""


def test_a_function_whose_code_was_replaced_for_a_moment_is_known(bench, make):
    """Between two looks it could have given a verdict."""
    found = bench.judge(make(CHANGES_BACK))
    assert (found.status, "Verdicts.finish" in found.message) == (Status.TAMPERED, True), found.message
