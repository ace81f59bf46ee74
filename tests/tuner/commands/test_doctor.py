"""What doctor sees of a place that lacks something; the real command, in a namespace where one is needed."""

import json
import os
import subprocess
import sys

import pytest


def doctor(*before, **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    env = {k: v for k, v in {**clean, **variables}.items() if v is not None}
    command = [*before, sys.executable, "-m", "tuner", "doctor", "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, {c["name"]: c for c in json.loads(done.stdout)["checks"]}


@pytest.fixture(name="places")
def _places(tmp_path):
    return {"TUNER_DB_URL": f"sqlite:///{tmp_path}/t.db", "TUNER_CACHE_DIR": str(tmp_path / "cache")}


def test_a_good_place_is_good(places):
    code, checks = doctor(**places)
    needed = [c for c in checks.values() if c["needed"] and not c["ok"]]
    assert (code, needed) == (0, [])
    assert {"home folder", "cpus", "loopback network", "shared memory", "c++ compiler", "nvcc", "ninja"} <= set(checks)


def test_a_database_that_is_not_there_is_not_made(places, tmp_path):
    code, checks = doctor(**places)
    assert (code, checks["database"]["ok"]) == (0, True)
    assert checks["database"]["message"] == f"there is no database at {tmp_path}/t.db; a sweep creates it"
    assert not (tmp_path / "t.db").exists()


def test_no_compiler_is_named_and_needed_by_some_kernels_only(places, tmp_path):
    code, checks = doctor(**places, PATH=str(tmp_path), CXX=None, CUDACXX=None, CUDA_HOME=None)
    assert code == 0
    for name, command in (("c++ compiler", "c++, g++, clang++"), ("nvcc", "nvcc"), ("ninja", "ninja")):
        assert not checks[name]["ok"]
        assert f"none of {command} is in PATH" in checks[name]["message"]


def test_everything_that_is_missing_is_said_at_once(tmp_path):
    unshare = ["unshare", "--user", "--map-user=54321", "--map-group=54321", "--net"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("a user and a network namespace cannot be made here")
    code, checks = doctor(*unshare, HOME=None, http_proxy="http://user:secret@proxy:3128")
    assert code == 4
    assert "set TUNER_DB_URL" in checks["database"]["message"]
    assert "set TUNER_CACHE_DIR" in checks["artifact cache"]["message"]
    assert "127.0.0.1 cannot be reached" in checks["loopback network"]["message"]
    assert checks["proxies"]["message"] == "http: proxy:3128; not for loopback"
    assert [n for n in ("database", "artifact cache", "loopback network") if checks[n]["ok"]] == []
