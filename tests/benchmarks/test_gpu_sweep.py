"""The campaign's own logic: plans, what agrees with stock flashinfer-bench, the published page, the planted faults."""

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest

import search_spaces.dataset
from benchmarks.gpu_sweep import agreement, faults, publish
from benchmarks.gpu_sweep.campaign import Call, Campaign, parse
from benchmarks.gpu_sweep.context import Context
from benchmarks.gpu_sweep.utilisation import mean
from workers.fib.dataset import Dataset
from workers.records import Status


def ours(variant: str, low: float, median: float, high: float, status: str = "PASSED", workload: str = "w") -> dict:
    return {
        "variant": variant,
        "workload": workload,
        "status": status,
        "median_us": median,
        "low_us": low,
        "high_us": high,
    }


def theirs(solution: str, latency: float | None, status: str = "PASSED", workload: str = "w") -> dict:
    return {"solution": solution, "workload": workload, "status": status, "latency_us": latency}


def test_a_plan_has_steps_of_lanes_of_calls():
    plan = parse("setup:60 ; first:200 table:50 | second:210", ["setup", "first", "second", "table"])
    assert plan == [
        [[Call("setup", 60)]],
        [[Call("first", 200), Call("table", 50)], [Call("second", 210)]],
    ]


@pytest.mark.parametrize("plan", ["setup", "setup:soon", "dance:10"])
def test_a_plan_with_a_bad_part_is_refused_by_name(plan):
    with pytest.raises(ValueError, match=plan):
        parse(plan, ["setup"])


def test_verdicts_differ_only_where_one_passes_and_the_other_does_not():
    mine = [ours("good", 1, 2, 3), ours("bad", 0, 0, 0, "NOT_REPEATABLE"), ours("odd", 1, 2, 3), ours("alone", 1, 2, 3)]
    stock = [theirs("good", 2), theirs("bad", None, "INCORRECT_NUMERICAL"), theirs("odd", None, "RUNTIME_ERROR")]
    found = agreement.verdicts(mine, stock)
    assert found.compared == 3
    assert found.different == [("odd", "w", "PASSED", "RUNTIME_ERROR")]


def test_order_counts_only_pairs_that_our_intervals_tell_apart():
    mine = [ours("a", 9, 10, 11), ours("b", 10, 11, 12), ours("c", 20, 21, 22)]
    # b before a is no contradiction, their intervals overlap; c before a is one.
    (found,) = agreement.orders(mine, [theirs("a", 30), theirs("b", 24), theirs("c", 25)])
    assert (found.pairs, found.swapped) == (2, (("a", "c"),))
    assert found.worst == pytest.approx(30 / 25 - 1)
    assert found.same_best


def test_a_swapped_pair_is_followed_through_further_runs():
    mine = [ours("a", 9, 10, 11), ours("b", 12, 13, 14), ours("c", 20, 21, 22)]
    found = agreement.orders(mine, [theirs("a", 30), theirs("b", 25), theirs("c", 26)])
    assert found[0].swapped == (("a", "b"), ("a", "c"))
    runs = [[theirs("a", 20), theirs("b", 21), theirs("c", 19)], [theirs("a", 22), theirs("b", 21), theirs("c", 19)]]
    assert agreement.held(found, runs) == [1, 2]
    assert agreement.held(found, [[theirs("a", 20), theirs("b", 21)]]) == [0]


def test_order_looks_at_the_fastest_five():
    mine = [ours(str(i), 10 * i, 10 * i + 1, 10 * i + 2) for i in range(1, 8)]
    stock = [theirs(str(i), 100 if i < 6 else 1) for i in range(1, 8)]
    (found,) = agreement.orders(mine, stock)
    assert found.pairs == 10
    assert not found.same_best


def test_utilisation_is_of_one_gpu_in_a_window():
    rows = [(1.0, 0, 100), (2.0, 0, 50), (2.0, 1, 0), (9.0, 0, 0)]
    assert mean(rows, 0, 0.5, 3.0) == pytest.approx(0.75)
    assert mean(rows, 2, 0.5, 3.0) is None


def test_faults_are_spread_over_all_kinds_and_hang_seldom():
    chosen = faults.chosen(50)
    kinds = Counter(kind for kind, _ in chosen)
    assert len(chosen) == 50
    assert set(kinds) == set(faults.EXPECTED)
    assert all(kinds[kind] == 2 for kind, status in faults.EXPECTED.items() if status is Status.TIMEOUT)
    assert {at for _, at in chosen} == {1, 3}
    assert faults.expected("nan", 1) is Status.INCORRECT_NUMERICAL
    assert faults.expected("nan", 3) is Status.NOT_REPEATABLE


