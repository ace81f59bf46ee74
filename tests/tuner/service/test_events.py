"""Server-sent events: a client that comes back misses nothing and gets nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from db.store import Store


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve("--rate-per-s", "0")


@pytest.fixture
def stage(server: Any, scene: Any) -> Iterator[Any]:
    with Store.open(server.db) as store:
        yield scene(store)


@contextmanager
def listening(server: Any, sweep_id: int, **headers: str) -> Iterator[Iterator[tuple[int, str, dict[str, Any]]]]:
    """Events of a sweep as (id, kind, data)."""
    with server.client() as client, client.stream("GET", f"/api/v1/sweeps/{sweep_id}/events", headers=headers) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield _events(reply)


def _events(reply: httpx.Response) -> Iterator[tuple[int, str, dict[str, Any]]]:
    fields: dict[str, str] = {}
    for line in reply.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def test_a_sweep_is_followed_to_its_end(server: Any, stage: Any) -> None:
    sweep_id = stage.sweep(owner="here:1", max_trials=2)
    with listening(server, sweep_id) as events:
        assert next(events)[1:] == ("state", next_state(server, sweep_id))
        stage.store.trials.commit(stage.trial(sweep_id, 0))
        kinds = [next(events), next(events)]
        assert [(kind, data.get("number"), data.get("trials")) for _, kind, data in kinds] == [
            ("trial", 0, None), ("state", None, 1),
        ]  # fmt: skip
        stage.store.trials.commit(stage.trial(sweep_id, 1))
        stage.store.sweeps.finish(sweep_id, "DONE", {})
        rest = list(events)
    assert [kind for _, kind, _ in rest][-1] == "end"
    assert [data["number"] for _, kind, data in rest if kind == "trial"] == [1]
    assert rest[-1][2]["state"] == "DONE"


def next_state(server: Any, sweep_id: int) -> dict[str, Any]:
    """What a new listener is told first."""
    with server.client() as client:
        sweep = client.get(f"/api/v1/sweeps/{sweep_id}").json()
    names = ("id", "state", "definition", "space", "target", "hardware", "started_at", "finished_at", "trials",
             "max_trials", "budget_s")  # fmt: skip
    return {name: sweep[name] for name in names}


def test_a_client_that_comes_back_gets_the_rest(server: Any, stage: Any) -> None:
    sweep_id = stage.sweep(owner="here:1")
    for number in range(5):
        stage.store.trials.commit(stage.trial(sweep_id, number))
    with listening(server, sweep_id) as events:
        seen = [next(events) for _ in range(3)]
    assert [data["number"] for _, _, data in seen] == [0, 1, 2]
    stage.store.sweeps.finish(sweep_id, "INTERRUPTED", {})
    with listening(server, sweep_id, **{"Last-Event-ID": str(seen[-1][0])}) as events:
        rest = list(events)
    assert [data["number"] for _, kind, data in rest if kind == "trial"] == [3, 4]
    assert rest[-1][1] == "end"


def test_a_finished_sweep_ends_at_once_with_all_its_trials(server: Any, stage: Any) -> None:
    sweep_id = stage.finished()
    with listening(server, sweep_id) as events:
        told = [kind for _, kind, _ in events]
    assert told == ["trial"] * 4 + ["state", "end"]


@pytest.mark.parametrize("known", ["", "x", "-1", "1.5", "9" * 25])
def test_an_unreadable_last_event_id_starts_from_the_beginning(server: Any, stage: Any, known: str) -> None:
    sweep_id = stage.finished()
    with listening(server, sweep_id, **{"Last-Event-ID": known}) as events:
        assert sum(kind == "trial" for _, kind, _ in events) == 4


def test_a_sweep_whose_process_died_is_lost_and_ends(server: Any, stage: Any) -> None:
    sweep_id = stage.sweep(owner="gone:1")
    with stage.store.database.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE sweep SET heartbeat_at = 1 WHERE id = {sweep_id}")
    with listening(server, sweep_id) as events:
        assert [(kind, data["state"]) for _, kind, data in events] == [("state", "LOST"), ("end", "LOST")]
