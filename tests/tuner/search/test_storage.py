"""The packed storage: Optuna's own suite for storages, and what it costs."""

import tracemalloc

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.testing.pytest_storages import StorageTestCase

from tuner.search.storage import PackedStorage


class TestPackedStorage(StorageTestCase):
    @pytest.fixture
    def storage(self):
        return PackedStorage()


def test_a_finished_trial_of_twenty_five_parameters_takes_less_than_three_hundred_bytes():
    distributions = {f"p{i}": CategoricalDistribution([8, 16, "wide", True]) for i in range(25)}
    study = optuna.create_study(storage=PackedStorage(), sampler=optuna.samplers.RandomSampler(seed=0))

    def trials(count):
        for number in range(count):
            trial = study.ask(distributions)
            trial.set_user_attr("detail", "PASSED")
            study.tell(trial, float(number))

    trials(50)
    tracemalloc.start()
    trials(500)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 500 < 300
    assert len(study.trials) == 550
    assert study.trials[-1].params.keys() == distributions.keys()
    assert {type(v) for t in study.trials for v in t.params.values()} == {int, str, bool}
