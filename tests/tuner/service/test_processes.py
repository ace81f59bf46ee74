"""Sweeps that the server started outlive it: killed, restarted, stopped, resumed. Real sweeps on the cpu target."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tuner.sweeps.setup import open_dataset

MOE = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"
SMALLEST = next(w["uuid"] for w in open_dataset(None).workloads(MOE) if w["axes"]["seq_len"] == 1)
SMALL = {"definition": MOE, "target": "cpu", "workloads": [SMALLEST], "max_trials": 5000, "seed": 1}
WAIT_S = 240.0

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def wait_for(client: httpx.Client, sweep_id: int, fulfilled: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The sweep as soon as it is as wanted."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        sweep = dict(client.get(f"/api/v1/sweeps/{sweep_id}").json())
        if fulfilled(sweep):
            return sweep
        assert time.monotonic() < give_up_at, sweep
        time.sleep(0.2)


def test_a_killed_server_loses_nothing_of_a_sweep_it_started(
    serve: Callable[..., Any], again: Callable[[Any], Any]
) -> None:
    server = serve("--rate-per-s", "0", "--max-running-sweeps", "1")
    with server.client() as client:
        started = client.post("/api/v1/sweeps", json=SMALL)
        assert started.status_code == 201, started.text + server.log()
        sweep_id = started.json()["id"]
        assert started.headers["location"] == f"/api/v1/sweeps/{sweep_id}"
        full = client.post("/api/v1/sweeps", json=SMALL)
        assert (full.status_code, full.headers["content-type"]) == (429, "application/problem+json")
        before = wait_for(client, sweep_id, lambda s: s["trials"] >= 2)
    server.kill()

    with again(server).client() as client:
        assert client.get(f"/api/v1/sweeps/{sweep_id}").json()["state"] == "RUNNING"
        wait_for(client, sweep_id, lambda s: s["trials"] > before["trials"])
        assert client.post(f"/api/v1/sweeps/{sweep_id}/resume").status_code == 409
        assert client.delete(f"/api/v1/sweeps/{sweep_id}").status_code == 202
        stopped = wait_for(client, sweep_id, lambda s: s["state"] != "RUNNING")
        assert (stopped["state"], stopped["resumable"]) == ("INTERRUPTED", True)

        resumed = client.post(f"/api/v1/sweeps/{sweep_id}/resume")
        assert (resumed.status_code, resumed.json()["state"]) == (202, "RUNNING")
        wait_for(client, sweep_id, lambda s: s["trials"] > stopped["trials"])
        numbers = [t["number"] for t in client.get(f"/api/v1/sweeps/{sweep_id}/trials?limit=1000").json()["trials"]]
        assert numbers == list(range(len(numbers)))
        client.delete(f"/api/v1/sweeps/{sweep_id}")
        assert wait_for(client, sweep_id, lambda s: s["state"] != "RUNNING")["state"] == "INTERRUPTED"
