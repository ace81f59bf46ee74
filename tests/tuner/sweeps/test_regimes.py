"""Workloads fall into size ranges; each range starts with its representative."""

import pytest

from tuner.errors import UsageError
from tuner.sweeps.regimes import split


def test_public_moe_sizes_fall_into_the_five_default_ranges():
    sizes = {f"u{s}": s for s in (1, 7, 14, 15, 16, 32, 52, 53, 80, 901, 11948, 14107)}
    regimes = split(sizes)
    bounds = [("0-8", 8), ("9-32", 32), ("33-128", 128), ("513-2048", 2048), ("2049+", None)]
    assert [(r.name, r.bound) for r in regimes] == bounds
    assert sorted(u for r in regimes for u in r.workloads) == sorted(sizes)
    assert regimes[1].workloads[0] == "u15"


def test_last_regime_with_workloads_has_no_bound():
    regimes = split({"a": 1, "b": 100})
    assert [r.bound for r in regimes] == [8, None]
    assert regimes[-1].name == "33-128"


def test_a_definition_without_size_axis_is_one_regime():
    (regime,) = split({"a": None, "b": None})
    assert (regime.name, regime.bound, regime.low) == ("all", None, None)


def test_zero_tokens_belong_to_the_first_regime():
    assert split({"none": 0, "one": 1})[0].workloads == ("none", "one")


@pytest.mark.parametrize("bounds", [(16, 16), (256, 16), (0, 5)])
def test_bounds_must_rise(bounds):
    with pytest.raises(UsageError, match=r"rising positive sizes.*got"):
        split({"a": 1}, bounds)


def test_no_workload_is_one_clear_line():
    with pytest.raises(UsageError, match="no workload to tune for"):
        split({})
