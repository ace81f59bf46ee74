"""The runner on a real local Ray cluster: one cluster for all tests but the one that kills the driver."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from workers.cluster.ray_runner import RayRunner
from workers.errors import ClusterError
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Deadlines,
    Evaluation,
    EvaluationJob,
    Method,
    Status,
    Variant,
)

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[3]
QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
DEADLINES = Deadlines(compile_s=30.0, check_s=30.0, measure_s=30.0)
SLOW_BUILD = "import os, time\n\n\ndef build(out_dir):\n    time.sleep(2)\n    return {}\n"
# Long enough to be caught at it, short enough to end by itself.
SLOW_RUN = (
    "import time\nimport torch\n\n\ndef run(x, y, out):\n    time.sleep(0.3)\n    torch.add(y, x, alpha=2, out=out)\n"
)
KILLS_ITS_ACTOR = (
    "import os, time\nimport psutil\n\n\ndef run(x, y, out):\n"
    "    psutil.Process().parent().parent().kill()\n    time.sleep(60)\n"
)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("ray_cache")


@pytest.fixture(scope="module")
def runner(dataset, cache_dir, left_after):
    found = RayRunner(dataset.problem("scale_add_d64"), "cpu", deadlines=DEADLINES, cache_dir=cache_dir)
    yield found
    family = [psutil.Process(pid) for each in found.processes() for pid in each.values() if pid]
    found.close()
    assert left_after(20, family) == [], "close() left processes"


@pytest.fixture(scope="module")
def workloads(dataset):
    return tuple(w["uuid"] for w in dataset.problem("scale_add_d64").workloads)


def gather(runner, count, limit_s=120.0):
    """The next ``count`` outcomes."""
    found = []
    deadline = time.monotonic() + limit_s
    while len(found) < count and time.monotonic() < deadline:
        found += runner.wait(deadline - time.monotonic())
    assert len(found) == count
    return found


def build(runner, variant: Variant) -> BuildResult:
    runner.submit_build(variant)
    (result,) = gather(runner, 1)
    assert result.status is Status.BUILT, result.log
    return result


def test_many_jobs_each_come_back_once(runner, make, workloads):
    assert runner.environment().target == "cpu"
    variants = [make(key=f"v{i}", marker=f"# {i}") for i in range(6)]
    for variant in variants:
        runner.submit_build(variant)
    builds, evaluations = {}, {}
    while len(evaluations) < len(variants):
        for outcome in gather(runner, 1):
            if isinstance(outcome, BuildResult):
                assert outcome.key not in builds
                builds[outcome.key] = outcome
                variant = next(v for v in variants if v.key == outcome.key)
                runner.submit_evaluation(EvaluationJob(variant.built(outcome.artifact), workloads, QUICK))
            else:
                assert outcome.key not in evaluations
                evaluations[outcome.key] = outcome
    assert {e.status for e in evaluations.values()} == {Status.PASSED}
    assert runner.wait(0.0) == []


def test_what_has_arrived_can_be_had_without_waiting(runner, make):
    """More builds than builders: those that wait must be given out, or they are not begun until somebody waits."""
    variants = [make(key=f"early{i}", marker=f"# early {i}") for i in range(runner.builders + 2)]
    for variant in variants:
        runner.submit_build(variant)
    found, until = [], time.monotonic() + 120
    while len(found) < len(variants) and time.monotonic() < until:
        found += runner.arrived()
    assert {outcome.key for outcome in found} == {variant.key for variant in variants}
    assert runner.arrived() == []


def test_submitting_gives_out_what_waits(runner, make):
    """Would catch builders that have nothing to do while a sweep's first proposals are made: nobody waits then."""
    for i in range(runner.builders + 1):
        runner.submit_build(make(key=f"waits{i}", marker=f"# waits {i}"))
    until = time.monotonic() + 120
    submitted = runner.builders + 1
    while any(job.payload.key == f"waits{runner.builders}" for job in runner._jobs.builds.queue):
        assert time.monotonic() < until
        time.sleep(0.2)
        runner.submit_build(make(key=f"more{submitted}", marker="# more"))
        submitted += 1
    assert len(gather(runner, submitted)) == submitted


def test_comparison(runner, make, cpp, workloads):
    """Of a package and a library: would catch an evaluator that is not sent what it finds the library by."""
    variants = [make(key="a"), replace(cpp, key="b")]
    pairs = tuple(v.built(build(runner, v).artifact) for v in variants)
    runner.submit_comparison(ComparisonJob(pairs, workloads, QUICK, rounds=4))
    (comparison,) = gather(runner, 1)
    assert isinstance(comparison, Comparison)
    assert [(e.key, e.status) for e in comparison.evaluations] == [("a", Status.PASSED), ("b", Status.PASSED)]


