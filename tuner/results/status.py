"""The documents that ``tuner status`` shows, made from the store."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from db.records import SweepRecord, SweepState
from db.store import Store
from tuner.sweeps.failures import telling_line
from tuner.sweeps.run import CLAIM_STALE_S
from workers.records import Status

FAILURES_SHOWN = 10
NOT_FAILURES = tuple(status.value for status in Status if not status.is_failure)
RESUMABLE = ("INTERRUPTED", "FAILED", "LOST")


def moment(seconds: float | None) -> str | None:
    """A stored moment as ISO text in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def overview(store: Store, limit: int, definition: str | None = None) -> dict[str, Any]:
    """One entry for each of the newest sweeps."""
    sweeps = store.sweeps.newest(limit=limit, definition=definition)
    counts = store.trials.counts([s.id for s in sweeps])
    return {"sweeps": [{**_head(s), "trials": sum(counts.get(s.id, {}).values())} for s in sweeps]}


def describe(store: Store, sweep_id: int) -> dict[str, Any]:
    """One sweep: its trials by state, its winners, its last failures."""
    sweep = store.sweeps.get(sweep_id)
    failed = store.trials.last(sweep_id, limit=FAILURES_SHOWN, but=NOT_FAILURES)
    return {
        **_head(sweep),
        "settings": dict(sweep.settings),
        "summary": dict(sweep.summary),
        "trials_by_state": store.trials.count(sweep_id),
        "winners": [asdict(w) for w in store.winners.of(sweep_id)],
        "failures": [
            {
                "number": t.number,
                "state": t.state,
                "config": dict(t.config),
                "reason": telling_line(t.reason),
            }
            for t in failed
        ],
        "resumable": state_now(sweep) in RESUMABLE,
    }


def state_now(sweep: SweepRecord) -> str:
    """The recorded state, ``LOST`` for a running sweep whose process died; it can be resumed."""
    beat = sweep.heartbeat_at
    silent = beat is not None and datetime.now(UTC).timestamp() - beat > CLAIM_STALE_S
    return "LOST" if sweep.state == SweepState.RUNNING and silent else str(sweep.state)


def _head(sweep: SweepRecord) -> dict[str, Any]:
    return {
        "id": sweep.id,
        "state": state_now(sweep),
        "definition": sweep.definition,
        "space": sweep.space,
        "target": sweep.target,
        "hardware": sweep.hardware,
        "host": sweep.host,
        "started_at": moment(sweep.started_at),
        "finished_at": moment(sweep.finished_at),
    }
