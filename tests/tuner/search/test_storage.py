"""The compact storage: Optuna's own suite for storages, and what it costs."""

import tracemalloc

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.testing.pytest_storages import StorageTestCase

from tuner.search.storage import CompactStorage


class TestCompactStorage(StorageTestCase):
    @pytest.fixture
    def storage(self):
        return CompactStorage()


def test_a_finished_trial_of_twenty_five_parameters_takes_less_than_nine_hundred_bytes():
    distributions = {f"p{i}": CategoricalDistribution([8, 16, "wide", True]) for i in range(25)}
    study = optuna.create_study(storage=CompactStorage(), sampler=optuna.samplers.RandomSampler(seed=0))

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
    assert held / 500 < 900
    assert len(study.trials) == 550
    assert study.trials[-1].params.keys() == distributions.keys()
    assert {type(v) for t in study.trials for v in t.params.values()} == {int, str, bool}


def test_trials_of_an_earlier_process_share_what_they_have_in_common():
    """Each would bring its own copy of all distributions."""
    distributions = {f"p{i}": CategoricalDistribution([8, 16, "wide", True]) for i in range(25)}
    study = optuna.create_study(storage=CompactStorage())

    def observed(count):
        for number in range(count):
            params = dict.fromkeys(distributions, 16)
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=float(number)))

    observed(50)
    tracemalloc.start()
    observed(200)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 200 < 1000
    assert study.get_trials(deepcopy=False)[-1].params == dict.fromkeys(distributions, 16)


def test_the_last_of_a_hundred_thousand_choices_is_kept():
    """Positions take 16 bits where that is enough; it would end the sweep where it is not."""
    study = optuna.create_study(storage=CompactStorage())
    distributions = {"p": CategoricalDistribution(range(100_000))}
    study.add_trial(optuna.trial.create_trial(params={"p": 99_999}, distributions=distributions, value=1.0))
    assert study.best_params == {"p": 99_999}
