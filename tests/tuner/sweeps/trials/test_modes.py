"""A sweep in which some configs cannot be captured in a graph: figures of graphs and eager ones are not mixed up.

The recording is synthetic; its runner adds a made-up cost to every eager figure.
"""

import math
from dataclasses import replace
from itertools import product

import pytest

from benchmarks.search_replay.recording import Recording
from benchmarks.search_replay.runner import ReplayFamily, ReplayRunner, config_of
from db.records import SweepRecord
from db.store import Store
from search_spaces import Parameter, SpaceError
from search_spaces.targets import target_named
from tests.tuner import toy
from tuner.settings import SweepSettings, load
from tuner.sweeps import loop
from tuner.sweeps.loop import Sweep
from tuner.sweeps.regimes import Regime
from tuner.sweeps.setup import resolve
from tuner.sweeps.start.plan import SweepPlan
from workers.records import AUTO, EvaluationJob, Method

POINTS = tuple(product(range(6), range(2)))
EAGER_FACTOR = 10.0


def recording() -> Recording:
    """``tile`` 6, 5, ... 1 ms; ``syncs`` makes it a tenth faster."""
    times = tuple((6.0 - tile) * (0.9 if syncs else 1.0) for tile, syncs in POINTS)
    return Recording(
        name="slope", kernel="synthetic", gpu="synthetic GPU",
        parameters=(Parameter("tile", (1, 2, 3, 4, 5, 6)), Parameter("syncs", (False, True), "categorical")),
        restrictions=(), points=POINTS, time_ms=times, status=("ok",) * len(POINTS), workloads=("small", "large"),
        workload_ms={"small": times, "large": times}, default=0,
    )  # fmt: skip


class Graphs(ReplayRunner):
    """Times as a graph what can be captured, else eagerly, at ten times the duration."""

    def __init__(self, uncaptured, only_on=("small", "large"), recorded=None):
        super().__init__(recorded or recording(), in_flight=3)
        self.uncaptured, self.only_on = uncaptured, only_on
        self.jobs: list[EvaluationJob] = []

    def _evaluation(self, row, variant, workloads, method, stop_above_us, samples=1):
        self.jobs.append(EvaluationJob(variant, tuple(workloads), method))
        mode = method.mode
        stuck = self.uncaptured(config_of(variant)) and set(workloads) & set(self.only_on)
        if mode == AUTO:
            mode = "eager" if stuck else "cuda_graph"
        assert not (mode == "cuda_graph" and stuck), "asked for a graph of what has none"
        found = super()._evaluation(
            row, variant, workloads, replace(method, mode=mode), {} if mode == "eager" else stop_above_us, samples
        )
        if mode == "cuda_graph":
            return found
        slower = [
            replace(
                m,
                median_us=m.median_us * EAGER_FACTOR,
                samples_us=tuple(s * EAGER_FACTOR for s in m.samples_us),
                conditions={"uncaptured": "it synchronises"} if stuck else {},
            )
            for m in found.measurements
        ]
        return replace(found, measurements=tuple(slower))


class BesideLoad(Graphs):
    """Takes the figures of its first configs beside other load, so that nobody reuses them."""

    def __init__(self, configs, recorded=None):
        super().__init__(lambda config: False, recorded=recorded)
        self._loaded, self._seen = configs, {}

    def _evaluation(self, row, variant, workloads, method, stop_above_us, samples=1):
        number = self._seen.setdefault(variant.key, len(self._seen))
        found = super()._evaluation(row, variant, workloads, method, stop_above_us, samples)
        if number >= self._loaded:
            return found
        load = {"other_gpu_percent": 50.0}
        return replace(found, measurements=tuple(replace(m, conditions=load) for m in found.measurements))


@pytest.fixture(name="store")
def _store(monkeypatch):
    monkeypatch.setattr(loop, "target_named", lambda name: replace(target_named(name), modes=("cuda_graph", "eager")))
    with Store.open("sqlite://") as store:
        yield store


def sweep_with(runner, store, reuse=False, workloads=("small", "large")):
    family = ReplayFamily(runner.recording)
    plan = SweepPlan(
        definition=family.definition, space=runner.recording.space(),
        regimes=(Regime("all", None, None, workloads),), method=Method(mode=AUTO), time_reference=False,
        settings=SweepSettings(sampler="random", reuse=reuse, final_rounds=12, max_trials=100, race_factor=100),
    )  # fmt: skip
    definition_id = store.catalog.register_definition(plan.definition["name"], "replay", plan.definition)
    for workload in ("small", "large"):
        store.catalog.register_workload(definition_id, workload, {}, "")
    space_id = store.catalog.register_space(plan.space.name, plan.space.target, plan.space.fingerprint)
    environment_id = store.catalog.register_environment(runner.environment())
    record = SweepRecord(definition_id=definition_id, space_id=space_id, environment_id=environment_id, owner="test")
    return Sweep(plan, runner, store, store.sweeps.create(record))


