"""Several server processes on PostgreSQL: the same answers, one set of metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from db.store import Store
from tuner.service import tokens

pytestmark = pytest.mark.postgres

PROCESSES = 2


@pytest.fixture(scope="module")
def stage(serve: Callable[..., Any], postgres_database: Callable[[], str], scene: Any) -> Any:
    """A service on an empty database that it made the tables of, then filled."""
    server = serve("--workers", str(PROCESSES), "--rate-per-s", "0", db=postgres_database())
    with Store.open(server.db, create=False) as store:
        filled = scene(store)
        filled.sweep_id = filled.finished(filled.winner(2))
        filled.server = server
        return filled


def ask(stage: Any, path: str) -> Any:
    """A request on a connection of its own, so that any of the processes may get it."""
    with stage.server.client() as client:
        return client.get(path)


def test_every_process_gives_the_same_answer(stage: Any) -> None:
    path = "/api/v1/best-config?definition=gemm&axes=seq_len=10&hardware=NVIDIA H100"
    replies = [ask(stage, path) for _ in range(8)]
    assert {(r.status_code, r.headers["etag"]) for r in replies} == {(200, replies[0].headers["etag"])}
    assert {tuple(r.json()["config"].items()) for r in replies} == {(("tile", 2),)}


@pytest.mark.parametrize("path", ["/", "/sweeps/{id}", "/sweeps/{id}/trials/1", "/best?definition=gemm", "/compare"])
def test_every_page_is_drawn(stage: Any, path: str) -> None:
    reply = ask(stage, path.format(id=stage.sweep_id))
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_metrics_are_of_all_processes_together(stage: Any) -> None:
    def answered() -> float:
        lines = ask(stage, "/metrics").text.splitlines()
        assert 'tuner_sweeps{state="DONE"} 1.0' in lines
        counted = [line for line in lines if line.startswith("tuner_http_requests_total") and '"/healthz"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in counted)

    before = answered()
    for _ in range(8):
        assert ask(stage, "/healthz").status_code == 200
    assert answered() == before + 8


def test_an_events_stream_ends_with_the_sweep(stage: Any) -> None:
    text = ask(stage, f"/api/v1/sweeps/{stage.sweep_id}/events").text
    assert text.count("event: trial") == len(stage.store.trials.of(stage.sweep_id, measurements=False))
    assert "event: end" in text


def test_a_revocation_counts_in_every_process_at_once(stage: Any) -> None:
    """The last test of this file: from now on the server asks for tokens."""
    token = stage.server.token("read")
    clients = [stage.server.client(token) for _ in range(8)]  # a connection each, spread over the processes
    try:
        assert {c.get("/api/v1/sweeps").status_code for c in clients} == {200}
        assert stage.store.tokens.revoke(tokens.parts(token)[0])  # type: ignore[index]
        assert {c.get("/api/v1/sweeps").status_code for c in clients} == {401}
    finally:
        for client in clients:
            client.close()
