"""Candidates are judged rightly; every way to misbehave has its own status and does not touch the next candidate."""

import os

import psutil
import pytest

from tests.workers.judge.bodies import passing
from workers.build.artifact_cache import ArtifactCache
from workers.errors import ArtifactMissingError, CacheFullError, DatasetError
from workers.judge.evaluator import VariantEvaluator
from workers.records import BuildResult, ComparisonJob, Deadlines, EvaluationJob, Method, Status

QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)


class Unpicklable:
    """Source of a candidate whose exception cannot be pickled, has a broken text and holds a lock."""

    SOURCE = passing("raise Odd()") + (
        "\n\nclass Odd(Exception):\n    def __init__(self):\n        import threading\n"
        "        self.lock = threading.Lock()\n\n    def __str__(self):\n        raise KeyError('no text')\n"
    )


RUN_TIME = {
    "zeros": (passing("out.zero_()"), Status.INCORRECT_NUMERICAL, "within"),
    "nan": (passing("good(x, y, out)\nout[0, 0] = float('nan')"), Status.INCORRECT_NUMERICAL, "not finite"),
    "writes nothing": (passing("pass"), Status.INCORRECT_NUMERICAL, "not finite"),
    "slightly wrong": (passing("good(x, y, out)\nout *= 1.1"), Status.INCORRECT_NUMERICAL, "largest absolute error"),
    # All of one: what the evaluator itself changes between samples, and puts back, may be any single element.
    "modifies inputs": (passing("good(x, y, out)\nx += 1"), Status.INPUTS_MODIFIED, "inputs"),
    "right first": (passing("good(x, y, out) if calls == 1 else None"), Status.NOT_REPEATABLE, "right the first time"),
    "right twice": (passing("good(x, y, out) if calls <= 2 else None"), Status.NOT_REPEATABLE, "right the first time"),
    "raises": (passing("raise ValueError('no luck')"), Status.RUNTIME_ERROR, "ValueError: no luck"),
    "raises words of ours": (
        passing("raise ValueError('DeviceLostError: skipped: cannot be captured in a CUDA graph')"),
        Status.RUNTIME_ERROR,
        "ValueError: DeviceLostError",
    ),
    "says that it cannot run here": (
        passing("raise type('Skipped', (RuntimeError,), {})('there is no such GPU')"),
        Status.SKIPPED,
        "there is no such GPU",
    ),
    "raises oddly": (Unpicklable.SOURCE, Status.RUNTIME_ERROR, "Odd"),
    "exits politely": (passing("sys.exit(0)"), Status.RUNTIME_ERROR, "SystemExit"),
    "too much memory": (passing("torch.empty(1 << 44)"), Status.RUNTIME_ERROR, "memory"),
    "fools the check": (
        passing("torch.isfinite = lambda t: torch.ones_like(t, dtype=torch.bool)\ngood(x, y, out)"),
        Status.TAMPERED,
        "replaced torch.isfinite",
    ),
    "segfault": (passing("ctypes.string_at(0)"), Status.CRASHED, "signal 11"),
    "segfault when measured": (
        passing("good(x, y, out)\nif calls > 2: ctypes.string_at(0)"),
        Status.CRASHED,
        "measure",
    ),
    "exits at once": (passing("os._exit(0)"), Status.CRASHED, "exit code 0"),
    "kills its parent": (passing("os.kill(os.getppid(), 9)\ntime.sleep(60)"), Status.CRASHED, "died"),
    "writes to every channel": (
        passing("for fd in range(3, 30):\n    try: os.write(fd, b'x' * 64)\n    except OSError: pass\nos._exit(1)"),
        Status.CRASHED,
        "died",
    ),
}

HANGS = {
    "hangs in check": (passing("while True: pass"), Status.TIMEOUT, "'check"),
    "hangs holding the interpreter": (passing("ctypes.PyDLL(None).sleep(1000)"), Status.TIMEOUT, "'check"),
    "hangs in measure": (passing("good(x, y, out)\nwhile calls > 2: pass"), Status.TIMEOUT, "'measure"),
    "prints for ever": (passing("while True: print('x' * 1000)"), Status.TIMEOUT, "'check"),
}

