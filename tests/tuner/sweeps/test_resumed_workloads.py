"""A sweep goes on with the workloads and inputs that its trials ran on, or says in one line what is another one."""

import pytest

from db.records import StoredBuild, StoredMeasurement, TrialRecord
from db.store import Store
from tests.tuner import toy
from tuner.commands.registration import begin, register
from tuner.errors import UsageError
from tuner.settings import load
from tuner.sweeps.setup import resolve
from workers.records import Environment, Status

LOADS = [{"n": 8}, {"n": 16}, {"n": 300}]


HERE = Environment("a CPU", "cpu", fingerprint="here")


def registered(store, tmp_path, resume=None, loads=LOADS, inputs=None):
    """The sweep of the toy kernel on these workloads, new or resumed."""
    given = {"dataset": toy.dataset(tmp_path / "d", loads, inputs=inputs), "target": "cpu", "db": "sqlite://"}
    kernel = toy.kernel(tmp_path / "k", size="x.shape[0]", size_axis="n")
    setup = resolve(load({**given, "space": str(kernel), "regimes": (32,)}))
    space = setup.space()
    sweep = register(store, setup, space, None) if resume is None else resume
    begin(store, sweep, setup, space, setup.regimes("n"), HERE)
    return sweep


@pytest.fixture(name="begun")
def _begun(tmp_path):
    """A store with a sweep of two regimes; a trial passed in the first, and one failed in the second."""
    with Store.open("sqlite://") as store:
        sweep = registered(store, tmp_path)
        build = StoredBuild("k", Status.BUILT, 0.1, "folder", toolchain="t")
        for number, (regime, state, uuids) in enumerate(
            [("0-32", Status.PASSED, ("w0", "w1")), ("0-32", Status.RACED_OUT, ("w0",)), ("33+", Status.CRASHED, ())]
        ):
            ran = tuple(StoredMeasurement(u, Status.PASSED, (1.0,), 1.0, 1.0, 1.0, environment="here") for u in uuids)
            store.trials.commit(
                TrialRecord(sweep, number, {"step": number}, f"c{number}", regime, state, 0.0, build=build,
                            measurements=ran)
            )  # fmt: skip
        store.sweeps.finish(sweep, "INTERRUPTED", {})
        yield store, sweep


def test_it_goes_on_with_the_same_workloads(begun, tmp_path):
    store, sweep = begun
    assert registered(store, tmp_path, sweep) == sweep


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loads": LOADS[:2]}, "measured regime 33+, which is not there now"),
        ({"loads": [{"n": 8}, {"n": 300}, {"n": 301}]}, "measured workload w1 of regime 0-32, which is not there now"),
        ({"loads": [*LOADS, {"n": 9}]}, "measured regime 0-32 without workload w3, which is there now"),
        (
            {"inputs": {"x": {"type": "scalar", "value": 1.0}}},
            "measured workload w0 with other inputs than it has now",
        ),
    ],
)
def test_other_workloads_are_refused_before_anything_is_mixed(changed, said, begun, tmp_path):
    """Means over other workloads would be compared with the old ones; a regime that had gone was a KeyError."""
    store, sweep = begun
    with pytest.raises(UsageError) as refused:
        registered(store, tmp_path, sweep, **changed)
    assert str(refused.value) == f"sweep {sweep} {said}; start a new sweep, it reuses what still holds"
    assert store.sweeps.get(sweep).state == "INTERRUPTED"


def test_a_workload_that_no_passed_trial_was_timed_on_may_come(begun, tmp_path):
    """Nothing was compared in that regime yet."""
    store, sweep = begun
    assert registered(store, tmp_path, sweep, loads=[*LOADS, {"n": 400}]) == sweep
