"""Trials of earlier processes of the same sweep: those that are done, and those that are worth another try."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from db.records import TrialRecord
from search_spaces import Config
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
