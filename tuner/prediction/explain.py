"""``tuner explain``: what a config is expected to take, by kernel and resource, beside what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from db.records import StoredMeasurement, SweepRecord
from db.store import Store
from search_spaces.parameters import Config, SpaceError
from search_spaces.prediction.model import Hardware, Prediction, WorkloadFeatures
from search_spaces.space import SearchSpace, hash_of
from search_spaces.targets import accelerators_of
from tuner.errors import NothingFoundError, UsageError
from tuner.files import as_object, read_object
from tuner.prediction.expected import features
from tuner.settings import SweepSettings
from tuner.sweeps.setup import Setup, resolve
from workers.devices.environment import hardware_named
from workers.devices.hardware import KNOWN, hardware_of
from workers.fib.dataset import Document, profile_of
from workers.records import Status

SWEEPS = 200
"""Newest sweeps of a definition that are looked at for measurements."""


@dataclass(frozen=True)
class Explained:
    """One workload: what is expected, and the newest measurement of the same config on the same GPU model, if any."""

    workload: str
    axes: Mapping[str, int]
    profile: str
    prediction: Prediction
    measured: StoredMeasurement | None

    def document(self) -> dict[str, Any]:
        """The JSON document of one workload."""
        said, found = self.prediction, self.measured
        return {
            "workload": self.workload,
            "axes": dict(self.axes),
            "profile": self.profile,
            "predicted_us": said.us,
            "bound": said.bound,
            "bound_us": said.bound_us,
            "measured_us": found.median_us if found else None,
            "measured_low_us": found.low_us if found else None,
            "measured_high_us": found.high_us if found else None,
            "kernels": [{**asdict(k), "bound": k.bound} for k in said.kernels],
        }


@dataclass(frozen=True)
class Explanation:
    """A config on the workloads of a definition.

    Args:
        space: The space.
        definition: Name of the definition.
        config: The whole config.
        hardware: Figures that it is predicted for.
        workloads: By size.
    """

    space: SearchSpace
    definition: str
    config: Config
    hardware: Hardware
    workloads: tuple[Explained, ...]

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "definition": self.definition,
            "space": self.space.name,
            "target": self.space.target,
            "hardware": self.hardware.name,
            "forecast": not self.hardware.measured,
            "config": dict(self.config),
            "config_hash": self.space.config_hash(self.config),
            "workloads": [w.document() for w in self.workloads],
        }


def explain(store: Store, settings: SweepSettings, text: str, hardware: str | None = None) -> Explanation:
    """Predict a config on the workloads that the settings choose, and look up what was measured.

    Args:
        store: Where measurements are.
        settings: Dataset, definition, space, target and workloads.
        text: ``default``; a JSON object, or a file with one, of what differs from the default; or the first digits of
            the hash of a config that a sweep tried.
        hardware: GPU model, ``auto`` for this machine's; default: that of the newest sweep of the definition whose
            figures are known, else the target's first one.

    Raises:
        UsageError: The config is none of these, or nothing is known of the GPU.
        SpaceError: The config is not valid.
        NothingFoundError: The space says nothing of what its kernels take.
    """
    setup = resolve(settings).with_generator()
    space = setup.space()
    if space.model is None:
        raise NothingFoundError(f"space {space.name!r} has no model; a folder's is a model.py beside its space.yaml")
    sweeps = [
        s
        for s in store.sweeps.newest(SWEEPS, definition=setup.problem.name)
        if (s.space, s.target) == (space.name, space.target)
    ]
    gpu = _hardware(hardware, sweeps, space.target)
    config = _config(store, space, sweeps, text)
    why = space.violation(config, space.default)
    if why is not None:
        raise SpaceError(f"the config is not valid: {why}")
    measured = _measured(store, space, sweeps, config, gpu)
    found = [
        Explained(w["uuid"], w["axes"], profile_of(w), space.model.predict(config, like, gpu), measured.get(w["uuid"]))
        for w, like in _workloads(setup)
    ]
    found.sort(key=lambda e: (e.profile, tuple(e.axes.values())))
    return Explanation(space, setup.problem.name, config, gpu, tuple(found))


def _workloads(setup: Setup) -> Iterator[tuple[Document, WorkloadFeatures]]:
    from workers.fib.made_inputs import described, filled_inputs

    for workload in setup.problem.workloads:
        figures = described(setup.problem, workload, filled_inputs(setup.problem, workload, "cpu"))
        yield workload, features(workload["axes"], figures)


def _hardware(given: str | None, sweeps: list[SweepRecord], target: str) -> Hardware:
    model = hardware_named(given)
    names = [model] if model is not None else [*(s.hardware for s in sweeps), *accelerators_of(target)]
    found = next((gpu for name in names if (gpu := hardware_of(name)) is not None), None)
    if found is None:
        raise UsageError(
            f"no figures of {model or f'a GPU of {target}'}; known are {', '.join(KNOWN)}, as "
            "workers/devices/hardware.py has them"
        )
    return found


def _config(store: Store, space: SearchSpace, sweeps: list[SweepRecord], text: str) -> Config:
    if text == "default":
        return dict(space.default)
    if text.lstrip().startswith("{"):
        return space.check({**space.default, **as_object(text, "the config")})
    if text.endswith(".json") or os.path.exists(text):
        return space.check({**space.default, **read_object(Path(text), "config file")})
    for sweep in sweeps:
        for trial in store.trials.points(sweep.id):
            config = {**space.default, **trial.config}
            if set(config) == set(space.by_name) and space.config_hash(config).startswith(text):
                return space.check(config)
    raise UsageError(
        f"config {text!r} must be 'default', a JSON object or a file with one, or the first digits of the hash of a "
        f"config that a sweep in this database tried"
    )


def _measured(
    store: Store, space: SearchSpace, sweeps: list[SweepRecord], config: Config, gpu: Hardware
) -> dict[str, StoredMeasurement]:
    """Workload -> newest measurement that passed, by any version of the space's sources."""
    out: dict[str, StoredMeasurement] = {}
    for (definition_id, space_id), sweep in {(s.definition_id, s.space_id): s for s in sweeps}.items():
        key = _key_then(store, space, sweep, config)
        for earlier in store.measurements.all_of(definition_id, space_id, key):
            m, here = earlier.measurement, hardware_of(earlier.environment.hardware)
            if here is None or here.name != gpu.name or m.status is not Status.PASSED or m.median_us is None:
                continue
            if m.workload not in out or m.measured_at > out[m.workload].measured_at:
                out[m.workload] = m
    return out


def _key_then(store: Store, space: SearchSpace, sweep: SweepRecord, config: Config) -> str:
    """The config's hash in the version of the space that a sweep searched: parameters that it did not have count as
    their default."""
    tried = [] if sweep.space_fingerprint == space.fingerprint else store.trials.points(sweep.id)
    had = set(tried[0].config) if tried else set(config)
    if any(config[name] != space.default[name] for name in set(config) - had):
        return space.config_hash(config)
    return hash_of({name: value for name, value in config.items() if name in had})
