"""Whole runs of ours and of stock flashinfer-bench: what is extrapolated, and which verdicts are compared."""

from types import SimpleNamespace

import pytest

from benchmarks.gpu_sweep.whole_run import FIRST, MOST, _compared, _sample, in_time

SAID = {"a": "PASSED", "b": "INCORRECT_NUMERICAL", "c": "PASSED", "e": "RUNTIME_ERROR"}
OURS = [{"variant": v, "workload": "w", "status": s} for v, s in SAID.items()]
CALLS = [{"wall_s": 30.0, "variants": 1}, {"wall_s": 50.0, "variants": 3}]


def result(names: str, planted: dict | None = None) -> dict:
    rows = [{"solution": s, "workload": "w", "status": "PASSED"} for s in ("a", "b", "c", "d")]
    keys = [*names, "planted_nan", "planted_exception"] if planted else list(names)
    return {"stock": {"calls": CALLS, "rows": rows, "planted": planted}, "ours": {"variants": keys, "total_s": 10.0}}


def test_a_constant_is_not_charged_for_each_variant():
    """Stock measures the reference once for each workload; a call of two Solutions is no two thirds of one of three."""
    found = _compared(result("abcdefgh"), OURS)
    assert (found["stock_each_s"], found["stock_constant_s"]) == (10.0, 20.0)
    assert found["stock_s_extrapolated"] == 100.0
    assert found["vs_stock_whole_run"] == 10.0
    assert (found["verdicts"], found["verdicts_differ"], found["not_judged_by_ours"]) == (4, 1, 1)


@pytest.mark.parametrize(("returncode", "all_s"), [(0, 104.0), (None, 100.0)])
def test_wrong_solutions_count_what_they_took(returncode, all_s):
    """They are not timed, so in one call with the others they made a sixth of 60 look like three eighths."""
    found = _compared(result("abcdefgh", {"wall_s": 24.0, "returncode": returncode}), OURS)
    assert found["stock_s_extrapolated"] == all_s
    assert found["variants"] == 10


@pytest.mark.parametrize("good", [4, 8, 21, 57])
def test_the_sample_is_spread_over_what_was_built(good):
    wanted = [SimpleNamespace(key=f"v{i}") for i in range(good)]
    planted = [SimpleNamespace(key=f"planted_{i}") for i in range(3)]
    built = [v.key for v in wanted[1:]] + [v.key for v in planted]
    chosen, wrong = _sample([*wanted, *planted], built)
    assert len({v.key for v in chosen}) == len(chosen) == min(FIRST + MOST, good - 1)
    assert wrong == planted
    assert chosen[0] is wanted[1]
    assert wanted.index(chosen[-1]) >= good * 3 // 5


def test_the_second_call_ends_in_time_whatever_the_first_went_into():
    """It was begun with 65 s left, and its limit came first: nothing of it was known."""
    assert in_time(first_s=45.0, left_s=185.0, most=20) == MOST
    assert in_time(first_s=45.0, left_s=65.0, most=20) == 2
    assert in_time(first_s=45.0, left_s=185.0, most=5) == 5
