"""One process at a time measures on a device, and who waits is told for whom."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from workers.devices import device_lock
from workers.devices.device_lock import DeviceLock

HOLDER = """
import sys
from pathlib import Path
from workers.devices import device_lock
device_lock.FOLDER = Path(sys.argv[1])
with device_lock.DeviceLock("cpu", "tuner on gemm").held():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(device_lock, "FOLDER", tmp_path / "devices")
    monkeypatch.setattr(device_lock, "_PATIENCE_S", 0.0)
    return tmp_path / "devices"


@pytest.fixture
def holder(folder):
    """Another process that has the device."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def in_thread(lock, done):
    def work():
        with lock.held():
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_second_process_waits_and_says_for_whom_until_the_first_ends(holder, end):
    lock, done = DeviceLock("cpu", "tuner on moe"), threading.Event()
    thread = in_thread(lock, done)
    while lock.waiting_for() is None:
        assert not done.is_set(), "two have the device"
    assert lock.waiting_for().startswith(f"cpu is in use by process {holder.pid} of ")
    assert lock.waiting_for().endswith("(tuner on gemm)")
    if end == "leaves":
        holder.stdin.write("\n")
        holder.stdin.flush()
    else:
        holder.kill()
    thread.join(30)
    assert done.is_set()
    assert lock.waiting_for() is None


def test_other_device_is_not_waited_for(holder):
    with DeviceLock("GPU-1234", "tuner on moe").held():
        pass


def test_those_who_wait_come_before_whoever_had_it_last():
    first, second, order = DeviceLock("cpu", "first"), DeviceLock("cpu", "second"), []
    started, go_on = threading.Event(), threading.Event()

    def greedy():
        for _ in range(2):
            with first.held():
                started.set()
                order.append("first")
                go_on.wait(30)

    def patient():
        started.wait(30)
        with second.held():
            order.append("second")

    threads = [threading.Thread(target=work) for work in (greedy, patient)]
    for thread in threads:
        thread.start()
    while second.waiting_for() is None:
        pass
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "second", "first"]


def test_files_are_for_all_users_whatever_the_umask(folder):
    old = os.umask(0o077)
    try:
        DeviceLock("cpu", "tuner")
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666}


def test_link_that_somebody_has_put_there_is_not_followed(folder, tmp_path, capfd):
    folder.mkdir()
    (tmp_path / "precious").write_text("data")
    (folder / "cpu.lock").symlink_to(tmp_path / "precious")
    with DeviceLock("cpu", "tuner").held():
        pass
    assert (tmp_path / "precious").read_text() == "data"
    assert "not waited for" in capfd.readouterr().out
