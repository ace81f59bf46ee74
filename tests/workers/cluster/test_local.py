"""Where a local cluster's files are and whose they are, and what the place must have for it."""

import os
import subprocess
import sys

import pytest

from workers.cluster import local
from workers.errors import ClusterError


@pytest.fixture(autouse=True)
def _root(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "TEMP_ROOT", tmp_path)


HOLD = """\
import sys
from pathlib import Path
from workers.cluster import local
local.TEMP_ROOT = Path(sys.argv[1])
print(local.Folder().path, flush=True)
sys.stdin.read()
"""


def test_a_folder_lives_as_long_as_whoever_holds_it_whatever_its_process_is_called(tmp_path):
    """A process id says nothing to another container: the lock does."""
    unshared = ["unshare", "--pid", "--fork", "--kill-child"]
    alone = unshared if subprocess.run([*unshared, "true"], capture_output=True).returncode == 0 else []
    holder = subprocess.Popen(
        [*alone, sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    held = holder.stdout.readline().strip()
    own = local.Folder()
    assert sorted(map(str, tmp_path.iterdir())) == sorted([held, str(own.path)])
    holder.kill()
    holder.communicate()  # until the process in the namespace has ended too
    (tmp_path / "other").mkdir()
    second = local.Folder()
    assert {p.name for p in tmp_path.iterdir()} == {own.path.name, second.path.name, "other"}
    own.close()
    second.close()
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_no_place_for_files_is_one_line_that_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "TEMP_ROOT", tmp_path / "absent")
    with pytest.raises(ClusterError, match=r"no folder can be made in .*absent: No such file or directory; .*TMPDIR"):
        local.Folder()


def test_sockets_of_ray_fit_into_its_path():
    longest = f"/tmp/{local._PREFIX}{'x' * 8}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    assert len(longest) < 107


def test_variables_of_a_cluster_are_put_back(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    before = dict(os.environ)
    with local.environment():
        assert "RAY_ADDRESS" not in os.environ
        assert os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert os.environ["PYTHONUTF8"] == "1"
    assert dict(os.environ) == before


@pytest.mark.parametrize("home", [None, "/proc", "/nowhere"])
def test_who_has_no_home_gets_one_for_the_processes_of_a_cluster(monkeypatch, home):
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    with local.environment():
        assert os.access(os.environ["HOME"], os.W_OK)
        assert os.environ["USER"] == f"uid{os.getuid()}"


@pytest.mark.parametrize(("size", "elsewhere"), [("32m", True), ("256m", False)])
def test_small_shared_memory_is_not_used(tmp_path, monkeypatch, size, elsewhere):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small /dev/shm is a tmpfs, which only root may mount")
    try:
        monkeypatch.setattr(local, "SHARED_MEMORY", tmp_path)
        assert (local.options(tmp_path).get("_plasma_directory") == str(tmp_path)) is elsewhere
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_no_shared_memory_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "SHARED_MEMORY", tmp_path / "absent")
    assert local.options(tmp_path)["_plasma_directory"] == str(tmp_path)


@pytest.mark.parametrize(("prepare", "works"), [("ip link set lo up", True), ("true", False)])
def test_a_network_of_loopback_alone_will_do_and_none_at_all_is_one_line(prepare, works):
    look = "from workers.cluster import local; local.check_loopback(); print('fine')"
    alone = ["unshare", "--net", "sh", "-c", f'{prepare} && exec "$0" -c "$1"', sys.executable, look]
    if subprocess.run([*alone[:2], "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("a network namespace needs root and ip")
    found = subprocess.run(alone, capture_output=True, text=True)
    if works:
        assert found.stdout == "fine\n", found.stderr
    else:
        assert "ClusterError: this machine has no loopback network" in found.stderr
        assert "RAY_ADDRESS" in found.stderr
