"""How many CPUs a control group leaves, as the files of both versions say it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.devices import environment
from workers.devices.environment import cores, cpu_quota, threads

V2 = "0::/pod/me\n"
V1 = "11:cpu,cpuacct:/pod/me\n4:memory:/pod/me\n"


def quota(tmp_path, own, files):
    root, mine = tmp_path / "cgroup", tmp_path / "own"
    mine.write_text(own)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return cpu_quota(root, mine)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"cpu.max": "max 100000\n"}, None),
        (V2, {"cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"pod/cpu.max": "400000 100000\n", "pod/me/cpu.max": "max 100000\n"}, 4.0),
        (V2, {"pod/cpu.max": "400000 100000\n", "pod/me/cpu.max": "50000 100000\n"}, 0.5),
        (V2, {"other/cpu.max": "50000 100000\n"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu,cpuacct/pod/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"}, 2.0),
        (V2, {"cpu.max": "nonsense"}, None),
        ("", {}, None),
    ],
)
def test_the_lowest_limit_above_a_process_counts(tmp_path, own, files, expected):
    assert quota(tmp_path, own, files) == expected


def test_no_control_groups_at_all_means_no_limit(tmp_path):
    assert cpu_quota(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.parametrize(("limit", "expected"), [(None, 4), (0.5, 1), (1.5, 2), (4.0, 4), (64.0, 4)])
def test_cores_follow_the_quota_and_never_exceed_what_the_process_may_run_on(monkeypatch, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(environment, "cpu_quota", lambda: limit)
    assert cores() == expected


def test_threads_of_libraries_follow_a_quota_unless_they_are_set(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(environment, "cpu_quota", lambda: 2.0)
    assert threads({}) == {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    assert threads({"OMP_NUM_THREADS": "1"}) == {"NUMBA_NUM_THREADS": "2"}
    monkeypatch.setattr(environment, "cpu_quota", lambda: None)
    assert threads({}) == {}


@pytest.fixture(name="half_a_cpu")
def _half_a_cpu():
    """The file that moves a process into a real control group with half a CPU."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"tuner-test-{os.getpid()}"
    if not v1.is_dir() and not (v2 / "cgroup.controllers").exists():
        pytest.skip("no control groups are mounted here")
    try:
        group.mkdir()
        if v1.is_dir():
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"a control group cannot be made here: {error}")
    yield group / "cgroup.procs"
    group.rmdir()


def test_a_real_control_group_is_seen(half_a_cpu):
    look = "from workers.devices.environment import cores, cpu_quota; print(cpu_quota(), cores())"
    command = ["sh", "-c", f'echo $$ > {half_a_cpu} && exec "$0" -c "$1"', sys.executable, look]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "0.5 1\n"
