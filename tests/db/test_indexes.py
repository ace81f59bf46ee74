"""The queries that run often never read a whole table that grows: shown by the databases' own plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from db.records import method_hash
from db.store import Store

GROWING = ("measurement", "trial_measurement", "trial", "variant", "build", "finalist", "winner", "winner_workload")
"""Tables that grow with every sweep; ``sweep`` and what it names stay small beside them."""


@contextmanager
def _statements(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements with their parameters that run inside the block."""
    seen: list[tuple[str, Any]] = []

    def remember(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many and isinstance(parameters, list) else parameters))

    event.listen(store.database.engine, "before_cursor_execute", remember)
    yield seen
    event.remove(store.database.engine, "before_cursor_execute", remember)


def _plan(store: Store, statement: str, parameters: Any) -> list[str]:
    with store.database.engine.connect() as connection:
        if store.database.engine.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [row.detail for row in rows]
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # the test's tables are too small for an index
        return [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]


def _whole_table_reads(plan: list[str]) -> list[str]:
    scans = [line.strip() for line in plan if line.startswith("SCAN ") or "Seq Scan on " in line]
    named = [(line, line.partition("Seq Scan on ")[2] or line.removeprefix("SCAN ")) for line in scans]
    return [line for line, rest in named if rest.split()[0] in GROWING]


@pytest.fixture
def filled(store: Store, scene: Any) -> Any:
    """A store in which every table has rows."""
    scene = scene(store)
    sweep_id = scene.finished()
    store.winners.commit_comparison(sweep_id, [scene.measurement(config_hash="hash0")])
    return scene


@pytest.mark.parametrize(
    "query",
    [
        "best_rows",
        "best_stamp",
        "known_measurements",
        "trial_count",
        "last_trials",
        "trials",
        "winners",
        "finalists",
        "list_sweeps",
        "related",
        "trial_counts",
        "trial_points",
        "failure_counts",
        "commit_trial",
    ],
)
def test_no_query_reads_a_whole_growing_table(filled: Any, query: str) -> None:
    store = filled.store
    calls = {
        "best_rows": lambda: store.best.rows("gemm", hardware="NVIDIA H100"),
        "best_stamp": lambda: store.best.stamp("gemm"),
        "known_measurements": lambda: store.measurements.known(
            definition_id=filled.definition_id,
            space_id=filled.space_id,
            config_hash="hash0",
            environment=filled.environment,
            method=method_hash(filled.measurement().method),
        ),
        "trial_count": lambda: store.trials.count(1),
        "last_trials": lambda: store.trials.last(1, limit=10, but=("RACED_OUT",)),
        "trials": lambda: store.trials.of(1),
        "winners": lambda: store.winners.of(1),
        "finalists": lambda: store.winners.finalists(1),
        "list_sweeps": lambda: store.sweeps.newest(10),
        "related": lambda: store.best.related("tiles", definition="gemm", hardware="NVIDIA H100"),
        "trial_counts": lambda: store.trials.counts([1]),
        "trial_points": lambda: store.trials.points(1),
        "failure_counts": lambda: store.trials.failures(1, not_failures=("RACED_OUT",)),
        "commit_trial": lambda: store.trials.commit(filled.trial(1, 9)),
    }
    with _statements(store) as seen:
        assert calls[query]()
    assert seen
    for statement, parameters in seen:
        if statement.startswith("INSERT"):
            continue  # finds its row by a unique key; SQLite's plan also lists foreign key checks that never run
        plan = _plan(store, statement, parameters)
        assert _whole_table_reads(plan) == [], "\n".join([statement, *plan])


def test_a_query_without_an_index_would_be_found(filled: Any) -> None:
    plan = _plan(filled.store, "SELECT id FROM measurement WHERE message = 'x'", ())
    assert len(_whole_table_reads(plan)) == 1


def test_counting_trials_sorts_nothing(filled: Any) -> None:
    """With 100,000 trials in a sweep the sort took as long as the counting."""
    if filled.store.database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL counts with a hash table")
    with _statements(filled.store) as seen:
        assert filled.store.trials.count(1) == filled.store.trials.counts([1])[1]
    plans = [_plan(filled.store, *given) for given in seen if given[0].startswith("SELECT")]
    assert len(plans) == 2
    assert not [line for plan in plans for line in plan if "TEMP B-TREE" in line]
