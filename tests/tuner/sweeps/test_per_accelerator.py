"""One command on a cluster of two kinds of machine: a sweep with records of its own on each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from db.store import Store
from tuner.errors import UsageError
from tuner.settings import SweepSettings
from tuner.sweeps.per_accelerator import KindResult, _agreeing, exit_code, target_for

ROOT = Path(__file__).parents[3]

TWO_KINDS = """
import subprocess, sys
from ray.cluster_utils import Cluster

small = {"object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
for kind in ("older", "newer"):
    cluster.add_node(num_cpus=0, resources={"tuner_evaluator": 1, f"accelerator_type:{kind}": 1}, **small)
words = [sys.executable, "-m", "tuner", "sweep", *sys.argv[1:], "--ray-address", cluster.address]
code = subprocess.run(words).returncode
cluster.shutdown()
sys.exit(code)
"""


def test_the_target_is_the_one_given_or_the_accelerators_own():
    assert target_for(SweepSettings(), "B200") == "sm_100a"
    assert target_for(SweepSettings(target="cpu"), "older") == "cpu"
    with pytest.raises(UsageError, match="'older' has no target of its own"):
        target_for(SweepSettings(), "older")


def test_the_first_failure_is_the_exit_code():
    assert exit_code([KindResult("a", 0, ""), KindResult("b", 0, "")]) == 0
    assert exit_code([KindResult("a", 0, ""), KindResult("b", 3, ""), KindResult("c", 4, "")]) == 3


def test_a_sweep_of_a_kind_is_told_of_its_database_by_what_its_user_would_repeat(monkeypatch):
    """Would catch a database that was a flag and became a variable: the command to go on with did not name it."""
    monkeypatch.setenv("TUNER_DB_URL", "sqlite:///a.db")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("TUNER_CACHE_DIR", raising=False)
    env = _agreeing({"db": "sqlite:///b.db", "ray_address": "10.0.0.1:6379", "cache_dir": "/cache"})
    assert "TUNER_DB_URL" not in env
    assert env["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert "TUNER_CACHE_DIR" not in env


@pytest.mark.ray
@pytest.mark.slow
def test_a_mixed_cluster_gets_a_sweep_of_its_own_for_each_kind(tmp_path):
    db = f"sqlite:///{tmp_path / 'kinds.db'}"
    words = [
        "--accelerators", "older,newer", "--target", "cpu", "--space", str(ROOT / "examples" / "rmsnorm"),
        "--max-trials", "2", "--db", db, "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TUNER_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", TWO_KINDS, *words], env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert [s["accelerator"] for s in document["sweeps"]] == ["older", "newer"]
    store = Store.open(db)
    try:
        sweeps = {tuple(store.sweeps.get(s["sweep_id"]).settings["accelerators"]): s for s in document["sweeps"]}
        assert set(sweeps) == {("older",), ("newer",)}
        for sweep in sweeps.values():
            assert store.sweeps.get(sweep["sweep_id"]).state == "DONE"
            assert len(store.trials.of(sweep["sweep_id"])) == sweep["trials"] > 0
            assert sweep["export"]["verification"]
    finally:
        store.close()
    assert "older: sweep " in done.stderr
    assert "newer: sweep " in done.stderr
