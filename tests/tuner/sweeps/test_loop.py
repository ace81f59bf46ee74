"""The sweep loop against a recording: what is asked, committed, raced out, resumed. All timings here are synthetic."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from benchmarks.search_replay.recording import Recording
from benchmarks.search_replay.runner import ReplayFamily, ReplayRunner
from db.records import SweepRecord
from db.store import Store
from search_spaces import Parameter
from tuner.settings import SweepSettings
from tuner.sweeps.failures import ALIKE
from tuner.sweeps.loop import Sweep
from tuner.sweeps.regimes import Regime
from tuner.sweeps.result import evaluator_usage
from tuner.sweeps.start.plan import SweepPlan
from tuner.sweeps.trials.reference_times import REFERENCE_KEY
from workers.records import BuildResult, Evaluation, EvaluationJob, Measurement, Method, Status

TILES, STAGES, MODES = (16, 32, 64, 128), (1, 2, 3, 4), ("a", "b", "c")
POINTS = tuple(product(range(4), range(4), range(3)))


def synthetic_ms(point, workload):
    """A smooth valley with an optimum at (2, 1, 1); the two workloads disagree a little."""
    tile, stage, mode = point
    bowl = 1 + (tile - 2) ** 2 + 0.5 * (stage - 1) ** 2 + (0.0 if mode == 1 else 0.7)
    return bowl * (1.0 if workload == "small" else 10.0 + 0.3 * tile)


@pytest.fixture(name="recording")
def _recording():
    status = ["ok"] * len(POINTS)
    for row, (tile, stage, mode) in enumerate(POINTS):
        if tile == 3 and stage == 3:
            status[row] = "compile"
        elif stage == 0 and mode == 2:
            status[row] = "incorrect"
    per_workload = {
        w: tuple(synthetic_ms(p, w) if s == "ok" else None for p, s in zip(POINTS, status, strict=True))
        for w in ("small", "large")
    }
    means = tuple(
        None if a is None else math.sqrt(a * b)
        for a, b in zip(per_workload["small"], per_workload["large"], strict=True)
    )
    return Recording(
        name="valley",
        kernel="synthetic",
        gpu="synthetic GPU",
        parameters=(Parameter("tile", TILES), Parameter("stages", STAGES), Parameter("mode", MODES, "categorical")),
        restrictions=(),
        points=POINTS,
        time_ms=means,
        status=tuple(status),
        workloads=("small", "large"),
        workload_ms=per_workload,
        default=0,
    )


@pytest.fixture(name="store")
def _store():
    with Store.open("sqlite://") as store:
        yield store


def make_sweep(recording, store, runner=None, sweep_id=None, regimes=None, **changes):
    runner = runner or ReplayRunner(recording, in_flight=3)
    family = ReplayFamily(recording)
    plan = SweepPlan(
        definition=family.definition,
        space=recording.space(),
        regimes=regimes or (Regime("all", None, None, ("small", "large")),),
        method=Method(),
        time_reference=changes.pop("time_reference", False),
        retry_failed=changes.pop("retry_failed", False),
        settings=SweepSettings(**{"sampler": "random", "reuse": False, "final_rounds": 12, **changes}),
    )
    if sweep_id is None:
        definition_id = store.catalog.register_definition(plan.definition["name"], "replay", plan.definition)
        for workload in recording.workloads:
            store.catalog.register_workload(definition_id, workload, {}, "")
        space_id = store.catalog.register_space(plan.space.name, plan.space.target, plan.space.fingerprint)
        environment_id = store.catalog.register_environment(runner.environment())
        sweep_id = store.sweeps.create(
            SweepRecord(definition_id=definition_id, space_id=space_id, environment_id=environment_id, owner="test")
        )
    return Sweep(plan, runner, store, sweep_id)


def test_the_whole_space_is_tried_once_and_the_optimum_wins(recording, store):
    sweep = make_sweep(recording, store, max_trials=1000)
    result = sweep.run()
    trials = store.trials.of(sweep.sweep_id)
    assert Counter(t.config_hash for t in trials).most_common(1)[0][1] == 1
    assert len(trials) == result.trials == len(POINTS)
    (winner,) = result.winners
    assert winner.config == {"tile": 64, "stages": 2, "mode": "b"}
    assert winner.median_us == pytest.approx(1e3 * math.sqrt(1 * 10.6))
    assert result.failures == {"COMPILE_ERROR": 3, "INCORRECT_NUMERICAL": 4}


def test_the_default_comes_first_and_every_outcome_is_committed_before_the_next_config_is_asked_for(recording, store):
    seen = []

    class Watching(ReplayRunner):
        def submit_build(self, variant):
            seen.append((len(self.judged), sum(store.trials.count(1).values())))
            super().submit_build(variant)

    sweep = make_sweep(recording, store, runner=Watching(recording, in_flight=3), max_trials=20)
    sweep.run()
    assert store.trials.of(sweep.sweep_id)[0].origin == "default"
    assert len(seen) >= 20
    assert all(judged == committed for judged, committed in seen)


def test_a_hopeless_trial_stops_after_the_representative_workload(recording, store):
    jobs = []

    class Watching(ReplayRunner):
        def submit_evaluation(self, job: EvaluationJob):
            jobs.append(job)
            super().submit_evaluation(job)

    sweep = make_sweep(recording, store, runner=Watching(recording), max_trials=1000, race_factor=1.2)
    result = sweep.run()
    states = Counter(t.state for t in store.trials.of(sweep.sweep_id))
    assert states["RACED_OUT"] > 10
    assert result.winners[0].config == {"tile": 64, "stages": 2, "mode": "b"}
    assert jobs[0].stop_above_us == {}
    raced = [t for t in store.trials.of(sweep.sweep_id) if t.state == "RACED_OUT"]
    assert all(len(t.measurements) == 1 and t.objective is not None for t in raced)


class Killed(BaseException):
    """Stands for SIGKILL at the worst moment: nothing of the loop runs after it."""


@pytest.mark.parametrize("kill_after", [1, 2, 7, 19])
def test_resume_loses_and_repeats_nothing(recording, store, kill_after):
    class Dying(ReplayRunner):
        def wait(self, timeout_s):
            if len(self.judged) >= kill_after:
                raise Killed
            return super().wait(timeout_s)

    sweep = make_sweep(recording, store, runner=Dying(recording, in_flight=3), max_trials=30)
    with pytest.raises(Killed):
        sweep.run()
    before = store.trials.of(sweep.sweep_id)
    assert len(before) == kill_after
    store.sweeps.finish(sweep.sweep_id, "INTERRUPTED", {})
    store.sweeps.claim(sweep.sweep_id, "test again", 30)
    resumed = make_sweep(recording, store, sweep_id=sweep.sweep_id, max_trials=30)
    result = resumed.run()
    after = store.trials.of(sweep.sweep_id)
    assert after[: len(before)] == before
    assert len(after) == result.trials == 30
    assert len({t.config_hash for t in after}) == 30
    assert result.winners


def test_a_finished_sweep_resumed_adds_no_trial(recording, store):
    sweep = make_sweep(recording, store, max_trials=10)
    first = sweep.run()
    again = make_sweep(recording, store, sweep_id=sweep.sweep_id, max_trials=10).run()
    assert again.trials == 10
    assert again.winners == first.winners


FLAKY = (Status.WORKER_LOST, Status.TIMEOUT, Status.CRASHED, Status.INCORRECT_NUMERICAL)


@pytest.mark.parametrize("retry", [True, False])
def test_what_failed_for_a_reason_of_the_machine_is_tried_again_when_asked(recording, store, retry):
    """Four trials fail on a bad day, one of them for a reason of its own; the next day nothing is in the way."""

    class BadDay(ReplayRunner):
        def wait(self, timeout_s):
            return [
                Evaluation(o.key, FLAKY[number % 6]) if isinstance(o, Evaluation) and number % 6 < 4 else o
                for number, o in enumerate(super().wait(timeout_s), start=len(self.judged))
            ]

    sweep = make_sweep(recording, store, runner=BadDay(recording, in_flight=3), max_trials=20)
    sweep.run()
    before = store.trials.of(sweep.sweep_id)
    bad = {t.config_hash for t in before if t.state in ("WORKER_LOST", "TIMEOUT", "CRASHED")}
    own = {t.config_hash for t in before if t.state == "INCORRECT_NUMERICAL"}
    assert len(bad) >= 3
    assert own
    make_sweep(recording, store, sweep_id=sweep.sweep_id, max_trials=20, retry_failed=retry).run()
    after = store.trials.of(sweep.sweep_id)
    assert after[: len(before)] == before
    assert {t.config_hash for t in after[len(before) :]} == (bad if retry else set())
    # Once more without the flag: the newest word on each config counts.
    again = make_sweep(recording, store, sweep_id=sweep.sweep_id, max_trials=20).run()
    assert len(store.trials.of(sweep.sweep_id)) == len(after)
    assert not {"WORKER_LOST", "TIMEOUT", "CRASHED"} & set(again.failures) or not retry


def test_regimes_share_the_trials_and_have_their_own_winners(recording, store):
    regimes = (Regime("s", 1, 16, ("small",)), Regime("l", 17, None, ("large",)))
    sweep = make_sweep(recording, store, regimes=regimes, max_trials=40)
    result = sweep.run()
    assert Counter(t.regime for t in store.trials.of(sweep.sweep_id)) == {"s": 20, "l": 20}
    assert {w.regime: w.max_size for w in result.winners} == {"s": 16, "l": None}


def test_measurements_of_another_sweep_are_reused(recording, store):
    make_sweep(recording, store, max_trials=1000, race_factor=100).run()
    runner = ReplayRunner(recording)
    second = make_sweep(recording, store, runner=runner, max_trials=1000, race_factor=100, reuse=True)
    second.run()
    assert len(runner.judged) == 7, "only what failed before is tried again"
    states = Counter(t.state for t in store.trials.of(second.sweep_id))
    assert states["PASSED"] == len(POINTS) - 7


def test_the_default_is_measured_however_small_the_budget(recording, store):
    sweep = make_sweep(recording, store, budget_s=1e-9, max_trials=50)
    result = sweep.run()
    assert [t.origin for t in store.trials.of(sweep.sweep_id)] == ["default"]
    assert result.winners[0].config == recording.config(0)


class Queued(ReplayRunner):
    """Has begun the first job of its queue alone; the time is over once some were judged."""

    over_after = 4
    sweep: Sweep

    def withdraw(self, keys):
        begun, *queued = [o for _, o in self._ready] or [None]
        dropped = {o.key for o in queued if o.key in keys}
        self._ready = type(self._ready)(x for x in self._ready if x[1] is begun or x[1].key not in dropped)
        return dropped

    def wait(self, timeout_s):
        outcomes = super().wait(timeout_s)
        if len(self.judged) == self.over_after:
            self.sweep._started -= 1000.0
        return outcomes


def test_what_has_not_begun_when_the_time_is_over_is_dropped_and_the_sweep_ends(recording, store):
    """Would catch a search that waits for all it has asked for: 16 candidates of 5 s each, a minute after its time."""
    runner = Queued(recording, in_flight=9)
    runner.sweep = sweep = make_sweep(recording, store, runner=runner, budget_s=600.0, max_trials=40)
    result = sweep.run()
    assert len(store.trials.of(sweep.sweep_id)) == 5, "four, and the one that had begun"
    assert result.winners[0].config == recording.config(
        min(runner.judged, key=lambda row: recording.time_ms[row] or 99)
    )


def test_candidates_that_wait_are_judged_after_the_time_until_one_has_passed(recording, store):
    """Would catch a sweep that ends without a winner because its default failed, while others had been built."""
    times = {w: (None, *ms[1:]) for w, ms in recording.workload_ms.items()}
    status, time_ms = ("incorrect", *recording.status[1:]), (None, *recording.time_ms[1:])
    recording = replace(recording, status=status, time_ms=time_ms, workload_ms=times)
    runner = Queued(recording, in_flight=9)
    runner.over_after = 1
    runner.sweep = sweep = make_sweep(recording, store, runner=runner, budget_s=600.0, max_trials=40)
    result = sweep.run()
    assert result.winners
    assert len(store.trials.of(sweep.sweep_id)) < 9, "what is left is dropped once one has passed"


def test_busy_share_counts_candidates_and_checks_against_all_of_the_wall_time():
    search = {"candidate_s": 6.0, "check_s": 2.0, "cold_s": 1.0, "evaluate_s": 9.5, "idle_s": 0.5}
    finals = [{"candidate_s": 1.0, "evaluate_s": 2.0, "idle_s": 0.0}, {"candidate_s": 1.0, "evaluate_s": 2.0}]
    usage = evaluator_usage(search, finals)
    assert usage["search"]["gpu_busy_share"] == pytest.approx(0.8)
    assert usage["finals"]["gpu_busy_share"] == pytest.approx(0.5)
    assert usage["all"]["gpu_busy_share"] == pytest.approx(10 / 14)
    assert evaluator_usage({}, [])["all"] == {}


def test_nothing_wins_when_everything_fails(recording, store):
    from dataclasses import replace

    none = (None,) * len(POINTS)
    broken = replace(
        recording, status=("incorrect",) * len(POINTS), time_ms=none, workload_ms={"small": none, "large": none}
    )
    result = make_sweep(broken, store, max_trials=12, keep_going=True).run()
    assert result.winners == []
    assert result.failures == {"INCORRECT_NUMERICAL": 12}
    early = make_sweep(broken, store, max_trials=40).run()
    assert ALIKE <= early.trials <= ALIKE + 4, "no more than was in flight"
    assert early.reasons.is_pointless_to_go_on
    assert early.reasons.lines() == [f"{early.trials} x INCORRECT_NUMERICAL"]


def test_failures_that_have_nothing_to_do_with_the_default_stop_nothing(recording, store):
    from dataclasses import replace

    good = recording.status[0]
    only_default = replace(recording, status=(good, *("incorrect",) * (len(POINTS) - 1)))
    assert make_sweep(only_default, store, max_trials=30).run().trials == 30


class SlowReference(ReplayRunner):
    """Knows the definition's own reference too, and answers for it last."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reference_us = [50.0, 5.0]

    def submit_build(self, variant):
        if variant.key != REFERENCE_KEY:
            return super().submit_build(variant)
        self._ready.append((None, BuildResult(variant.key, Status.BUILT, 0.0, artifact="reference")))

    def submit_evaluation(self, job):
        if job.variant.key != REFERENCE_KEY:
            return super().submit_evaluation(job)
        us = self.reference_us.pop(0)
        measured = tuple(Measurement(w, Status.PASSED, median_us=us) for w in job.workloads)
        self._ready.append((None, Evaluation(job.variant.key, Status.PASSED, measured)))

    def wait(self, timeout_s):
        self._ready.rotate(-1 if self._ready and getattr(self._ready[0][1], "key", "") == REFERENCE_KEY else 0)
        return super().wait(timeout_s)


