"""Whole runs of ours and of stock flashinfer-bench: what is extrapolated, and which verdicts are compared."""

from types import SimpleNamespace

import pytest

from benchmarks.gpu_sweep.whole_run import SAMPLE, _compared, _sample


def test_a_constant_is_not_charged_for_each_variant():
    """Stock measures the reference once for each workload; a call of two Solutions is no two thirds of one of three."""
    rows = [{"solution": s, "workload": "w", "status": "PASSED"} for s in ("a", "b", "c", "d")]
    calls = [{"wall_s": 30.0, "variants": 1}, {"wall_s": 50.0, "variants": 3}]
    result = {"stock": {"calls": calls, "rows": rows}, "ours": {"variants": list("abcdefgh"), "total_s": 10.0}}
    said = {"a": "PASSED", "b": "INCORRECT_NUMERICAL", "c": "PASSED", "e": "RUNTIME_ERROR"}
    found = _compared(result, [{"variant": v, "workload": "w", "status": s} for v, s in said.items()])
    assert (found["stock_each_s"], found["stock_constant_s"]) == (10.0, 20.0)
    assert found["stock_s_extrapolated"] == 100.0
    assert found["vs_stock_whole_run"] == 10.0
    assert (found["verdicts"], found["verdicts_differ"], found["not_judged_by_ours"]) == (4, 1, 1)


@pytest.mark.parametrize("good", [8, 21, 57])
def test_the_sample_is_spread_and_holds_every_planted_fault(good):
    wanted = [SimpleNamespace(key=f"v{i}") for i in range(good)]
    planted = [SimpleNamespace(key=f"planted_{i}") for i in range(3)]
    chosen = _sample([*wanted, *planted])
    assert len({v.key for v in chosen}) == len(chosen) == SAMPLE
    assert chosen[-3:] == planted
    assert chosen[0] is wanted[0]
    assert wanted.index(chosen[-4]) >= good * 3 // 5
