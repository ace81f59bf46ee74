"""``tuner profile``: what the workloads of a dataset look like, and what inputs of other profiles would do."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces import SpaceError
from tuner.progress import Steps
from tuner.settings import SweepSettings
from tuner.sweeps.setup import resolve
from workers.fib.dataset import profile_of


@dataclass(frozen=True)
class WorkloadProfile:
    """One workload: its sizes, and what its inputs do by the space's generator (empty if that cannot say).

    A value of ``figures`` is a number, or a list of numbers that is drawn and not listed.
    """

    workload: str
    axes: Mapping[str, int]
    profile: str
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class DatasetProfile:
    """All workloads of a definition, by profile and size."""

    definition: str
    op_type: str
    workloads: tuple[WorkloadProfile, ...]
    left_out: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "definition": self.definition,
            "op_type": self.op_type,
            "workloads": [
                {"workload": w.workload, "axes": dict(w.axes), "profile": w.profile, "figures": dict(w.figures)}
                for w in self.workloads
            ],
            "left_out": list(self.left_out),
        }


def profile_dataset(settings: SweepSettings, view: Steps | None = None) -> DatasetProfile:
    """Look at a dataset's workloads, and at those that the settings' profiles and sizes add.

    Makes only the inputs that matter, on the CPU: random ones there have other values than on a GPU.

    Raises:
        UsageError, DatasetError: Something named does not exist, or an input cannot be made.
    """
    from workers.fib.made_inputs import described, filled_inputs

    setup = resolve(settings)
    with contextlib.suppress(SpaceError):  # no space fits the definition, so nothing says what its inputs do
        setup = setup.with_generator()
    problem, found = setup.problem, []
    for number, workload in enumerate(problem.workloads):
        if view is not None:
            view.step(f"workload {number + 1} of {len(problem.workloads)}")
        figures = described(problem, workload, filled_inputs(problem, workload, "cpu"))
        found.append(WorkloadProfile(workload["uuid"], workload["axes"], profile_of(workload), figures))
    order = list(dict.fromkeys(w.profile for w in found))
    found.sort(key=lambda w: (order.index(w.profile), tuple(w.axes.values())))
    return DatasetProfile(problem.name, str(problem.definition["op_type"]), tuple(found), problem.left_out)
