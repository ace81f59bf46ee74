"""The machine's rates: against arithmetic that this process does itself, with room for whatever else runs here."""

import time

import torch

from workers.devices.cpu import last_level_cache_bytes
from workers.devices.host_rates import measure


def test_rates_are_those_of_this_machine():
    """Catches a unit that is off by a thousand, or bytes that are counted once: bounds are far, but not that far."""
    rates = measure(last_level_cache_bytes())
    side = 512
    a = torch.ones(side, side)
    began = time.perf_counter()
    for _ in range(20):
        torch.mm(a, a)
    own = 20 * 2 * side**3 / ((time.perf_counter() - began) * 1e6)
    assert own / 4 < rates["multiply_add_flop_per_us"] < own * 100
    assert 200 < rates["copy_bytes_per_us"] < 2e6, "between 0.2 GB/s and 2 TB/s"