def test_what_no_worker_has_begun_can_be_withdrawn(runner, make):
    """Would catch a job that is withdrawn and comes back, or one that has begun and does not."""
    build(runner, make(key="first", marker="# first"))
    keys = [f"w{i}" for i in range(runner.builders + 2)]
    for key in keys:
        runner.submit_build(make(key=key, marker=f"# {key}", build=SLOW_BUILD))
    assert runner.withdraw({*keys[1:], "unknown"}) == set(keys[runner.builders :])
    assert {result.key for result in gather(runner, runner.builders)} == set(keys[: runner.builders])
    assert runner.wait(0.0) == []


def test_what_is_timed_goes_before_what_builds(runner):
    """Would catch Ray's own niceness of 15 for both: on a busy machine nothing begins, and builders do not yield."""
    ours = psutil.Process().nice()
    for pid in runner.processes()[-1].values():
        assert pid is None or psutil.Process(pid).nice() == ours
    builder = runner.processes()[0]["child"]
    assert builder is None or psutil.Process(builder).nice() == 19


@pytest.mark.parametrize("victim", ["actor", "fork_server", "child"])
def test_killed_builder(runner, make, victim):
    """A lost actor is not the candidate's fault; the candidate's own process dying cannot be told from a crash."""
    pids = runner.processes()[0]
    runner.submit_build(make(key="slow", build=SLOW_BUILD, marker=f"# {victim}"))
    runner.wait(1.0)
    os.kill(pids[victim] or runner.processes()[0][victim], 9)
    (result,) = gather(runner, 1)
    assert result.status is (Status.BUILT if victim == "actor" else Status.CRASHED), result.log
    assert build(runner, make(marker=f"# after {victim}")).status is Status.BUILT


@pytest.mark.parametrize("victim", ["actor", "child"])
def test_killed_evaluator(runner, make, workloads, victim):
    variant = make(SLOW_RUN, key="slow")
    artifact = build(runner, variant).artifact
    pids = runner.processes()[-1]
    runner.submit_evaluation(EvaluationJob(variant.built(artifact), workloads, QUICK))
    runner.wait(1.0)
    os.kill(pids[victim], 9)
    (evaluation,) = gather(runner, 1)
    assert evaluation.key == "slow"
    assert evaluation.status is (Status.PASSED if victim == "actor" else Status.CRASHED), evaluation.message
    runner.submit_evaluation(EvaluationJob(variant.built(artifact), workloads, QUICK))
    assert gather(runner, 1)[0].status is Status.PASSED


def test_worker_lost_again_and_again_is_told(runner, make, workloads):
    variant = make(KILLS_ITS_ACTOR, key="killer")
    runner.submit_evaluation(EvaluationJob(variant.built(build(runner, variant).artifact), workloads, QUICK))
    (evaluation,) = gather(runner, 1)
    assert isinstance(evaluation, Evaluation)
    assert (evaluation.key, evaluation.status) == ("killer", Status.WORKER_LOST)
    good = make()
    runner.submit_evaluation(EvaluationJob(good.built(build(runner, good).artifact), workloads, QUICK))
    assert gather(runner, 1)[0].status is Status.PASSED


def test_who_waits_behind_one_that_kills_the_worker_is_not_blamed(runner, make, workloads, monkeypatch):
    monkeypatch.setattr(runner._jobs.evaluations, "depth", 3)
    variants = [make(KILLS_ITS_ACTOR, key="killer"), make(key="second", marker="# 2"), make(key="third", marker="# 3")]
    jobs = [EvaluationJob(v.built(build(runner, v).artifact), workloads, QUICK) for v in variants]
    for job in jobs:
        runner.submit_evaluation(job)
    found = {e.key: e.status for e in gather(runner, 3)}
    assert found == {"killer": Status.WORKER_LOST, "second": Status.PASSED, "third": Status.PASSED}


def test_artifact_that_is_gone_is_built_again(runner, make, workloads, cache_dir):
    variants = [make(key="gone", marker="# gone"), make(key="gone too", marker="# gone too")]
    pairs = tuple(v.built(build(runner, v).artifact) for v in variants)
    shutil.rmtree(cache_dir / "entries")
    (cache_dir / "entries").mkdir()
    runner.submit_evaluation(EvaluationJob(pairs[0], workloads, QUICK))
    (evaluation,) = gather(runner, 1)
    assert (evaluation.key, evaluation.status) == ("gone", Status.PASSED)
    shutil.rmtree(cache_dir / "entries")
    (cache_dir / "entries").mkdir()
    runner.submit_comparison(ComparisonJob(pairs, workloads, QUICK, rounds=3))
    (comparison,) = gather(runner, 1)
    assert [e.status for e in comparison.evaluations] == [Status.PASSED, Status.PASSED]