def trials_of(store, sweep):
    return {(t.config["tile"], t.config["syncs"]): t for t in store.trials.of(sweep.sweep_id)}


def test_where_the_default_cannot_be_captured_everything_is_timed_eagerly(store):
    runner = Graphs(lambda config: True)
    sweep = sweep_with(runner, store)
    result = sweep.run()
    assert result.winners[0].config == {"tile": 6, "syncs": True}
    assert result.timed_eagerly == ("all: all trials are timed eagerly, since of the default it synchronises",)
    assert {m.method.mode for t in trials_of(store, sweep).values() for m in t.measurements} == {"eager"}
    asked = [job.method.mode for job in runner.jobs]
    assert asked[0] == AUTO
    assert set(asked[1:]) == {"eager"}, "nothing else is tried as a graph once the default could not be captured"


def test_where_all_can_be_captured_all_figures_are_of_graphs(store):
    sweep = sweep_with(Graphs(lambda config: False), store)
    (winner,) = sweep.run().winners
    assert winner.config == {"tile": 6, "syncs": True}
    assert {m.method.mode for t in trials_of(store, sweep).values() for m in t.measurements} == {"cuda_graph"}


def test_what_works_eagerly_only_is_ranked_by_eager_figures_on_both_sides(store):
    """At ten times the duration it would always lose against graphs, though it is the fastest."""
    runner = Graphs(lambda config: config["syncs"])
    sweep = sweep_with(runner, store)
    result = sweep.run()
    assert result.winners[0].config == {"tile": 6, "syncs": True}
    assert result.timed_eagerly == ("all: a finalist works eagerly only, so the final is timed eagerly",)
    trials = trials_of(store, sweep)
    assert {m.method.mode for m in trials[6, True].measurements} == {"eager"}
    assert {m.method.mode for m in trials[6, False].measurements} == {"cuda_graph"}
    assert trials[6, True].objective == pytest.approx(math.log(0.9e3))
    assert trials[6, False].objective == pytest.approx(math.log(1e3))
    yardsticks = [j for j in runner.jobs if j.method.mode == "eager" and not j.method.interleaved]
    assert len(yardsticks) == 1, "one trial that can be captured is timed eagerly, once"
    finals = [j.method.mode for j in runner.jobs if j.method.interleaved]
    assert set(finals) == {"eager"}, "the final measures all finalists in the mode in which all of them work"


def test_one_that_cannot_be_captured_on_one_workload_is_timed_eagerly_on_all(store):
    """Its earlier figures are those of graphs: reused beside fresh eager ones they would be mixed in one trial."""
    sweep_with(Graphs(lambda config: False), store, reuse=True, workloads=("small",)).run()
    runner = Graphs(lambda config: config["syncs"], only_on=("large",))
    sweep = sweep_with(runner, store, reuse=True)
    sweep.run()
    for (_, syncs), trial in trials_of(store, sweep).items():
        assert [m.method.mode for m in trial.measurements] == ["eager" if syncs else "cuda_graph"] * 2


def test_who_waits_for_the_mode_is_evaluated_when_a_known_trial_decides_it(store):
    """The first trial decides, the second waits for it, the third does not compile, and the fourth is known: it decides
    as well, and who waited must not be forgotten."""
    first = sweep_with(BesideLoad(100), store)
    first.run()
    order = list(trials_of(store, first))
    row = POINTS.index((order[2][0] - 1, int(order[2][1])))
    broken = replace(recording(), status=tuple("compile" if n == row else "ok" for n in range(len(POINTS))))
    sweep_with(BesideLoad(2, broken), store).run()
    sweep = sweep_with(BesideLoad(0, broken), store, reuse=True)
    sweep.run()
    assert set(trials_of(store, sweep)) == set(order)


def test_a_space_says_how_it_is_timed_and_a_flag_overrules_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.sweeps.setup.is_cuda", lambda _: True)
    monkeypatch.setattr(
        "tuner.sweeps.setup.target_named", lambda _: replace(target_named("cpu"), modes=("cuda_graph", "eager"))
    )
    data = toy.dataset(tmp_path / "data", [{"n": 4}])
    for said, flag, mode in (("auto", None, "auto"), ("eager", None, "eager"), ("graph", "eager", "eager")):
        folder = toy.kernel(tmp_path / f"{said}{flag}", mode=said)
        setup = resolve(load({"dataset": data, "space": str(folder), "target": "cpu", "mode": flag}))
        assert setup.timed_as(setup.space()).method.mode == mode
    wrong = toy.kernel(tmp_path / "wrong", mode="host")
    with pytest.raises(SpaceError, match="'mode' is 'host'; allowed are auto, graph, eager"):
        resolve(load({"dataset": data, "space": str(wrong), "target": "cpu"}))