@pytest.fixture
def campaign() -> dict:
    measured = {"median_us": 20.0, "low_us": 19.0, "high_us": 21.0, "samples": 36}
    solution = {"status": "PASSED", "message": "", "workloads": {"w": measured}}
    return {
        "target": "sm_90a", "definition": "d", "sizes": {"w": 16}, "began": 0.0,
        "stages": [{"stage": "first", "ended": "done"}],
        "setup": {"gpus": "NVIDIA H200\n", "python": "3.12.1", "versions": {"torch": "2.11", "deep_gemm": None}},
        "first": {
            "hardware": "NVIDIA H200", "seed": 0, "wall_s": 100.0,
            "export": {"verification": {"w": {"status": "PASSED", "median_us": 20.0, "flashinfer_bench_us": 26.0}}},
            "records": {"states": {"PASSED": 9}, "evaluations": 30, "build_s": {"count": 9, "sum": 50.0},
                        "summary": {"evaluator": {"all": {"gpu_busy_share": 0.83}}}},
        },
        "table": {
            "hardware": "NVIDIA H200", "solutions": {"tuned_first": solution, "tuned_second": solution},
            "ratio_to_first": {"tuned_second": {"ratio": 0.996}},
        },
        "throughput": {"per_minute": 900.0, "evaluations": 450, "evaluate_s": 30.0, "build_s": 9.0, "warm_s": 8.0,
                       "total_s": 60.0, "measurements": [ours("a", 9, 10, 11), ours("b", 12, 13, 14)]},
        "stock": {"per_minute": 60.0, "evaluations": 2, "calls": [{"wall_s": 2.0}],
                  "rows": [theirs("a", 15.0), theirs("b", 18.0)]},
        "scaling": {"speedup": 1.95, "one": {"per_minute": 900.0, "evaluations": 1, "evaluate_s": 1.0},
                    "two": {"per_minute": 1755.0, "evaluations": 2, "evaluate_s": 1.0}},
        "faults": {"variants": 200, "planted": 50, "good": 149, "good_with_all_records": 149, "good_blamed": [],
                   "rejected_at_build": 1, "planted_named": 49,
                   "planted_otherwise": [{"key": "p", "status": "CRASHED", "expected": "TIMEOUT"}],
                   "kinds": ["trap"], "evaluate_s": 90.0},
    }  # fmt: skip


def test_headline_figures(campaign):
    figures = publish.headline([campaign])
    assert figures["details"]["date"] == "1970-01-01"  # of the measurement, not of the page
    assert {k: v for k, v in figures.items() if k != "details"} == {
        "throughput_vs_flashinfer_bench": 15.0,
        "gpu_busy_share": 0.83,
        "two_gpu_speedup": 1.95,
        "workloads_passed": 1,
        "winner_repeat_difference": 0.004,
    }


def test_what_was_not_measured_is_null_and_says_so(campaign):
    del campaign["stock"], campaign["scaling"]
    campaign["faults"] = {"error": "out of time"}
    figures = publish.headline([campaign])
    assert figures["throughput_vs_flashinfer_bench"] is None
    assert figures["two_gpu_speedup"] is None
    page = "\n".join(publish.markdown([campaign], figures))
    assert page.count("not measured") == 5  # rate, verdicts, order, two GPUs, faults


def test_a_later_campaign_fills_gaps_and_failures_do_not_replace_results(campaign):
    later = {**campaign, "first": {"error": "x"}, "scaling": {"speedup": 1.8, "one": {}, "two": {}}}
    assert publish.section([campaign, later], "first") == campaign["first"]
    assert publish.headline([campaign, later])["two_gpu_speedup"] == 1.8


def test_throughput_is_compared_within_one_campaign(campaign):
    other = {k: v for k, v in campaign.items() if k != "stock"}
    other["throughput"] = {**campaign["throughput"], "per_minute": 99999.0}
    assert publish.headline([campaign, other])["throughput_vs_flashinfer_bench"] == 15.0


def test_publish_writes_both_files(campaign, tmp_path):
    source, page, figures = tmp_path / "results.json", tmp_path / "page.md", tmp_path / "figures.json"
    source.write_text(json.dumps(campaign))
    assert publish.main(argparse.Namespace(results=[source], markdown=page, json=figures)) == 0
    assert json.loads(figures.read_text())["gpu_busy_share"] == 0.83
    text = page.read_text()
    assert "| 16 | 163.9 | 20.0 | 20.0 | 26.0 |" in text
    assert "149 of 149 good ones with all records, 0 blamed; 49 of 50 faults named rightly" in text
    assert "0 of 2 verdicts differ" in text


def test_a_plan_run_in_parts_keeps_one_log(tmp_path):
    dataset = Path(search_spaces.dataset.PATH)
    name = next(name for name, d in Dataset(dataset).definitions.items() if d["op_type"] == "moe")
    context = Context("cpu", dataset, name, tmp_path / "work", 1, 1, 1, 1.0, 60.0)
    context.work.mkdir()
    Campaign(context, [], tmp_path / "first")._note({"stage": "setup", "ended": "done"})
    Campaign(context, [], tmp_path / "second").run([])
    assert json.loads((tmp_path / "second" / "results.json").read_text())["stages"] == [
        {"stage": "setup", "ended": "done"}
    ]
