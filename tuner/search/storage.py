"""An Optuna storage for long searches: finished trials are packed."""

from __future__ import annotations

import copy
import uuid
from array import array
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from tuner.search.packing import Packer, shallow, state_of


@dataclass
class _Study:
    """One study: ``trials`` holds IDs in order of number, ``waiting`` the IDs of trials that are not started yet."""

    name: str
    directions: list[StudyDirection]
    trials: array[int] = field(default_factory=lambda: array("q"))
    waiting: list[int] = field(default_factory=list)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


class PackedStorage(BaseStorage):
    """Studies in the memory of this process, for one thread.

    An open trial is Optuna's own object. A finished one is packed into about a hundred bytes, where Optuna's storage
    keeps five kilobytes, and unpacked each time it is read. Public methods do what ``BaseStorage`` specifies.
    """

    def __init__(self) -> None:
        self._packer = Packer()
        self._studies: dict[int, _Study] = {}
        self._studies_made = 0
        self._trials: list[FrozenTrial | bytes | None] = []
        """Trials by ID; None if the study was deleted."""
        self._owners = array("q")
        self._numbers = array("q")

    # -- studies -----------------------------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        if any(s.name == study_name for s in self._studies.values()):
            raise DuplicatedStudyError(f"there is a study {study_name!r} already")
        study_id = self._studies_made
        self._studies_made += 1
        name = f"no-name-{uuid.uuid4()}" if study_name is None else study_name
        self._studies[study_id] = _Study(name, list(directions))
        return study_id

    def delete_study(self, study_id: int) -> None:
        for trial_id in self._study(study_id).trials:
            self._trials[trial_id] = None
        del self._studies[study_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        study = self._study(study_id)
        study.user_attrs = {**study.user_attrs, key: value}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        study = self._study(study_id)
        study.system_attrs = {**study.system_attrs, key: value}

    def get_study_id_from_name(self, study_name: str) -> int:
        for study_id, study in self._studies.items():
            if study.name == study_name:
                return study_id
        raise KeyError(f"there is no study {study_name!r}")

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._study(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._study(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study(study_id).system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            FrozenStudy(
                study_name=study.name,
                direction=None,
                directions=study.directions,
                user_attrs=copy.deepcopy(study.user_attrs),
                system_attrs=copy.deepcopy(study.system_attrs),
                study_id=study_id,
            )
            for study_id, study in self._studies.items()
        ]

    def _study(self, study_id: int) -> _Study:
        if study_id not in self._studies:
            raise KeyError(f"there is no study {study_id}")
        return self._studies[study_id]

    # -- writing trials ----------------------------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        study = self._study(study_id)
        trial_id, number = len(self._trials), len(study.trials)
        if template_trial is None:
            trial = FrozenTrial(number, TrialState.RUNNING, None, datetime.now(), None, {}, {}, {}, {}, {}, trial_id)
        else:
            # Packing copies a finished trial.
            finished = template_trial.state.is_finished()
            trial = shallow(template_trial if finished else copy.deepcopy(template_trial))
            trial.number, trial._trial_id = number, trial_id
        self._trials.append(None)
        self._owners.append(study_id)
        self._numbers.append(number)
        study.trials.append(trial_id)
        if trial.state is TrialState.WAITING:
            study.waiting.append(trial_id)
        self._keep(trial_id, trial)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._open(trial_id)
        known = self._studies[self._owners[trial_id]].distributions
        if known.setdefault(param_name, distribution) is not distribution:
            check_distribution_compatibility(known[param_name], distribution)
        value = distribution.to_external_repr(param_value_internal)
        params, distributions = {**trial.params, param_name: value}, {**trial.distributions, param_name: distribution}
        self._keep(trial_id, shallow(trial, params=params, distributions=distributions))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        trial = self._open(trial_id)
        if state is TrialState.RUNNING and trial.state is not TrialState.WAITING:
            return False
        if trial.state is TrialState.WAITING:
            self._studies[self._owners[trial_id]].waiting.remove(trial_id)
        changes: dict[str, Any] = {"state": state}
        if values is not None:
            changes["values"] = list(values)
        if state is TrialState.RUNNING:
            changes["datetime_start"] = datetime.now()
        if state.is_finished():
            changes["datetime_complete"] = datetime.now()
        self._keep(trial_id, shallow(trial, **changes))
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._open(trial_id)
        self._keep(
            trial_id, shallow(trial, intermediate_values={**trial.intermediate_values, step: intermediate_value})
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._open(trial_id)
        self._keep(trial_id, shallow(trial, user_attrs={**trial.user_attrs, key: value}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._open(trial_id)
        self._keep(trial_id, shallow(trial, system_attrs={**trial.system_attrs, key: value}))

    def _keep(self, trial_id: int, trial: FrozenTrial) -> None:
        """Replace a trial. The old object is left unchanged, since callers may hold it."""
        self._trials[trial_id] = self._packer.pack(trial) if trial.state.is_finished() else trial

    def _open(self, trial_id: int) -> FrozenTrial:
        """A trial that is not finished and may be changed."""
        trial = self._stored(trial_id)
        if isinstance(trial, bytes):
            self.check_trial_is_updatable(trial_id, state_of(trial))
        assert isinstance(trial, FrozenTrial)
        return trial

    # -- reading trials ----------------------------------------------------------------------------------------------

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        trials = self._study(study_id).trials
        if not 0 <= trial_number < len(trials):
            raise KeyError(f"study {study_id} has no trial {trial_number}")
        return trials[trial_number]

    def get_trial_number_from_id(self, trial_id: int) -> int:
        self._stored(trial_id)
        return self._numbers[trial_id]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = self._stored(trial_id)
        return self._packer.unpack(trial, trial_id, self._numbers[trial_id]) if isinstance(trial, bytes) else trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = []
        for trial_id in self._in_state(study_id, states):
            trial = self.get_trial(trial_id)
            found.append(copy.deepcopy(trial) if deepcopy and not trial.state.is_finished() else trial)
        return found

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        return sum(1 for _ in self._in_state(study_id, (state,) if isinstance(state, TrialState) else state))

    def _in_state(self, study_id: int, states: Container[TrialState] | None) -> Iterator[int]:
        """IDs of the trials of a study in these states, or of all trials."""
        study = self._study(study_id)
        if states == (TrialState.WAITING,):
            # Optuna asks for waiting trials before each new one; answered without looking at all others.
            yield from study.waiting.copy()
            return
        for trial_id in study.trials:
            trial = self._stored(trial_id)
            state = state_of(trial) if isinstance(trial, bytes) else trial.state
            if states is None or state in states:
                yield trial_id

    def _stored(self, trial_id: int) -> FrozenTrial | bytes:
        trial = self._trials[trial_id] if 0 <= trial_id < len(self._trials) else None
        if trial is None:
            raise KeyError(f"there is no trial {trial_id}")
        return trial
