"""The scale benchmark runs the product's own loop: what is renamed there must be renamed here."""

import math

from benchmarks.scale.run import run


def test_a_short_sweep_is_measured(tmp_path):
    cost = run(f"sqlite:///{tmp_path}/results.db", 24, "random", evaluators=4, race_factor=math.inf)
    assert cost.trials == 24
    assert 0 < cost.search_cpu_ms < cost.cpu_ms
