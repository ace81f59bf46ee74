"""Whole sweeps, exports and benches at odd places: each works, or ends in one line that names what to set, exit 4."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from db.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

UNKNOWN = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
MOUNTS = ["unshare", "--mount", "sh", "-c"]
TUNER = 'exec "$0" -m tuner "$@"'


def small_memory(size):
    return [*MOUNTS, f"mount -t tmpfs -o size={size} tmpfs /dev/shm && {TUNER}"]


def read_only(folder):
    return [*MOUNTS, f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && {TUNER}"]


def full(folder):
    """The folder on a disk of its own without a free byte."""
    fill = (
        f"cp -a {folder} {folder}.kept && mount -t tmpfs -o size=1m tmpfs {folder} && cp -a {folder}.kept/. {folder}/"
    )
    return [*MOUNTS, f"{fill}; dd if=/dev/zero of={folder}/filler 2>/dev/null; {TUNER}"]


def in_group_of_one_cpu():
    """In a control group that has the time of one CPU, of either version."""
    v1, v2 = "/sys/fs/cgroup/cpu/tuner_place", "/sys/fs/cgroup/tuner_place"
    first = f"mkdir -p {v1} && echo 100000 > {v1}/cpu.cfs_quota_us && echo $$ > {v1}/cgroup.procs"
    second = f"mkdir -p {v2} && echo '100000 100000' > {v2}/cpu.max && echo $$ > {v2}/cgroup.procs"
    return ["/bin/sh", "-c", f"if [ -d /sys/fs/cgroup/cpu ]; then {first}; else {second}; fi && {TUNER}"]


PLAIN = ["/bin/sh", "-c", TUNER]
NAMED_LIKE_MODULES = (
    "for n in workers random db json numpy ray torch types tuner; do echo 'raise SystemExit(n)' > $n.py; done"
)
PLACES = {
    "a uid without an account or a home": ([*UNKNOWN, *PLAIN], {"HOME": None}, ""),
    "a home that cannot be written": (PLAIN, {"HOME": "/proc"}, ""),
    "no home and no cache": (PLAIN, {"HOME": "/proc", "TUNER_CACHE_DIR": None}, "set TUNER_CACHE_DIR"),
    "no home and no database": (PLAIN, {"HOME": "/proc", "TUNER_DB_URL": None}, "set TUNER_DB_URL"),
    "a cache that cannot be written": (read_only("{tmp}/cache"), {}, "set TUNER_CACHE_DIR"),
    "32 MiB of shared memory": (small_memory("32m"), {}, ""),
    "hardly any shared memory": (small_memory("4k"), {}, ""),
    "loopback alone": (["unshare", "--net", "sh", "-c", f"ip link set lo up && {TUNER}"], {}, ""),
    "not even loopback": (["unshare", "--net", "sh", "-c", TUNER], {}, "no loopback network"),
    "a database that cannot be written": (read_only("{tmp}/data"), {}, "set TUNER_DB_URL"),
    "a full disk for the database": (full("{tmp}/data"), {}, "out of disk space"),
    "fewer CPUs by a control group": (in_group_of_one_cpu(), {}, ""),
    "no compiler": (PLAIN, {"PATH": "/nowhere"}, ""),
    "files named like modules": (["/bin/sh", "-c", f'{NAMED_LIKE_MODULES}; exec "$0" -P -m tuner "$@"'], {}, ""),
    "a locale that is not UTF-8": (PLAIN, {"LC_ALL": "C", "PYTHONUTF8": "0"}, ""),
    "a process namespace of its own": (["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", TUNER], {}, ""),
    "proxies": (PLAIN, dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"), ""),
}


READERS = {
    "status": ["status"],
    "best": ["best", "--definition", "gemm", "--axes", "seq_len=1"],
    "report": ["report", "--out", "page.html"],
    "doctor": ["doctor"],
}


def run(place, tmp_path, *arguments):
    """A command at a place. The database is in ``data``, where a finished sweep may be already."""
    before, changes, _ = PLACES[place]
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "data").mkdir(exist_ok=True)
    tmp_path.chmod(0o777)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    given = {"TUNER_DB_URL": f"sqlite:///{tmp_path}/data/t.db", "TUNER_CACHE_DIR": f"{tmp_path}/cache", **changes}
    command = [part.replace("{tmp}", str(tmp_path)) for part in before]
    shell = next(i for i, word in enumerate(command) if word in ("sh", "/bin/sh"))
    if subprocess.run([*command[:shell], "true"], capture_output=True).returncode:
        pytest.skip("such a namespace cannot be made here")
    done = subprocess.run(
        [*command, sys.executable, *arguments],
        cwd=tmp_path,
        env={k: v for k, v in {**clean, **given}.items() if v is not None},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert [mark for mark in ("Traceback", "\x1b[", "ray::", "*** SIG") if mark in done.stderr] == [], done.stderr
    return done


SWEEP = ["sweep", "--space", "k", "--axes", "M=1", "--max-trials", "1", "--no-export"]
MEASURING = {
    "export": ["export", "--out", "exported"],
    "bench": ["bench", "best", "reference", "--axes", "M=1", "--rounds", "6"],
}


def make_kernel(folder):
    (folder / "k").mkdir()
    (folder / "k" / "main.py").write_text("def run(A, B):\n    return (A.float() @ B.float().T).to(A.dtype)\n")
    (folder / "k" / "space.yaml").write_text(
        "op_type: gemm\ntargets: [cpu]\nentry_point: main.py::run\ndestination_passing: false\n"
        "parameters: {repeats: {values: [1, 2]}}\ndefault: {repeats: 1}\n"
    )


def check_end(done, said):
    assert done.returncode == (4 if said else 0), done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert not list(Path("/tmp").glob("new_tnr_*"))


@pytest.mark.parametrize("place", PLACES)
def test_a_sweep_works_or_says_in_one_line_what_to_set(place, tmp_path):
    make_kernel(tmp_path)
    check_end(run(place, tmp_path, *SWEEP), PLACES[place][2])


@pytest.fixture(name="swept", scope="module")
def _swept(tmp_path_factory):
    """A folder with a kernel and the database of a finished sweep of it."""
    folder = tmp_path_factory.mktemp("swept")
    make_kernel(folder)
    PLACES["nothing odd"] = (PLAIN, {}, "")
    assert run("nothing odd", folder, *SWEEP).returncode == 0
    del PLACES["nothing odd"]
    return folder


@pytest.mark.parametrize("command", MEASURING)
@pytest.mark.parametrize("place", PLACES)
def test_what_measures_again_works_or_says_in_one_line_what_to_set(place, command, tmp_path, swept):
    shutil.copytree(swept / "data", tmp_path / "data")
    said = PLACES[place][2]
    done = run(place, tmp_path, *MEASURING[command])
    check_end(done, said)
    if not said:
        assert "PASSED" in done.stdout + done.stderr or "faster" in done.stdout or "times as long" in done.stdout


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("place", PLACES)
def test_what_only_reads_works_or_says_in_one_line_what_to_set(place, command, tmp_path, scene):
    """What a reader needs is the database alone: a cache, shared memory and the network are no matter to it."""
    (tmp_path / "data").mkdir()
    with Store.open(f"sqlite:///{tmp_path}/data/t.db") as store:
        scene(store).finished()
    done = run(place, tmp_path, *READERS[command])
    if command != "doctor" and done.returncode == 4:  # doctor says what the sweep would miss, too
        (line,) = done.stderr.splitlines()
        assert line.startswith("tuner: ")
        assert "database" in line
        assert PLACES[place][2] in line
    else:
        assert done.returncode in (0, 4 if command == "doctor" else 0), done.stderr
