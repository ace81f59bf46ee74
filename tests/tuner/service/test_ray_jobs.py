"""Sweeps as jobs of a Ray cluster: a real one on this machine, and one that is not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tuner.sweeps.setup import open_dataset

MOE = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"
SMALLEST = next(w["uuid"] for w in open_dataset(None).workloads(MOE) if w["axes"]["seq_len"] == 1)
SMALL = {"definition": MOE, "target": "cpu", "workloads": [SMALLEST], "max_trials": 5000}
WAIT_S = 180.0
TOKEN = "t" * 40
"""Of the Ray cluster, not of the service."""


def until(holds: Callable[[], Any]) -> Any:
    """What ``holds`` gives as soon as it is true."""
    give_up_at = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < give_up_at
        time.sleep(0.2)
    return found


def jobs(url: str) -> httpx.Response:
    """The cluster's jobs."""
    return httpx.get(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5, verify=False)


@pytest.fixture
def jobs_url(free_ports: Callable[[int], list[int]]) -> Iterator[str]:
    """The Jobs API of a Ray head that ends with the test."""
    if importlib.util.find_spec("aiohttp_cors") is None:
        pytest.skip("needs ray[default], whose dashboard has the Jobs API")
    gcs, dashboard, agent = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="tnj", ignore_cleanup_errors=True) as folder:
        paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        head = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={gcs}",
                "--node-ip-address=127.0.0.1", "--include-dashboard=true", f"--dashboard-port={dashboard}",
                f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", f"--temp-dir={folder}",
                "--object-store-memory=100000000", "--disable-usage-stats",
            ],
            env={**os.environ, "PATH": paths, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        url = f"http://127.0.0.1:{dashboard}"

        def answers() -> bool:
            assert head.poll() is None
            try:
                return jobs(url).status_code == 200
            except httpx.TransportError:
                return False

        try:
            until(answers)
            yield url
        finally:
            head.terminate()
            head.wait(60)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_runs_as_a_job_and_is_stopped(serve: Callable[..., Any], jobs_url: str) -> None:
    server = serve("--ray-jobs-url", jobs_url, RAY_AUTH_TOKEN=TOKEN)
    with server.client() as client:
        started = client.post("/api/v1/sweeps", json=SMALL)
        assert started.status_code == 201, started.text + server.log()
        path = f"/api/v1/sweeps/{started.json()['id']}"
        (job,) = jobs(jobs_url).json()
        assert job["entrypoint"].startswith("tuner sweep --definition")
        until(lambda: client.get(path).json()["trials"] >= 1)
        client.delete(path)
        until(lambda: client.get(path).json()["state"] == "INTERRUPTED")


def test_a_cluster_that_is_not_there_is_a_bad_gateway(
    serve: Callable[..., Any], free_ports: Callable[[int], list[int]]
) -> None:
    (nobody,) = free_ports(1)
    server = serve("--ray-jobs-url", f"http://127.0.0.1:{nobody}")
    with server.client() as client:
        refused = client.post("/api/v1/sweeps", json=SMALL)
    assert (refused.status_code, refused.headers["content-type"]) == (502, "application/problem+json")
    assert str(nobody) not in refused.text
    assert "refused" in server.log()
