"""What the service asks of the store beside results: who started a sweep, stop requests, counts for many sweeps."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update

from db import schema
from db.connected import Connected
from db.records import FailureCount, TrialPoint

_sweep, _trial, _variant = schema.sweep, schema.trial, schema.variant


class Requests(Connected):
    """The part of the store through which the service and a sweep's process talk; they share nothing else."""

    def sweep_of_ticket(self, ticket: str) -> int | None:
        """Id of the sweep that was created with this ticket, None if its process has not come that far."""
        rows = self._rows(select(_sweep.c.id).where(_sweep.c.ticket == ticket))
        return rows[0].id if rows else None

    def request_stop(self, sweep_id: int) -> bool:
        """Asks the process that holds the sweep to stop; False if none does. A resume forgets the request."""
        asked = (
            update(_sweep)
            .where(_sweep.c.id == sweep_id, _sweep.c.owner.is_not(None))
            .values(stop_requested_at=func.coalesce(_sweep.c.stop_requested_at, time.time()))
        )
        return self._write(lambda c: c.execute(asked).rowcount > 0)

    def stop_requested(self, sweep_id: int) -> bool:
        """Whether somebody asked for the sweep to stop."""
        rows = self._rows(select(_sweep.c.stop_requested_at).where(_sweep.c.id == sweep_id))
        return bool(rows) and rows[0].stop_requested_at is not None

    def trial_counts(self, sweep_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
        """Number of trials by sweep and state."""
        query = (
            select(_trial.c.sweep_id, _trial.c.state, func.count().label("trials"))
            .where(_trial.c.sweep_id.in_(list(sweep_ids)))
            # In the order of the index, as for one sweep.
            .group_by(_trial.c.sweep_id, _trial.c.regime, _trial.c.state)
        )
        found: dict[int, Counter[str]] = defaultdict(Counter)
        for row in self._rows(query):
            found[row.sweep_id][row.state] += row.trials
        return {i: found[i] for i in sweep_ids}

    def trial_points(self, sweep_id: int) -> list[TrialPoint]:
        """All trials of a sweep by number, without texts, builds and measurements, which are most of the bytes."""
        query = (
            select(_trial.c.id, _trial.c.number, _trial.c.regime, _trial.c.state, _trial.c.objective, _variant.c.config)
            .join(_variant, _variant.c.id == _trial.c.variant_id)
            .where(_trial.c.sweep_id == sweep_id)
            .order_by(_trial.c.number)
        )
        return [TrialPoint(*row) for row in self._rows(query)]

    def failure_counts(self, sweep_id: int, *, not_failures: Collection[str]) -> list[FailureCount]:
        """Trials of a sweep by state and reason, except those in a state of ``not_failures``; by their first trial."""
        first = func.min(_trial.c.number)
        query = (
            select(_trial.c.state, _trial.c.reason, func.count(), first)
            .where(_trial.c.sweep_id == sweep_id, _trial.c.state.not_in(list(not_failures)))
            .group_by(_trial.c.state, _trial.c.reason)
            .order_by(first)
        )
        return [FailureCount(*row) for row in self._rows(query)]

    def definition_body(self, definition_id: int) -> Mapping[str, Any]:
        """A definition's document as a sweep recorded it."""
        table = schema.definition
        rows = self._rows(select(table.c.body).where(table.c.id == definition_id))
        return dict(rows[0].body) if rows else {}

    def sweep_states(self) -> dict[str, int]:
        """Number of sweeps by state."""
        return {row[0]: row[1] for row in self._rows(select(_sweep.c.state, func.count()).group_by(_sweep.c.state))}

    def swept(self) -> list[tuple[str, str]]:
        """Definitions with a finished sweep and the hardware it ran on, by name."""
        definition, environment = schema.definition, schema.environment
        query = (
            select(definition.c.name, environment.c.hardware)
            .distinct()
            .join_from(_sweep, definition)
            .join(environment, environment.c.id == _sweep.c.environment_id)
            .where(_sweep.c.finished_at.is_not(None))
            .order_by(definition.c.name, environment.c.hardware)
        )
        return [(row[0], row[1]) for row in self._rows(query)]

    def workload_axes(self, uuids: Sequence[str]) -> dict[str, Mapping[str, int]]:
        """Axes by uuid; of a uuid whose content has changed, the newest."""
        table = schema.workload
        query = select(table.c.uuid, table.c.axes).where(table.c.uuid.in_(list(uuids))).order_by(table.c.id)
        return {row.uuid: row.axes for row in self._rows(query)}
