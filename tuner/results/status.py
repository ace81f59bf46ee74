"""Where sweeps stand, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from db.records import SweepRecord, SweepState
from db.store import Store
from tuner.results.documents import SweepDetail, SweepHead
from tuner.sweeps.failures import telling_line
from workers.records import Status

CLAIM_STALE_S = 30.0
"""A sweep may be taken over if its owner has shown no sign of life for this long."""
FAILURES_SHOWN = 10
NOT_FAILURES = tuple(status.value for status in Status if not status.is_failure)
RESUMABLE = ("INTERRUPTED", "FAILED", "LOST")


def moment(seconds: float | None) -> str | None:
    """A stored moment as ISO text in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def overview(store: Store, limit: int, definition: str | None = None) -> dict[str, Any]:
    """One entry for each of the newest sweeps."""
    sweeps = store.sweeps.newest(limit=limit, definition=definition)
    return {"sweeps": [asdict(h) | {"host": s.host} for s, h in zip(sweeps, heads(store, sweeps), strict=True)]}


def describe(store: Store, sweep_id: int) -> dict[str, Any]:
    """One sweep: its trials by state, its winners, its last failures."""
    sweep = store.sweeps.get(sweep_id)
    failed = store.trials.last(sweep_id, limit=FAILURES_SHOWN, but=NOT_FAILURES)
    return {
        **asdict(detail(store, sweep)),
        "host": sweep.host,
        "settings": dict(sweep.settings),
        "summary": dict(sweep.summary),
        "failures": [
            {
                "number": t.number,
                "state": t.state,
                "config": dict(t.config),
                "reason": telling_line(t.reason),
            }
            for t in failed
        ],
    }


def heads(store: Store, sweeps: Sequence[SweepRecord]) -> list[SweepHead]:
    """Several sweeps; their trials are counted in one query."""
    counts = store.trials.counts([s.id for s in sweeps])
    return [SweepHead(**_head(s, counts.get(s.id, {}))) for s in sweeps]


def detail(store: Store, sweep: SweepRecord) -> SweepDetail:
    """A sweep with its outcome so far."""
    by_state = store.trials.count(sweep.id)
    return SweepDetail(
        **_head(sweep, by_state),
        seed=sweep.seed,
        stop_requested=sweep.stop_requested_at is not None,
        resumable=state_now(sweep) in RESUMABLE,
        trials_by_state=by_state,
        winners=store.winners.of(sweep.id),
    )


def state_now(sweep: SweepRecord) -> str:
    """The recorded state, ``LOST`` for a running sweep whose process died; it can be resumed."""
    beat = sweep.heartbeat_at
    silent = beat is not None and datetime.now(UTC).timestamp() - beat > CLAIM_STALE_S
    return "LOST" if sweep.state == SweepState.RUNNING and silent else str(sweep.state)


def _head(sweep: SweepRecord, by_state: Mapping[str, int]) -> dict[str, Any]:
    same = ("id", "definition", "space", "target", "hardware", "max_trials", "budget_s")
    return {
        **{name: getattr(sweep, name) for name in same},
        "state": state_now(sweep),
        "started_at": moment(sweep.started_at),
        "finished_at": moment(sweep.finished_at),
        "trials": sum(by_state.values()),
    }