LATE_LIST = """
class Late(list):
    def __iter__(self):
        return iter([2 * self.x + self.y])

    def __getitem__(self, place):
        return 2 * self.x + self.y


def run(x, y):
    late = Late([0])
    late.x, late.y = x, y
    return late
"""
LATE_NUMBER = """
class Late:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return (2 * self.x + self.y)[place].tolist()


def run(x, y):
    return Late(x, y)
"""
RETURNING = {
    "wrong shape": ("def run(x, y):\n    return (2 * x + y)[:, :-1]\n", Status.INCORRECT_SHAPE, "not ["),
    "wrong dtype": ("def run(x, y):\n    return (2 * x + y).double()\n", Status.INCORRECT_DTYPE, "float64"),
    "remembers its result": (
        "memory = []\n\n\ndef run(x, y):\n    if len(memory) < 2:\n        memory.append(2 * x + y)\n"
        "    return memory[-1]\n",
        Status.NOT_REPEATABLE,
        "right the first time",
    ),
    "a list that computes": (LATE_LIST, Status.INCORRECT_SHAPE, "has shape []"),
    "a number that computes": (LATE_NUMBER, Status.RUNTIME_ERROR, "is a Late, neither a tensor nor a number"),
    "nothing": ("def run(x, y):\n    return None\n", Status.RUNTIME_ERROR, "NoneType"),
    "two values": ("def run(x, y):\n    return x, y\n", Status.RUNTIME_ERROR, "1 outputs"),
}


def assert_good_passes(bench, make) -> None:
    evaluation = bench.judge(make(key="good"))
    assert evaluation.status is Status.PASSED, evaluation.message
    assert [m.status for m in evaluation.measurements] == [Status.PASSED] * 2


def test_good_candidate(bench, make):
    evaluation = bench.judge(make())
    assert evaluation.status is Status.PASSED, evaluation.message
    assert [m.workload for m in evaluation.measurements] == list(bench.workloads)
    for measurement in evaluation.measurements:
        assert measurement.low_us <= measurement.median_us <= measurement.high_us
        assert len(measurement.samples_us) >= QUICK.min_samples
        assert measurement.matched_ratio == 1.0
        assert measurement.max_abs_error is not None
    assert evaluation.environment == bench.evaluator.environment().fingerprint


def test_what_was_checked_before_is_still_verified_when_timed(bench, make):
    assert bench.judge(make(), check=False).status is Status.PASSED
    wrong = bench.judge(make(passing("out.zero_()")), check=False)
    assert wrong.status is Status.NOT_REPEATABLE
    assert "INCORRECT_NUMERICAL" in wrong.message


def test_good_candidate_that_returns(bench, make):
    assert bench.judge(make("def run(x, y):\n    return 2 * x + y\n", returns=True)).status is Status.PASSED


@pytest.mark.parametrize("name", RUN_TIME)
def test_destination_passing_candidate(bench, make, name):
    source, status, said = RUN_TIME[name]
    evaluation = bench.judge(make(source, key=name))
    assert (evaluation.status, said in evaluation.message) == (status, True), evaluation.message
    assert all(m.status is not Status.PASSED for m in evaluation.measurements)
    assert evaluation.measurements[-1].status is status
    assert len(evaluation.message) < 40_000
    assert_good_passes(bench, make)


@pytest.mark.parametrize("name", HANGS)
def test_hanging_candidate(hasty, make, name):
    source, status, said = HANGS[name]
    evaluation = hasty.judge(make(source, key=name))
    assert (evaluation.status, said in evaluation.message) == (status, True), evaluation.message
    assert evaluation.measurements[-1].status is status
    assert "took longer than 3 s" in evaluation.message
    assert_good_passes(hasty, make)


@pytest.mark.parametrize("name", RETURNING)
def test_value_returning_candidate(bench, make, name):
    source, status, said = RETURNING[name]
    evaluation = bench.judge(make(source, key=name, returns=True))
    assert (evaluation.status, said in evaluation.message) == (status, True), evaluation.message


def test_huge_log_is_cut_and_no_failure(bench, make):
    source = passing("if calls == 1: print('x' * 50_000_000)\ngood(x, y, out)")
    assert bench.judge(make(source)).status is Status.PASSED


def test_processes_of_a_candidate_end_with_it(bench, make, tmp_path):
    note = tmp_path / "pid"
    body = (
        "import subprocess\np = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        f"open({str(note)!r}, 'w').write(str(p.pid))\nctypes.string_at(0)"
    )
    assert bench.judge(make(passing(body))).status is Status.CRASHED
    assert not psutil.pid_exists(int(note.read_text()))


def test_later_workload_fails(bench, make):
    """What was measured before the failure is kept."""
    evaluation = bench.judge(make(passing("good(x, y, out)\nif x.shape[0] > 3: os._exit(3)")))
    assert evaluation.status is Status.CRASHED
    assert [m.status for m in evaluation.measurements] == [Status.PASSED, Status.CRASHED]


