"""Stock flashinfer-bench as a judge: the staged folder, the command line, the traces it leaves."""

import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from workers.fib import adapter as fib
from workers.fib import official_run as stock
from workers.fib.dataset import Dataset
from workers.fib.official_run import StockEffort, StockJob
from workers.judge.outputs.rules import LOW_BIT, Kind, Rule, for_official_run, rules_for

STAND_IN = Path(__file__).parent / "cuda_stand_in"


@pytest.fixture(scope="module")
def problem(packaged_problem):
    smallest = min(packaged_problem.workloads, key=lambda w: w["axes"]["seq_len"])
    return replace(packaged_problem, workloads=(smallest,))


@pytest.fixture(scope="module")
def packaged_problem():
    from search_spaces.dataset import PATH

    dataset = Dataset(PATH)
    (name,) = [n for n, d in dataset.definitions.items() if d["op_type"] == "moe"]
    return dataset.problem(name)


def reference_solution(problem, name: str, ending: str = "") -> dict:
    """The definition's reference as a Solution; ``ending`` is appended to its source."""
    document = {
        "name": name,
        "definition": problem.name,
        "author": "test",
        "spec": {
            "language": "python", "target_hardware": ["cuda"], "entry_point": "main.py::run", "dependencies": [],
            "destination_passing_style": False,
        },
        "sources": [{"path": "main.py", "content": problem.definition["reference"] + ending}],
    }  # fmt: skip
    return json.loads(fib.solution_model(document).model_dump_json(exclude_none=True))


def test_a_staged_folder_is_a_dataset_with_its_blobs(problem, tmp_path):
    stock.stage(problem, [reference_solution(problem, "ref")], tmp_path)
    staged = Dataset(tmp_path)
    assert staged.problem(problem.name).workloads == problem.workloads
    assert list(staged.solutions()) == ["ref"]
    for spec in problem.workloads[0]["inputs"].values():
        if spec["type"] == "safetensors":
            assert (tmp_path / spec["path"]).read_bytes() == (Path(problem.root) / spec["path"]).read_bytes()


def test_a_file_that_two_workloads_write_in_two_ways_is_staged_once(problem, tmp_path):
    """``x.safetensors`` and ``./x.safetensors``: the second link ended an export at its last step."""
    (workload,) = problem.workloads
    other = {name: {**s, "path": f"./{s['path']}"} if "path" in s else s for name, s in workload["inputs"].items()}
    assert other != workload["inputs"]
    twice = replace(problem, workloads=(workload, {**workload, "uuid": "again", "inputs": other}))
    stock.stage(twice, [], tmp_path)
    assert all((tmp_path / spec["path"]).is_file() for spec in other.values() if "path" in spec)


def test_the_command_names_the_rule_that_our_workers_judge_by(problem, tmp_path):
    rule = for_official_run((Rule("output", Kind.CLOSE, LOW_BIT, "low-bit MoE"),), scale=2000.0)
    words = stock.command(tmp_path, problem.name, ["a", "b"], rule, StockEffort(3, 20, 2))
    assert words[words.index("--solutions") + 1 :][:2] == ["a", "b"]
    flags = dict(itertools.pairwise(words))
    assert (flags["--rtol"], flags["--atol"], flags["--required-matched-ratio"]) == ("0.2", "0.1", "0.85")
    assert (flags["--warmup-runs"], flags["--iterations"], flags["--num-trials"]) == ("3", "20", "2")


def test_a_run_that_is_out_of_time_leaves_its_log_and_no_traces(problem):
    run = stock.verify(problem, StockJob((), for_official_run(rules_for(problem.definition)), timeout_s=0.2))
    assert run.returncode is None
    assert run.traces == ()
    assert run.seconds < 60


@pytest.mark.slow
def test_stock_flashinfer_bench_judges_solutions(problem, monkeypatch):
    """All of it is stock but the device: see cuda_stand_in/sitecustomize.py."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))
    wrong = "\n\n_right = run\n\n\ndef run(*args, **kwargs):\n    return _right(*args, **kwargs) * 3\n"
    solutions = (reference_solution(problem, "right"), reference_solution(problem, "wrong", wrong))
    run = stock.verify(
        problem, StockJob(solutions, for_official_run(rules_for(problem.definition)), StockEffort(1, 3, 1), 300.0)
    )
    assert run.returncode == 0, run.log
    uuid = problem.workloads[0]["uuid"]
    assert run.statuses("right") == {uuid: "PASSED"}
    assert run.statuses("wrong") == {uuid: "INCORRECT_NUMERICAL"}
    (trace,) = [t for t in run.traces if t["solution"] == "right"]
    assert fib.trace_model(trace).evaluation.performance.latency_ms > 0
