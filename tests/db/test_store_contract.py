"""What every store promises, on SQLite in memory, SQLite in a file and PostgreSQL: sweeps, trials, measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from db.errors import StoreError, SweepBusy
from db.records import StoredBuild, method_hash
from db.store import Store
from workers.records import Environment, Method, Status

LONG_S = 3600.0


def _known(scene: Any, **changes: Any) -> list[Any]:
    key = {
        "definition_id": scene.definition_id,
        "space_id": scene.space_id,
        "config_hash": "hash0",
        "environment": scene.environment,
        "method": method_hash(scene.measurement().method),
    }
    return scene.store.measurements.known(**{**key, **changes})


def _build(scene: Any, config_hash: str) -> StoredBuild | None:
    """The build that is kept for a config, as the trials of any sweep show it."""
    trials = [t for s in scene.store.sweeps.newest() for t in scene.store.trials.of(s.id, details=True)]
    return next((t.build for t in trials if t.config_hash == config_hash), None)


def test_registering_twice_gives_the_same_id(store: Store, scene: Any) -> None:
    first, second = scene(store), scene(store)
    assert (first.environment_id, first.definition_id, first.space_id) == (
        second.environment_id,
        second.definition_id,
        second.space_id,
    )
    assert store.catalog.register_workload(first.definition_id, "w1", {"seq_len": 1}, "elsewhere") > 0


def test_an_edited_definition_is_another_one(store: Store) -> None:
    first = store.catalog.register_definition("gemm", "gemm", {"reference": "a @ b"})
    assert store.catalog.register_definition("gemm", "gemm", {"reference": "a @ b.T"}) != first


def test_a_workload_cannot_change_its_axes(store: Store, scene: Any) -> None:
    definition_id = scene(store).definition_id
    with pytest.raises(StoreError, match=r"'w1' is recorded with axes \{'seq_len': 1\}.*new uuid"):
        store.catalog.register_workload(definition_id, "w1", {"seq_len": 2}, "shipped")


def test_a_workload_of_another_content_is_another_one_under_the_same_uuid(store: Store, scene: Any) -> None:
    scene = scene(store)
    first = scene.sweep()
    store.trials.commit(scene.trial(first, 0))
    store.sweeps.finish(first, "DONE", {})
    store.catalog.register_workload(scene.definition_id, "w1", {"seq_len": 2}, "shipped", "other")
    assert [m.workload for m in _known(scene)] == ["w2"]
    second = scene.sweep()
    store.trials.commit(scene.trial(second, 0))
    assert [m.workload for m in _known(scene)] == ["w1", "w2"]
    store.catalog.register_workload(scene.definition_id, "w1", {"seq_len": 1}, "shipped")
    assert [m.workload for m in _known(scene)] == ["w1", "w2"], "what was measured on the old content is still there"
    assert [len(t.measurements) for s in (first, second) for t in store.trials.of(s)] == [2, 2]


def test_sweep_from_creation_to_the_end(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep(settings={"sampler": "tpe"}, budget_s=60.0, max_trials=5, host="node1", started_at=100.0)
    running = store.sweeps.get(sweep_id)
    assert running == scene.record(
        id=sweep_id,
        settings={"sampler": "tpe"},
        budget_s=60.0,
        max_trials=5,
        host="node1",
        started_at=100.0,
        heartbeat_at=running.heartbeat_at,
        definition="gemm",
        space="tiles",
        target="sm_90a",
        space_fingerprint="src1",
        hardware="NVIDIA H100",
    )
    store.sweeps.finish(sweep_id, "INTERRUPTED", {"trials": 3})
    ended = store.sweeps.get(sweep_id)
    assert (ended.state, ended.summary, ended.owner) == ("INTERRUPTED", {"trials": 3}, None)
    assert ended.finished_at is not None
    assert ended.finished_at > 100.0


def test_a_sweep_is_there_before_it_is_known_where_it_runs(store: Store, scene: Any) -> None:
    """While its workers start, or if they never came up. A resumed one keeps where it was started."""
    ground = scene(store)
    sweep_id = ground.sweep(environment_id=None, owner="me")
    found = store.sweeps.get(sweep_id)
    assert (found.environment_id, found.hardware, found.definition) == (None, "", ground.definition)
    assert [s.id for s in store.sweeps.newest(definition=ground.definition)] == [sweep_id]
    assert store.catalog.rates(found.environment_id) == {}
    other = store.catalog.register_environment(Environment("other", "cpu", fingerprint="other"))
    for environment_id in (ground.environment_id, other):
        store.sweeps.measures_on(sweep_id, environment_id)
    assert store.sweeps.get(sweep_id).hardware == ground.hardware
    assert store.sweeps.holds(sweep_id)
    store.sweeps.finish(sweep_id, "INTERRUPTED", {})
    assert not store.sweeps.holds(sweep_id)
    with pytest.raises(SweepBusy):
        Store(store.database).sweeps.measures_on(ground.sweep(owner="me"), other)


def test_sweeps_are_listed_newest_first(store: Store, scene: Any) -> None:
    gemm, norm = scene(store), scene(store, definition="rmsnorm")
    ids = [gemm.sweep(), norm.sweep(), gemm.sweep()]
    assert [s.id for s in store.sweeps.newest()] == ids[::-1]
    assert [s.id for s in store.sweeps.newest(1)] == ids[2:]
    assert [s.id for s in store.sweeps.newest(definition="rmsnorm")] == [ids[1]]
    assert store.sweeps.newest(definition="none") == []


def test_an_unknown_sweep_is_named(store: Store, scene: Any) -> None:
    for call in (
        lambda: store.sweeps.get(41),
        lambda: store.sweeps.claim(41, "me", LONG_S),
        lambda: store.sweeps.heartbeat(41),
        lambda: store.sweeps.finish(41, "DONE", {}),
        lambda: store.trials.commit(scene(store).trial(41, 0)),
    ):
        with pytest.raises(StoreError, match="there is no sweep 41"):
            call()


def test_a_trial_comes_back_as_it_was_committed(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    measurement = scene.measurement(
        "w1",
        samples_us=(1.5, 0.1, 1e6),
        max_abs_error=math.inf,
        max_rel_error=math.nan,
        matched_ratio=0.99,
        conditions={"clock_mhz": 1980},
        message="fine",
        measured_at=50.0,
    )
    figures = {"registers": 168, "waves": math.inf}
    build = scene.build(3, figures=figures, log="a\0b\ud800c", built_at=40.0)
    trial = scene.trial(
        sweep_id, 3, build=build, measurements=(measurement,), reason="r", started_at=30.0, finished_at=60.0
    )
    trial_id = store.trials.commit(trial)
    (read,) = store.trials.of(sweep_id, details=True)
    (read_measurement,) = read.measurements
    assert read.build is not None
    assert read_measurement.samples_us == pytest.approx((1.5, 0.1, 1e6), rel=1e-7)
    assert replace(read_measurement, id=0, samples_us=measurement.samples_us, max_rel_error=None) == replace(
        measurement, config_hash="hash3", max_rel_error=None
    )
    assert read_measurement.max_rel_error is None
    assert replace(read.build, id=0, log="") == replace(build, log="")
    assert read.build.log == "a\ufffdb?c"
    assert read == replace(trial, id=trial_id, build=read.build, measurements=read.measurements)


def test_samples_and_logs_are_read_only_on_request(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    store.trials.commit(scene.trial(sweep_id, 0))
    (read,) = store.trials.of(sweep_id)
    assert [m.samples_us for m in read.measurements] == [(), ()]
    assert [m.median_us for m in read.measurements] == [2.0, 2.0]
    assert read.build is not None
    assert read.build.log == ""
    assert read.build.artifact == "artifact0"


def test_trials_are_counted(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id, other = scene.sweep(), scene.sweep()
    store.trials.commit(scene.trial(sweep_id, 0, objective=5.0))
    store.trials.commit(scene.trial(sweep_id, 1, objective=4.0))
    store.trials.commit(scene.trial(sweep_id, 2, objective=4.0))
    store.trials.commit(scene.trial(sweep_id, 3, objective=1.0, state="INCORRECT_NUMERICAL"))
    store.trials.commit(scene.trial(sweep_id, 4, objective=9.0, regime="large"))
    store.trials.commit(scene.trial(sweep_id, 5, objective=math.nan, measurements=(), build=None, state="TIMEOUT"))
    store.trials.commit(scene.trial(other, 0, objective=0.5))
    assert store.trials.count(sweep_id) == {"PASSED": 4, "INCORRECT_NUMERICAL": 1, "TIMEOUT": 1}
    assert store.trials.of(sweep_id)[5].objective is None


def test_committing_a_trial_again_changes_nothing(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    trial = scene.trial(sweep_id, 0)
    assert store.trials.commit(trial) == store.trials.commit(trial)
    assert len(store.trials.of(sweep_id)) == 1
    assert len(_known(scene)) == 2


def test_a_number_belongs_to_one_result(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    store.trials.commit(scene.trial(sweep_id, 0))
    for changed in ({"config_hash": "hash9"}, {"regime": "large"}, {"state": "TIMEOUT"}):
        with pytest.raises(StoreError, match=f"trial 0 of sweep {sweep_id} is already recorded with another result"):
            store.trials.commit(scene.trial(sweep_id, 0, **changed))
    assert store.trials.count(sweep_id) == {"PASSED": 1}
    assert _build(scene, "hash9") is None


def test_a_config_has_one_variant_in_all_sweeps(store: Store, scene: Any) -> None:
    scene = scene(store)
    for sweep_id in (scene.sweep(), scene.sweep()):
        for number in range(3):
            store.trials.commit(
                scene.trial(sweep_id, number, config_hash="same", config={"tile": 1}, regime=f"{number}")
            )
    assert len(_known(scene, config_hash="same")) == 2


def test_measuring_again_replaces_the_measurement(store: Store, scene: Any) -> None:
    scene = scene(store)
    store.trials.commit(scene.trial(scene.sweep(), 0))
    again = scene.measurement("w1", median_us=7.0, samples_us=(7.0,), measured_at=99.0)
    store.trials.commit(scene.trial(scene.sweep(), 0, measurements=(again,)))
    known = {m.workload: m for m in _known(scene)}
    assert (known["w1"].median_us, known["w1"].samples_us, known["w1"].measured_at) == (7.0, (7.0,), 99.0)
    assert known["w2"].median_us == 2.0


def test_measurements_are_known_for_the_very_same_question_only(store: Store, scene: Any) -> None:
    scene, elsewhere = scene(store), scene(store, hardware="NVIDIA B200")
    store.trials.commit(scene.trial(scene.sweep(), 0))
    assert [m.workload for m in _known(scene)] == ["w1", "w2"]
    assert _known(scene)[0].samples_us == (2.5, 1.5, 2.0)
    other_space = store.catalog.register_space("tiles", "sm_90a", "src2")
    other_definition = store.catalog.register_definition("gemm", "gemm", {"name": "gemm", "edited": True})
    assert _known(scene, environment=elsewhere.environment) == []
    assert _known(scene, config_hash="hash1") == []
    assert _known(scene, method=method_hash(Method("eager"))) == []
    assert _known(scene, space_id=other_space) == []
    assert _known(scene, definition_id=other_definition) == []


def test_a_reused_measurement_is_linked_and_left_alone(store: Store, scene: Any) -> None:
    scene = scene(store)
    store.trials.commit(scene.trial(scene.sweep(), 0))
    known = tuple(_known(scene))
    build = _build(scene, "hash0")
    second = scene.sweep()
    store.trials.commit(scene.trial(second, 4, config_hash="hash0", build=build, measurements=known))
    (read,) = store.trials.of(second, details=True)
    assert read.measurements == known
    assert read.build == build
    assert tuple(_known(scene)) == known


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (("TIMEOUT", None), ("BUILT", "a"), ("BUILT", "a")),
        (("TIMEOUT", None), ("COMPILE_ERROR", None), ("COMPILE_ERROR", None)),
        (("BUILT", "a"), ("TIMEOUT", None), ("BUILT", "a")),
        (("BUILT", "a"), ("BUILT", "b"), ("BUILT", "b")),
    ],
)
def test_a_failed_build_never_replaces_a_good_one(store: Store, scene: Any, first: Any, second: Any, kept: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    for number, (status, artifact) in enumerate((first, second)):
        build = scene.build(status=Status(status), build_s=float(number), artifact=artifact)
        trial = scene.trial(sweep_id, number, config_hash="hash0", build=build, measurements=(), state=status)
        store.trials.commit(trial)
    build = _build(scene, "hash0")
    assert build is not None
    assert (build.status, build.artifact) == kept


def test_a_build_from_the_cache_keeps_the_seconds_of_the_first(store: Store, scene: Any) -> None:
    scene = scene(store)
    for build_s in (3.5, 0.0):
        store.trials.commit(scene.trial(scene.sweep(), 0, build=scene.build(build_s=build_s)))
    build = _build(scene, "hash0")
    assert build is not None
    assert build.build_s == 3.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"build": None}, "has measurements but no build"),
        ({"workload": "w9"}, "workload 'w9' is not registered"),
        ({"environment": "nowhere"}, "environment 'nowhere' is not registered"),
        ({"id": 12345}, "failed"),
    ],
)
def test_a_trial_that_cannot_be_kept_leaves_nothing(store: Store, scene: Any, change: Any, message: str) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    if "build" in change:
        trial = scene.trial(sweep_id, 0, **change)
    else:
        spoiled = replace(scene.measurement("w2"), **change)
        trial = scene.trial(sweep_id, 0, measurements=(scene.measurement("w1"), spoiled))
    with pytest.raises(StoreError, match=message):
        store.trials.commit(trial)
    assert store.trials.of(sweep_id) == []
    assert _build(scene, "hash0") is None
    assert _known(scene) == []


def test_a_living_owner_keeps_others_out(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep(owner="node1:17")
    with pytest.raises(SweepBusy, match=f"sweep {sweep_id} is running, held by node1:17"):
        store.sweeps.claim(sweep_id, "node2:18", LONG_S)
    store.sweeps.claim(sweep_id, "node1:17", LONG_S)
    store.sweeps.heartbeat(sweep_id)


def test_a_finished_sweep_can_be_claimed_to_go_on(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep(owner="a")
    store.sweeps.finish(sweep_id, "DONE", {})
    store.sweeps.claim(sweep_id, "b", LONG_S)
    resumed = store.sweeps.get(sweep_id)
    assert (resumed.state, resumed.owner) == ("RUNNING", "b")
    store.trials.commit(scene.trial(sweep_id, 0))


def test_a_sweep_cannot_finish_as_running(store: Store, scene: Any) -> None:
    with pytest.raises(ValueError, match="RUNNING"):
        store.sweeps.finish(scene(store).sweep(), "RUNNING", {})


def test_retention_drops_samples_and_logs_and_keeps_the_figures(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    old = scene.measurement("w1", measured_at=100.0)
    build = scene.build(log="long", built_at=100.0)
    store.trials.commit(scene.trial(sweep_id, 0, build=build, measurements=(old, scene.measurement("w2"))))
    store.winners.commit_comparison(sweep_id, [scene.measurement("w1", config_hash="hash0", measured_at=100.0)])
    assert store.prune(LONG_S) == 2
    assert store.prune(LONG_S) == 0
    (read,) = store.trials.of(sweep_id, details=True)
    assert read.build is not None
    assert read.build.log == ""
    assert {m.workload: len(m.samples_us) for m in read.measurements} == {"w1": 0, "w2": 3}
    assert {m.median_us for m in read.measurements} == {2.0}
    assert [len(m.samples_us) for m in store.winners.finalists(sweep_id)] == [3]


def test_sql_in_every_name_is_only_a_name(store: Store, scene: Any) -> None:
    evil = "x'); DROP TABLE trial; --\"%s:p"
    scene = scene(
        store, definition=evil, hardware=evil, target=evil, space=evil, fingerprint=evil, axes={evil: {evil: 1}}
    )
    sweep_id = scene.sweep(owner=evil, host=evil, settings={evil: evil})
    trial = scene.trial(
        sweep_id,
        0,
        config={evil: evil},
        config_hash=evil,
        regime=evil,
        state=evil,
        build=scene.build(toolchain=evil, artifact=evil, log=evil),
        measurements=(scene.measurement(evil),),
    )
    store.trials.commit(trial)
    assert store.trials.count(sweep_id) == {evil: 1}
    assert [m.workload for m in _known(scene, config_hash=evil)] == [evil]
    assert [s.id for s in store.sweeps.newest(definition=evil)] == [sweep_id]
    assert store.best.rows(evil, hardware=evil, target=evil) == []
