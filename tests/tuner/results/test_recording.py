"""Recordings of finished sweeps, and sweeps that learn from finished ones."""

import math

import pytest

from benchmarks.search_replay.recording import read_recording, recording_of
from benchmarks.search_replay.runner import ReplayFamily, ReplayRunner
from db.records import SweepRecord, SweepState
from db.store import Store
from tests.tuner import toy
from tests.tuner.toy_recording import RECORDING
from tuner.errors import UsageError
from tuner.results.recording import record_sweep, recording_of_sweep, recording_of_trials, write_recording
from tuner.search.related_sweeps import prior
from tuner.settings import SweepSettings
from tuner.sweeps.loop import Sweep
from tuner.sweeps.regimes import Regime
from tuner.sweeps.setup import resolve
from tuner.sweeps.start.plan import SweepPlan
from workers.records import Method, Status


def sweep_on(store, recording, **settings):
    """A finished sweep over everything that was recorded."""
    definition = ReplayFamily(recording).definition
    runner = ReplayRunner(recording)
    plan = SweepPlan(
        definition=definition,
        space=recording.space(),
        regimes=(Regime("all", None, None, recording.workloads),),
        method=Method(),
        settings=SweepSettings(**{"race_factor": 1e9, **settings}),
        time_reference=False,
    )
    definition_id = store.catalog.register_definition(definition["name"], definition["op_type"], definition)
    for workload in recording.workloads:
        store.catalog.register_workload(definition_id, workload, {}, "replay")
    sweep_id = store.sweeps.create(
        SweepRecord(
            definition_id=definition_id,
            space_id=store.catalog.register_space(plan.space.name, plan.space.target, plan.space.fingerprint),
            environment_id=store.catalog.register_environment(runner.environment()),
        )
    )
    Sweep(plan, runner, store, sweep_id).run()
    store.sweeps.finish(sweep_id, SweepState.DONE, {})
    return sweep_id


def test_the_recording_of_a_replayed_sweep_is_the_recording(tmp_path):
    with Store.open("sqlite://") as store:
        sweep_id = sweep_on(store, RECORDING)
        made = recording_of_sweep(store, sweep_id, RECORDING.space(), "all", "some GPU")
    write_recording(tmp_path / "again.replay.json.gz", made)
    again = read_recording(tmp_path / "again.replay.json.gz")
    for row in range(len(RECORDING.points)):
        found = again.row(RECORDING.config(row))
        assert again.status[found] == RECORDING.status[row]
        assert again.times_ms(found) == pytest.approx(RECORDING.times_ms(row))
    assert again.space().default == RECORDING.space().default


def test_a_new_sweep_learns_from_the_nearest_finished_one():
    space = RECORDING.space()
    regimes = ("all", "17+")
    with Store.open("sqlite://") as store:
        assert prior(store, space, "tiny", "some GPU", regimes) == {}
        sweep_on(store, RECORDING)
        found = prior(store, space, "tiny", "another GPU", regimes)
    assert found["17+"] == ()
    values = {RECORDING.row(config): value for config, value in found["all"]}
    assert values[0] == pytest.approx(math.log(4000.0))
    assert values[2] is None
    assert len(values) == 5


def test_a_recording_of_trials_replays_them():
    space = RECORDING.space()
    trials = [
        (RECORDING.config(1), Status.PASSED, {"small": 1000.0, "large": 4000.0}),
        (RECORDING.config(2), Status.COMPILE_ERROR, {}),
        (RECORDING.config(4), Status.RACED_OUT, {"small": 9000.0}),
        (RECORDING.config(0), Status.PASSED, {"small": 2000.0, "large": 8000.0}),
    ]
    made = recording_of(recording_of_trials(space, trials, name="again", hardware="some GPU"))
    assert made.space().default == space.default
    assert made.status == ("ok", "compile", "raced", "ok")
    assert made.time_ms[0] == pytest.approx(math.sqrt(1.0 * 4.0))
    assert made.times_ms(2) == {"small": 9.0, "large": None}
    assert list(made.space().enumerate()) == [RECORDING.config(row) for row in (0, 1, 2, 4)]


def test_a_sweep_without_a_success_cannot_be_recorded():
    trials = [(RECORDING.config(2), Status.COMPILE_ERROR, {})]
    with pytest.raises(UsageError, match="no trial of empty passed"):
        recording_of_trials(RECORDING.space(), trials, name="empty", hardware="x")


def test_the_default_of_a_recording_is_that_of_its_regime(tmp_path, scene):
    """The first row of a default by size was every regime's: samplers were compared from a start that nobody has."""
    toy.dataset(tmp_path / "d", [{"n": 8}, {"n": 300}])
    rows = [{"sizes": [0, 16], "config": {"step": 1}}, {"sizes": [17, None], "config": {"step": 4}}]
    folder = toy.kernel(tmp_path / "k", size="x.shape[0]", size_axis="n", default=rows)
    given = SweepSettings(dataset=tmp_path / "d", space=str(folder), definition="a", target="cpu")
    space = resolve(given).space()
    with Store.open("sqlite://") as store:
        names = {"definition": "a", "target": "cpu", "space": space.name, "fingerprint": space.fingerprint}
        here = scene(store, axes={"w0": {"n": 8}, "w1": {"n": 300}}, **names)
        sweep_id = here.sweep(settings={"dataset": str(given.dataset), "space": given.space, "regimes": (16,)})
        for number, config in enumerate([{"step": 1}, {"step": 4}]):
            for uuid, regime in (("w0", "0-16"), ("w1", "17+")):
                measured = (here.measurement(uuid),)
                tried = {"config": config, "config_hash": space.config_hash(config), "regime": regime}
                store.trials.commit(
                    here.trial(sweep_id, number + 2 * (regime == "17+"), measurements=measured, **tried)
                )
        starts = {
            r: recording_of(record_sweep(store, sweep_id, r, given)).space().default["step"] for r in ("0-16", "17+")
        }
    assert starts == {"0-16": 1, "17+": 4}