def test_racing_stops_after_a_losing_workload(bench, make):
    build = bench.builder.build(make())
    first, second = bench.workloads
    lost = bench.evaluator.evaluate(EvaluationJob(make().built(build.artifact), (first, second), QUICK, {first: 0.0}))
    assert (lost.status, [m.workload for m in lost.measurements]) == (Status.RACED_OUT, [first])
    assert lost.measurements[0].status is Status.PASSED
    won = bench.evaluator.evaluate(EvaluationJob(make().built(build.artifact), (first, second), QUICK, {first: 1e9}))
    assert won.status is Status.PASSED


def test_replaced_process_has_its_workloads_again(bench, make):
    assert_good_passes(bench, make)
    before = bench.evaluator.processes()
    bench.judge(make(passing("os._exit(1)")))
    assert_good_passes(bench, make)
    after = bench.evaluator.processes()
    assert after["fork_server"] == before["fork_server"]
    assert after["child"] != before["child"]


def test_comparison_is_interleaved_and_survives_a_member(bench, make):
    variants = [make(key="a"), make(key="b"), make(passing("good(x, y, out)\nif calls > 5: os._exit(1)"), key="c")]
    pairs = tuple(v.built(bench.builder.build(v).artifact) for v in variants)
    comparison = bench.evaluator.compare(ComparisonJob(pairs, bench.workloads, QUICK, rounds=7, seed=3))
    a, b, c = comparison.evaluations
    assert [e.key for e in comparison.evaluations] == ["a", "b", "c"]
    assert (a.status, b.status, c.status) == (Status.PASSED, Status.PASSED, Status.CRASHED)
    for evaluation in (a, b):
        assert [m.workload for m in evaluation.measurements] == list(bench.workloads)
        assert [len(m.samples_us) for m in evaluation.measurements] == [7, 7]


def test_comparison_tells_a_wrong_member(bench, make):
    variants = [make(key="a"), make(passing("out.zero_()"), key="wrong")]
    pairs = tuple(v.built(bench.builder.build(v).artifact) for v in variants)
    comparison = bench.evaluator.compare(ComparisonJob(pairs, bench.workloads, QUICK, rounds=3))
    assert [e.status for e in comparison.evaluations] == [Status.PASSED, Status.INCORRECT_NUMERICAL]


def test_files_of_an_evaluator_that_works_for_days_stay(bench, make):
    """The cache removes what nobody has touched for a day, as that of a dead process."""
    assert_good_passes(bench, make)
    os.utime(bench.evaluator._scratch, (0, 0))
    assert_good_passes(bench, make)
    ArtifactCache(bench.cache_dir).evict()
    assert bench.evaluator._scratch.exists()


def test_one_whose_next_is_damaged_is_judged_all_the_same(bench, make):
    """It was built again itself, and the second time the sweep ended."""
    present, following = (
        v.built(bench.builder.build(v).artifact) for v in (make(key="a"), make(key="b", marker="# for this test"))
    )
    staged, ahead = bench.evaluator.stage(present), bench.evaluator.stage(following)
    bench.evaluator.release()
    (bench.cache_dir / "entries" / following.artifact / "manifest.json").write_text("damaged")
    evaluation = bench.evaluator.evaluate(EvaluationJob(present, bench.workloads, QUICK), staged, ahead)
    assert evaluation.status is Status.PASSED, evaluation.message


def test_missing_artifact_is_told(bench, make):
    with pytest.raises(ArtifactMissingError, match="0123"):
        bench.evaluator.evaluate(EvaluationJob(make().built("0123"), bench.workloads, QUICK))


def evaluator_for(dataset, name, bench):
    return VariantEvaluator(dataset.problem(name), "cpu", str(bench.cache_dir), Deadlines())


def test_degenerate_reference_is_refused(bench, dataset, make):
    evaluator = evaluator_for(dataset, "zero_d64", bench)
    try:
        build: BuildResult = bench.builder.build(make(passing("out.zero_()")))
        job = EvaluationJob(make(passing("out.zero_()")).built(build.artifact), ("zero_d64-n3",), QUICK)
        evaluation = evaluator.evaluate(job)
        assert evaluation.status is Status.DEGENERATE_REFERENCE
        assert "constant" in evaluation.message
    finally:
        evaluator.close()


def test_broken_reference_is_the_datasets_fault(bench, dataset, make, order):
    evaluator = evaluator_for(dataset, "broken_d64", bench)
    try:
        prepared = evaluator.warm()
        assert all("no such thing" in prepared[uuid].unjudgeable for uuid in ("broken_d64-n3", "broken_d64-n40"))
        build = bench.builder.build(make())
        with pytest.raises(DatasetError, match="no such thing"):
            evaluator.evaluate(order(make(), build, ("broken_d64-n3",)))
    finally:
        evaluator.close()