def test_second_runner_in_a_process_is_refused(runner, dataset, cache_dir):
    with pytest.raises(ClusterError, match="one runner at a time"):
        RayRunner(dataset.problem("scale_add_d64"), "cpu", cache_dir=cache_dir)


DRIVER = """
import sys
from workers.fib.dataset import Dataset
from workers.errors import WorkerError
from workers.cluster.ray_runner import RayRunner

mode, root, cache = sys.argv[1:]
try:
    name = "broken_d64" if mode == "broken" else "scale_add_d64"
    runner = RayRunner(
        Dataset(root).problem(name),
        "sm_90a" if mode == "no gpu" else "cpu",
        cache_dir=cache,
        ray_address="127.0.0.1:1" if mode == "no cluster" else None,
    )
    if mode == "broken":
        print([f"{uuid} {w.unjudgeable}" for uuid, w in runner.workloads().items()])
        sys.exit()
    while mode == "wait":
        # The evaluator's child comes with its first job, which may still be on its way.
        pids = [pid for each in runner.processes() for pid in each.values()]
        if sum(pid is not None for pid in pids) >= 5:
            print(*filter(None, pids))
            break
    print(flush=True)
    runner.wait(600)
    input()
except WorkerError as error:
    print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


def driver(mode, dataset, cache_dir):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, mode, str(dataset.root), str(cache_dir)]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_killed_sweep_leaves_no_orphan(dataset, tmp_path, left_after):
    process = driver("wait", dataset, tmp_path)
    workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    family = {*workers, *psutil.Process(process.pid).children(recursive=True)}
    agents = {p.pid for p in family if "Agent" in p.name()}
    assert len(workers) >= 5
    process.kill()
    process.wait()
    assert left_after(20, workers) == []
    # Ray's two agents find out by themselves within a minute or two; everything else is gone now.
    assert left_after(20, (p for p in family if p.pid not in agents)) == []


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("no gpu", "ClusterError target sm_90a needs an NVIDIA GPU and this machine has none"),
        ("no cluster", "ClusterError Ray cluster '127.0.0.1:1' cannot be reached"),
        ("broken", "broken_d64-n3 the reference of 'broken_d64' fails: ValueError: no such thing"),
    ],
)
def test_unusable_set_up_is_one_line(dataset, tmp_path, mode, said):
    out, _ = driver(mode, dataset, tmp_path).communicate("", timeout=120)
    assert said in out


TWO_NODES = """
import shutil, sys
from pathlib import Path

from ray.cluster_utils import Cluster

from workers.fib.dataset import Dataset
from workers.cluster.ray_runner import RayRunner
from workers.records import Deadlines, EvaluationJob, Method, Variant

root, cache = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
cluster.add_node(num_cpus=1, resources={"tuner_evaluator": 1}, object_store_memory=80 << 20)
problem = Dataset(root).problem("scale_add_d64")
source = "import torch\\n\\n\\ndef run(x, y, out):\\n    torch.add(y, x, alpha=2, out=out)\\n"
variant = Variant("v", problem.name, {"main.py": source}, "main.py::run", "python", "cpu")
runner = RayRunner(problem, "cpu", ray_address=cluster.address, cache_dir=cache)
print(runner.builders, runner.evaluators, flush=True)
runner.submit_build(variant)
(build,) = runner.wait(120)
print(build.status, list(runner._jobs._packed) == [build.artifact], flush=True)
# What an evaluator on a machine with its own file system would see.
shutil.rmtree(Path(cache) / "entries")
(Path(cache) / "entries").mkdir()
workloads = (problem.workloads[0]["uuid"],)
runner.submit_evaluation(EvaluationJob(variant.built(build.artifact), workloads, Method(budget_s=0.1)))
(evaluation,) = runner.wait(120)
print(evaluation.status, evaluation.message, len(list((Path(cache) / "entries").iterdir())), flush=True)
runner.close()
cluster.shutdown()
"""


@pytest.mark.slow
def test_joined_cluster_of_two_machines_ships_artifacts(dataset, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TWO_NODES, str(dataset.root), str(tmp_path / "cache")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.stdout.split("\n")[:3] == ["1 1", "BUILT True", "PASSED  1"], done.stdout + done.stderr[-3000:]
