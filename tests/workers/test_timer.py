"""The timer stops when it should; the host device measures what it claims to."""

import random
import time

import pytest

from workers.cpu import HostDevice, last_level_cache_bytes
from workers.device import Device
from workers.records import Method
from workers.timer import measure, warm_up


class ScriptedDevice(Device):
    """Gives samples from a list (the last one for ever) and counts what it is asked."""

    name = "cpu"
    modes = ("host",)

    def __init__(self, samples_us):
        self.samples_us = list(samples_us)
        self.flushes = 0
        self.clock = iter((1000, 900))

    def synchronize(self):
        pass

    def prepare(self, run, mode):
        return run

    def flush_cache(self):
        self.flushes += 1

    def time_us(self, run, cold_cache):
        if cold_cache:
            self.flush_cache()
        return self.samples_us.pop(0) if len(self.samples_us) > 1 else self.samples_us[0]

    def conditions(self):
        return {"mhz": next(self.clock), "temperature_c": 40}

    def is_healthy(self):
        return True

    def memory_budget_bytes(self):
        return 0


METHOD = Method(warmup_s=0.0, min_samples=10, max_samples=50, target_rel_ci=0.02, budget_s=60.0)


def nothing():
    pass


def test_steady_samples_stop_at_the_minimum():
    assert len(measure(nothing, METHOD, ScriptedDevice([100.0])).samples_us) == 10


def test_noisy_samples_go_on_to_the_maximum():
    rng = random.Random(1)
    device = ScriptedDevice([rng.lognormvariate(4, 1) for _ in range(60)])
    timing = measure(nothing, METHOD, device)
    assert len(timing.samples_us) == 50
    assert device.flushes == 50
    assert timing.interval.low < timing.interval.median < timing.interval.high


def test_hopeless_candidate_is_left_early():
    rng = random.Random(1)
    noisy = [rng.uniform(100, 300) for _ in range(60)]
    assert len(measure(nothing, METHOD, ScriptedDevice(noisy), stop_above_us=50.0).samples_us) == 10
    assert len(measure(nothing, METHOD, ScriptedDevice(noisy), stop_above_us=1000.0).samples_us) == 50


def test_spent_budget_still_gives_the_minimum():
    timing = measure(nothing, Method(warmup_s=0.0, min_samples=7, budget_s=0.0), ScriptedDevice([1.0, 9.0] * 30))
    assert len(timing.samples_us) == 7


def test_something_is_done_before_each_sample():
    calls = []
    measure(nothing, METHOD, ScriptedDevice([100.0]), before_sample=lambda: calls.append(1))
    assert len(calls) == 10


def test_conditions_before_and_after():
    assert measure(nothing, METHOD, ScriptedDevice([1.0])).conditions == {"mhz": [1000, 900], "temperature_c": 40}


def test_mode_of_another_device_is_refused():
    with pytest.raises(ValueError, match=r"'cuda_graph'; it can in \['host'\]"):
        measure(nothing, Method(mode="cuda_graph"), ScriptedDevice([1.0]))


def test_warm_up_runs_at_least_once():
    calls = []
    warm_up(lambda: calls.append(1), METHOD, ScriptedDevice([1.0]))
    assert len(calls) == 1


def test_host_sample_is_not_shorter_than_the_run():
    def spin():
        end = time.perf_counter_ns() + 2_000_000
        while time.perf_counter_ns() < end:
            pass

    device = HostDevice()
    assert device.time_us(spin, cold_cache=False) >= 2000
    assert device.time_us(spin, cold_cache=True) >= 2000


def test_host_flush_is_larger_than_the_cache_and_touches_all_of_it():
    device = HostDevice()
    buffer = device._flush
    assert buffer.nbytes >= 2 * min(last_level_cache_bytes(), 128 << 20)
    before = int(buffer[0])
    device.flush_cache()
    assert bool((buffer == before + 1).all())