def test_the_reference_is_timed_although_no_trial_is_left_to_be_run(recording, store):
    """The search must not end before it: the finals wait for outcomes of their own and would find this one.

    On a CPU its figure is that of the second time: builders were at work at the first.
    """
    for _ in range(2):
        runner = SlowReference(recording, in_flight=3)
        sweep = make_sweep(recording, store, runner, max_trials=1, reuse=True, time_reference=True)
        assert {w: m.median_us for w, m in sweep.run().reference.items()} == {"small": 5.0, "large": 5.0}
    assert runner.judged == []


@pytest.mark.parametrize("has_begun", [True, False])
def test_the_finals_begin_when_the_reference_is_timed_or_taken_back_although_the_time_is_over(
    recording, store, has_begun
):
    """Would catch a sweep that ends with "something else was in flight" since its reference was slow or came late."""

    class Late(SlowReference):
        def withdraw(self, keys):
            mine = {o.key for _, o in self._ready if getattr(o, "key", "") in keys}
            dropped = {key for key in mine if key != REFERENCE_KEY or not has_begun}
            self._ready = type(self._ready)(x for x in self._ready if getattr(x[1], "key", "") not in dropped)
            return dropped

        def wait(self, timeout_s):
            if len(self.judged) == 4:
                sweep._started -= 1000.0
            return super().wait(timeout_s)

    runner = Late(recording, in_flight=3)
    sweep = make_sweep(recording, store, runner, budget_s=600.0, max_trials=40, time_reference=True)
    result = sweep.run()
    assert result.winners
    assert set(result.reference) == ({"small", "large"} if has_begun else set())