STRAY = (
    "good(x, y, out)\nframe = sys._getframe()\n"
    "while not hasattr(frame.f_locals.get('self'), '_residents'): frame = frame.f_back\n"
    "for workload in frame.f_locals['self']._residents._held.values():\n"
    "    if workload.inputs[0].shape[0] == 40: workload.inputs[0][0, 0] = 7"
)


def test_candidate_that_writes_into_another_workload_is_found_at_its_own_end(bench, make):
    """It ran on the small workload alone, and right; the next candidate would have paid on the large one."""
    assert_good_passes(bench, make)
    variant = make(passing(STRAY), key="stray")
    build = bench.builder.build(variant)
    evaluation = bench.evaluator.evaluate(EvaluationJob(variant.built(build.artifact), bench.workloads[:1], QUICK))
    assert (evaluation.status, [m.status for m in evaluation.measurements]) == (
        Status.INPUTS_MODIFIED,
        [Status.PASSED],
    )
    assert f"the memory of workload {bench.workloads[1]}" in evaluation.message
    assert_good_passes(bench, make)


def staged(bench, variant):
    return bench.evaluator.stage(variant.built(bench.builder.build(variant).artifact))


def evaluate_with_ahead(bench, variant, ahead):
    build = bench.builder.build(variant)
    job = EvaluationJob(variant.built(build.artifact), bench.workloads, QUICK)
    return bench.evaluator.evaluate(job, staged(bench, variant), staged(bench, ahead))


def test_next_variant_is_loaded_before_its_job(bench, make, tmp_path):
    note = tmp_path / "note"
    tells = f"import sys, torch\nif 'workers.judge.judge' in sys.modules: open({str(note)!r}, 'a').write('loaded ')\n"
    ahead = make(
        tells + f"def preload():\n    open({str(note)!r}, 'a').write('preloaded ')\n\n"
        "def run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n",
        key="next",
    )
    assert evaluate_with_ahead(bench, make(key="first"), ahead).status is Status.PASSED
    assert note.read_text() == "loaded preloaded "
    assert bench.judge(ahead).status is Status.PASSED
    assert note.read_text() == "loaded preloaded ", "it was loaded again"


def test_next_variant_is_called_once_ahead_and_a_death_of_it_hurts_itself_only(bench, make, tmp_path):
    note = tmp_path / "note"
    called = make(passing(f"open({str(note)!r}, 'a').write('called ')\ngood(x, y, out)"), key="next")
    dies = make(passing("os._exit(3)"), key="dies")
    build = bench.builder.build(make(key="first"))
    job = EvaluationJob(make(key="first").built(build.artifact), bench.workloads, QUICK)

    def evaluate_before(variant):
        ahead = bench.evaluator.stage(variant.built(bench.builder.build(variant).artifact), None, bench.workloads[0])
        return bench.evaluator.evaluate(job, ahead=ahead)

    for _ in range(9):
        assert_good_passes(bench, make)
    assert evaluate_before(called).status is Status.PASSED
    assert note.read_text() == "called "
    assert bench.judge(called).status is Status.PASSED
    passed = evaluate_before(dies)
    assert passed.status is Status.PASSED
    assert [m.workload for m in passed.measurements] == list(bench.workloads)
    assert bench.judge(dies).status is Status.CRASHED
    note.unlink()
    assert evaluate_before(called).status is Status.PASSED
    assert not note.exists(), "called ahead although a process has just died"


def test_same_variant_ahead_for_another_regime(bench, make):
    assert evaluate_with_ahead(bench, make(key="small"), make(key="large")).status is Status.PASSED
    assert evaluate_with_ahead(bench, make(key="large"), make(key="huge")).status is Status.PASSED


@pytest.mark.parametrize(
    ("source", "status"),
    [("os._exit(3)", Status.CRASHED), ("raise ValueError('bad module')", Status.RUNTIME_ERROR)],
)
def test_variant_that_fails_when_loaded_ahead_hurts_itself_only(bench, make, source, status):
    # The builder has loaded it without harm.
    only_here = f"import os, sys\nif 'workers.judge.judge' in sys.modules: {source}\n"
    bad = make(only_here + "def run(x, y, out):\n    pass\n", key="bad")
    first = evaluate_with_ahead(bench, make(key="first"), bad)
    assert first.status is Status.PASSED
    assert [m.workload for m in first.measurements] == list(bench.workloads)
    assert bench.judge(bad).status is status
    assert_good_passes(bench, make)


