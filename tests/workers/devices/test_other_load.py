"""What others use of our cores is told: not our own use, not other cores, not niced work."""

import os
import time

import pytest

from workers.devices import other_load

LINE = "{name} {user} {nice} 0 {idle} 0 0 0 0 0 0\n"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Writes /proc/stat, as often as it is called: seconds of user and of niced work on each core."""
    monkeypatch.setattr(other_load, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    clock = {"now": 100.0, "own": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(time, "process_time", lambda: clock["own"])
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    ticks = os.sysconf("SC_CLK_TCK")

    def write(now, own=0.0, niced=0.0, **cores):
        clock.update(now=now, own=own)
        lines = [LINE.format(name=n, user=int(s * ticks), nice=int(niced * ticks), idle=0) for n, s in cores.items()]
        (tmp_path / "stat").write_text(LINE.format(name="cpu", user=9999, nice=0, idle=0) + "".join(lines))

    return write


def test_others_on_our_cores_count_and_nothing_else(kernel):
    kernel(100.0, cpu0=10, cpu1=10, cpu2=10)
    seen = other_load.OtherLoad().watch()
    kernel(110.0, own=4.0, niced=8.0, cpu0=20, cpu1=20, cpu2=15)
    assert seen() == {"other_cores": 1.1, "cores": 2}


def test_process_that_was_narrowed_meanwhile_is_watched_on_the_same_cores(kernel, monkeypatch):
    """A candidate that chose a core gave "up to 49477.8 cores": all seconds since the start of those that it left."""
    kernel(100.0, cpu0=10, cpu2=5000)
    load = other_load.OtherLoad()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    kernel(105.0, cpu0=10, cpu2=5000)
    seen = load.watch()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    kernel(110.0, cpu0=15, cpu2=5000)
    assert seen() == {"other_cores": pytest.approx(1.0, abs=0.01), "cores": 2}


def test_short_measurement_is_seen_over_half_a_second(kernel):
    load = other_load.OtherLoad()
    kernel(100.0, cpu0=0, cpu2=0)
    load.watch()
    kernel(100.95, cpu0=0.95, cpu2=0)
    seen = load.watch()
    kernel(101.0, cpu0=1.0, cpu2=0)
    assert seen()["other_cores"] == pytest.approx(0.98)


def test_first_measurement_is_seen_though_it_is_short(kernel):
    """Would catch a reading of its beginning that is used again for its end."""
    kernel(100.0, cpu0=0, cpu2=0)
    load = other_load.OtherLoad()
    kernel(101.0, cpu0=1.0, cpu2=0)
    seen = load.watch()
    kernel(101.01, cpu0=1.01, cpu2=0)
    assert seen()["other_cores"] == pytest.approx(0.98)


def test_own_time_is_not_taken_off_others_where_we_are_niced(kernel, monkeypatch):
    """Workers of a Ray cluster are: their time is among the niced work that does not count."""
    monkeypatch.setattr(os, "getpriority", lambda *_: 15)
    kernel(100.0, cpu0=10, cpu2=10)
    seen = other_load.OtherLoad().watch()
    kernel(110.0, own=4.0, niced=4.0, cpu0=20, cpu2=10)
    assert seen()["other_cores"] == pytest.approx(1.0)


def test_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(other_load, "_STAT", tmp_path / "none")
    assert other_load.OtherLoad().watch()() == {}