def test_as_many_as_allowed_reach_the_final_and_the_default_beside_them(recording, store):
    sweep = make_sweep(recording, store, max_trials=1000, finalists=2, race_factor=1e9)
    (final,) = sweep.run().finals.values()
    values = {t.config_hash: t.objective for t in store.trials.of(sweep.sweep_id) if t.state == "PASSED"}
    default = sweep.plan.space.config_hash(sweep.plan.space.default)
    chosen = sorted(values[config_hash] for config_hash in final.configs if config_hash != default)
    assert chosen == sorted(values.values())[:2]
    assert default in final.configs


def test_the_default_is_never_raced(recording, store):
    """It is measured to the end also where others were measured before it: every gain is told against it."""

    class LateDefault(ReplayRunner):
        """Builds the first variant last."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.keys, self.limits = [], {}

        def submit_build(self, variant):
            self.keys.append(variant.key)
            super().submit_build(variant)

        def submit_evaluation(self, job):
            self.limits[job.variant.key.partition("@")[0]] = dict(job.stop_above_us)
            super().submit_evaluation(job)

        def wait(self, timeout_s):
            late = len(self.keys) < 6 and isinstance(self._ready[0][1], BuildResult)
            if late and self._ready[0][1].key == self.keys[0]:
                self._ready.rotate(-1)
            return super().wait(timeout_s)

    runner = LateDefault(recording, in_flight=3)
    sweep = make_sweep(recording, store, runner, max_trials=12)
    sweep.run()
    default = sweep.plan.space.config_hash(sweep.plan.space.default)
    assert runner.keys[0] == default
    assert next(iter(runner.limits)) != default, "others were measured before it"
    assert runner.limits.pop(default) == {}
    assert any(runner.limits.values()), "others are raced"


def test_a_bound_moves_to_where_winners_cross_and_the_guard_looks_at_what_each_serves(store):
    """With 4 the fixed part costs more and a row less: 2 + 0.02 n against 5 + 0.004 n, which cross at 187. The bound is
    64 before, so the winner of larger sizes is slower than the default at 128, which it must not serve."""
    sizes = {f"n{n}": n for n in (4, 16, 64, 128, 256, 1024)}
    times = {w: (2 + 0.02 * n, 5 + 0.004 * n) for w, n in sizes.items()}
    recording = Recording(
        name="crossing",
        kernel="synthetic",
        gpu="synthetic GPU",
        parameters=(Parameter("step", (1, 4)),),
        restrictions=(),
        points=((0,), (1,)),
        time_ms=tuple(math.prod(t[i] for t in times.values()) ** (1 / len(times)) for i in (0, 1)),
        status=("ok", "ok"),
        workloads=tuple(sizes),
        workload_ms=times,
        default=0,
    )
    regimes = tuple(
        Regime(name, low, bound, tuple(members), members)
        for name, low, bound, members in (
            ("0-64", 0, 64, {w: n for w, n in sizes.items() if n <= 64}),
            ("65+", 65, None, {w: n for w, n in sizes.items() if n > 64}),
        )
    )
    result = make_sweep(recording, store, regimes=regimes, max_trials=4).run()
    (crossing,) = result.crossings
    assert 180 <= crossing.bound <= 195
    lower, upper = result.winners
    assert (lower.config, upper.config) == ({"step": 1}, {"step": 4})
    assert (lower.max_size, upper.min_size) == (crossing.bound, crossing.bound + 1)
    assert [w.workload for w in lower.workloads] == ["n4", "n16", "n64", "n128"]
    assert [w.workload for w in upper.workloads] == ["n256", "n1024"]
    assert result.finals["65+"].ranking.refused == {}


def test_a_regime_is_divided_around_a_size_at_which_its_best_is_slower_than_the_default(store):
    """Four times as fast at most sizes, which the default kept because of one in the middle."""
    sizes = {f"n{n}": n for n in (4, 16, 64, 128)}
    times = {w: (8.0, 10.0 if w == "n16" else 2.0) for w in sizes}
    recording = Recording(
        name="hole",
        kernel="synthetic",
        gpu="synthetic GPU",
        parameters=(Parameter("step", (1, 4)),),
        restrictions=(),
        points=((0,), (1,)),
        time_ms=(8.0, 3.0),
        status=("ok", "ok"),
        workloads=tuple(sizes),
        workload_ms=times,
        default=0,
    )
    result = make_sweep(recording, store, regimes=(Regime("all", 0, None, tuple(sizes), sizes),), max_trials=4).run()
    steps = [(w.min_size, w.max_size, w.config["step"]) for w in result.winners]
    (_, first, _), (_, second, _), _ = steps
    assert [step for _, _, step in steps] == [4, 1, 4]
    assert 4 <= first < 16 <= second < 64
    assert [w.regime for w in result.winners] == list(result.finals) == [r.name for r in result.regimes]
    assert [len(w.workloads) for w in store.winners.of(result.sweep_id)] == [1, 1, 2]
