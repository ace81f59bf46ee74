"""Trials of earlier processes of the same sweep: those that are done, and those that are worth another try."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from db.records import TrialRecord
from search_spaces import Config
from tuner.errors import UsageError
from tuner.sweeps.regimes import Regime
from workers.records import OF_THE_MACHINE, Status


@dataclass(frozen=True)
class EarlierTrials:
    """The earlier trials of a resumed sweep.

    Args:
        done: The newest of each config in each regime, without those that are made again.
        again: Regime -> configs to try first, since they failed because of a machine.
        next_number: Of the sweep's next trial.
    """

    done: tuple[TrialRecord, ...]
    again: dict[str, list[Config]]
    next_number: int

    @classmethod
    def of(cls, records: Iterable[TrialRecord], retry_failed: bool) -> EarlierTrials:
        """From all trials of the sweep, in the order of their numbers."""
        newest = {(r.regime, r.config_hash): r for r in records}
        failed = [r for r in newest.values() if retry_failed and Status(r.state) in OF_THE_MACHINE]
        again: dict[str, list[Config]] = {}
        for record in failed:
            again.setdefault(record.regime, []).append(dict(record.config))
        done = tuple(r for r in newest.values() if r not in failed)
        return cls(done, again, 1 + max((r.number for r in newest.values()), default=-1))


def check_workloads(
    sweep_id: int,
    ran: Collection[tuple[str, str, str | None, str | None]],
    regimes: Iterable[Regime],
    contents: Mapping[str, str],
) -> None:
    """Refuse to go on with a sweep whose earlier trials ran on other workloads: their values mean something else.

    Args:
        sweep_id: The sweep.
        ran: What its trials ran on, from :meth:`db.queries.trials.Trials.workloads`.
        regimes: With today's workloads.
        contents: Workload uuid -> digest of its inputs today.

    Raises:
        UsageError: A workload has gone, come, or has other inputs.
    """
    workloads = {r.name: r.workloads for r in regimes}
    for regime, _, uuid, content in sorted(ran, key=str):
        if regime not in workloads or (uuid is not None and uuid not in workloads[regime]):
            what = "regime " + regime if uuid is None else f"workload {uuid} of regime {regime}"
            raise UsageError(_changed(sweep_id, f"{what}, which is not there now"))
        if content and content != contents[str(uuid)]:
            raise UsageError(_changed(sweep_id, f"workload {uuid} with other inputs than it has now"))
    passed = {(regime, uuid) for regime, state, uuid, _ in ran if state == Status.PASSED}
    for regime in sorted({regime for regime, _ in passed}):
        for uuid in workloads[regime]:
            if (regime, uuid) not in passed:
                raise UsageError(_changed(sweep_id, f"regime {regime} without workload {uuid}, which is there now"))


def _changed(sweep_id: int, what: str) -> str:
    return f"sweep {sweep_id} measured {what}; start a new sweep, it reuses what still holds"