KEEPS_WORKSPACES = passing(
    "sizes.add(x.shape[0])\nif len(sizes) > 1: raise RuntimeError('no room') from MemoryError()\ngood(x, y, out)"
).replace("calls = 0", "calls = 0\nsizes = set()")


def test_what_a_candidate_keeps_from_one_workload_is_not_in_the_way_of_the_next(bench, make):
    evaluation = bench.judge(make(KEEPS_WORKSPACES, key="keeps"))
    assert evaluation.status is Status.PASSED, evaluation.message
    assert_good_passes(bench, make)


def test_where_the_time_went_is_told(bench, make):
    bench.judge(make())
    usage = bench.judge(make()).usage
    assert usage["candidate_s"] > 0
    assert usage["check_s"] > 0
    assert usage["idle_s"] > 0
    assert usage["candidate_s"] + usage["check_s"] < usage["evaluate_s"]
    phases = [usage[f"phase_{kind}_s"] for kind in ("load", "prepare", "check", "measure", "inspect")]
    assert all(seconds > 0 for seconds in phases)
    assert sum(phases) < usage["evaluate_s"]


def test_stored_reference_outputs_serve_the_next_evaluator(bench, dataset, make, tmp_path):
    """Also a damaged file is no harm. That the stored ones are used shows when they are wrong."""
    import torch

    def judge_anew():
        evaluator = VariantEvaluator(dataset.problem("scale_add_d64"), "cpu", str(tmp_path), Deadlines())
        try:
            evaluator.warm()
            bench_build = bench.builder.build(make())
            built = make().built(bench_build.artifact)
            staged = evaluator.stage(built, bench.builder.pack(built.artifact))
            return evaluator.evaluate(EvaluationJob(built, bench.workloads, QUICK), staged)
        finally:
            evaluator.close()

    assert judge_anew().status is Status.PASSED
    files = sorted((tmp_path / "references").iterdir())
    assert [f.suffix for f in files] == [".pt", ".pt"]
    for file in files:
        stored = torch.load(file)
        stored["seen"]["expected"] = [e + 1 for e in stored["seen"]["expected"]]
        torch.save(stored, file)
    assert judge_anew().status is Status.INCORRECT_NUMERICAL
    for file in files:
        file.write_bytes(b"not what it was")
    assert judge_anew().status is Status.PASSED


def test_damaged_artifact_is_not_the_candidates_fault(bench, make):
    """What is damaged after the cache has checked it, and before all of it was copied for a candidate's process."""
    source = passing("good(x, y, out)") + (
        f"\n\nfrom pathlib import Path\n\ncache = Path({str(bench.cache_dir)!r})\n"
        "for path in cache.glob(f'entries/*/{__package__}/main.py'):\n    path.write_text('damage')\n"
        "raise ValueError('half of me is gone')\n"
    )
    variant = make(source, build="def build(out_dir):\n    return {}\n")
    with pytest.raises(ArtifactMissingError, match="damaged while it was in use"):
        bench.judge(variant)
    assert bench.judge(make()).status is Status.PASSED


def test_full_disk_ends_a_job_and_is_not_the_candidates_fault(bench, make, small_disk):
    bad = make(passing("raise OSError('cannot write')"))
    evaluator = VariantEvaluator(bench.problem, "cpu", str(small_disk.root / "cache"), Deadlines())
    try:
        evaluator.warm()
        artifacts = {v.key: bench.builder.build(v).artifact for v in (make(key="a"), bad)}
        for artifact in artifacts.values():
            evaluator.stage(make().built(artifact), bench.builder.pack(artifact))
        small_disk.fill()
        with pytest.raises(CacheFullError, match=r"disk.*Free some and resume"):
            evaluator.compare(ComparisonJob((make(key="a").built(artifacts["a"]),), bench.workloads, QUICK, rounds=3))
        job = EvaluationJob(bad.built(artifacts[bad.key]), bench.workloads, QUICK)
        with pytest.raises(CacheFullError, match=r"disk.*Free some and resume"):
            evaluator.evaluate(job)
        small_disk.free()
        assert evaluator.evaluate(job).status is Status.RUNTIME_ERROR
    finally:
        evaluator.close()


def test_a_kernel_that_another_library_hides_is_told_how_to_link(bench, make):
    """What the DSL's runtime raises then; only a GPU shows the real thing."""
    raises = "def run(x, y, out):\n    raise RuntimeError('CUDA Error Code: 98')\n"
    evaluation = bench.judge(make(raises, key="hidden"))
    assert evaluation.status is Status.RUNTIME_ERROR
    assert "link it with -Wl,-Bsymbolic" in evaluation.message.splitlines()[0]
