"""The anchor is looked at seldom, and smoothed."""

import types

import pytest

from workers.judge.timing import drift_reference as anchor
from workers.judge.timing.drift_reference import DriftReference


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(anchor, "time", found)
    return found


def device(*looks_us):
    left = list(looks_us)
    return types.SimpleNamespace(drift_reference_us=lambda: left.pop(0), left=left)


def test_a_look_holds_for_a_while(clock):
    gpu = device(400.0, 500.0)
    watched = DriftReference(gpu)
    assert watched.conditions() == {"anchor_us": 400.0}
    clock.now = anchor.EVERY_S / 2
    assert watched.conditions() == {"anchor_us": 400.0}
    assert gpu.left == [500.0]
    clock.now = anchor.EVERY_S
    assert watched.conditions() == {"anchor_us": 450.0}


def test_one_odd_look_does_not_count(clock):
    watched = DriftReference(device(400.0, 401.0, 900.0, 402.0, 403.0, 404.0, 405.0))
    for number in range(7):
        clock.now = number * anchor.EVERY_S
        found = watched.conditions()
    assert found == {"anchor_us": 404.0}


def test_device_without_an_anchor_says_nothing(clock):
    assert DriftReference(device(None)).conditions() == {}
