"""What is given anew to a sweep that goes on: obeyed, or refused in one line; never ignored."""

from pathlib import Path

import pytest

from db.store import Store
from tuner.errors import UsageError
from tuner.settings import SweepSettings, load
from tuner.sweeps.setup import CHANGEABLE, resumed_settings, settings_of


@pytest.fixture(name="store")
def _store():
    with Store.open("sqlite://") as store:
        yield store


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("TUNER_DB_URL", "TUNER_DATASET", "FIB_DATASET_PATH", "TUNER_CACHE_DIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="sweep")
def _sweep(store, scene):
    """A sweep of a folder and a dataset that were given with relative paths, from another folder."""
    place = scene(store)
    own = SweepSettings(space="/kernels/k", dataset="/data/d", max_trials=14, seed=3)
    return place.sweep(settings=own.model_dump(mode="json", exclude={"db", "cache_dir", "ray_address"}))


ANEW = {
    "dataset": "/data/moved", "space": "/kernels/moved", "max_trials": 40, "budget_s": 60.0, "builders": 3,
    "evaluators": 2, "reuse": False, "keep_going": True, "finalists": 5, "final_rounds": 10,
    "final_s": 2.0, "final_share": 0.1, "db": "sqlite://", "cache_dir": "/cache", "ray_address": "127.0.0.1:1",
    "baseline": "/solutions/today.json",
}  # fmt: skip
OTHER = {
    "definition": "other", "target": "cpu", "accelerators": ("H200",), "sampler": "random", "seed": 4, "regimes": (7,),
    "workloads": ("w1",), "race_factor": 2.0, "warm_start": False, "compile_s": 1.0, "check_s": 1.0, "measure_s": 1.0,
    "mode": "eager", "max_samples": 7, "target_rel_ci": 0.1, "sample_budget_s": 9.0,
    "size_axis": "n", "rtol": 0.5, "atol": 0.5, "required_matched_ratio": 0.5, "judge": {"y": "exact"},
    "profiles": {"hot:3": 1.0}, "sizes": "auto", "worst_factor": 2.0, "axes": ("n=7",), "verify_first": 3,
}  # fmt: skip


def test_every_setting_is_either_obeyed_or_refused():
    assert set(ANEW) == CHANGEABLE
    assert set(ANEW) | set(OTHER) >= set(SweepSettings.model_fields)


@pytest.mark.parametrize("key", ANEW)
def test_what_a_sweep_can_go_on_with_is_obeyed(store, sweep, key):
    settings = resumed_settings(store, sweep, load({key: ANEW[key]}))
    value = getattr(settings, key)
    assert (str(value) if isinstance(value, Path) else value) == ANEW[key]
    assert settings.seed == 3


@pytest.mark.parametrize("key", OTHER)
def test_what_would_change_the_meaning_of_figures_is_refused(store, sweep, key):
    with pytest.raises(UsageError, match=f"sweep {sweep} was started with {key}=") as caught:
        resumed_settings(store, sweep, load({key: OTHER[key]}))
    assert "\n" not in str(caught.value)


def test_what_is_given_again_as_it_was_is_fine(store, sweep):
    same = {"definition": "gemm", "target": "sm_90a", "seed": 3, "max_trials": 14, "space": "/kernels/k"}
    assert resumed_settings(store, sweep, load(same)).max_trials == 14


def test_the_sweep_itself_says_definition_and_target_where_its_settings_left_them_open(store, sweep):
    found = settings_of(store, sweep, load({}))
    assert (found.definition, found.target, str(found.space)) == ("gemm", "sm_90a", "/kernels/k")


def test_what_a_sweep_goes_on_with_is_stored(store, sweep):
    settings = resumed_settings(store, sweep, load({"max_trials": 40, "budget_s": 60.0}))
    store.sweeps.claim(sweep, "me", 30.0, settings=settings.model_dump(mode="json"))
    known = store.sweeps.get(sweep)
    assert (known.max_trials, known.budget_s, known.settings["max_trials"]) == (40, 60.0, 40)
