"""``tuner init`` from a file to a space whose configs a builder compiles, on a machine without a GPU."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

from search_spaces.dataset import PATH
from tests.tuner.without_ray import command
from tuner.errors import UsageError
from tuner.init.origin import read_origin

ROW_SUMS = """
import torch
import triton
import triton.language as tl


@triton.autotune([triton.Config({"COLUMNS": 64 * n}, num_warps=n) for n in (1, 2)], key=["columns"])
@triton.jit
def add_up(x, weight, out, columns, COLUMNS: tl.constexpr):
    row, total = tl.program_id(0), tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, columns, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        value = tl.load(x + row * columns + at, at < columns, 0.0).to(tl.float32)
        total += value * tl.load(weight + at, at < columns, 0.0)
    tl.store(out + row * columns + tl.arange(0, COLUMNS), total)


def sums(hidden_states, weight):
    out = torch.zeros_like(hidden_states)
    add_up[(hidden_states.shape[0],)](hidden_states, weight, out, hidden_states.shape[1])
    return out
"""


def run(tmp_path, *words):
    environment = {**os.environ, "TUNER_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "tuner", "init", str(tmp_path / "row_sums.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_a_file_becomes_a_space_that_compiles(tmp_path):
    """Catches edits after which the kernel no longer compiles, and values that do not reach it."""
    (tmp_path / "row_sums.py").write_text(ROW_SUMS)
    words = ("--definition", "rmsnorm_h1024", "--out", str(tmp_path / "space"), "--json")
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["parameters"] == {"COLUMNS": [64, 128], "num_warps": [1, 2], "num_stages": [3]}
    assert document["todo"] == []
    variants = document["compiled"]["variants"]
    assert {v["status"] for v in variants} == {"BUILT"}
    assert {v["config"]["num_warps"] for v in variants} == {v["figures"]["kernels"][0]["num_warps"] for v in variants}

    again = run(tmp_path, *words)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].endswith("is not overwritten; choose another one with --out")


def test_what_does_not_compile_says_why(tmp_path):
    (tmp_path / "row_sums.py").write_text(ROW_SUMS.replace("tl.zeros(", "tl.zeroes("))
    done = run(tmp_path, "--definition", "rmsnorm_h1024", "--out", str(tmp_path / "space"), "--sample", "1")
    assert done.returncode == 3
    assert "0 of 1 configs built for sm_90a" in done.stdout
    assert "zeroes" in done.stdout.splitlines()[-1]


RMS_NORM = """
import torch
import triton
import triton.language as tl


@triton.jit
def normalise(x, weight, out, eps, columns: tl.constexpr):
    at = tl.program_id(0) * columns + tl.arange(0, columns)
    value = tl.load(x + at).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value) / columns + eps)
    tl.store(out + at, value * tl.load(weight + tl.arange(0, columns)))


def rmsnorm(hidden_states, weight, eps=1e-2):
    out = torch.empty_like(hidden_states)
    normalise[(hidden_states.shape[0],)](hidden_states, weight, out, eps, hidden_states.shape[1], num_warps=4)
    return out
"""


def test_a_space_is_judged_in_tritons_interpreter_without_a_gpu(tmp_path, monkeypatch):
    """Catches inputs that are handed over wrongly, seen so far on the GPU alone; and trials that fail one after the
    other for want of a device, without a word on the interpreter."""
    (tmp_path / "row_sums.py").write_text(RMS_NORM)
    space = tmp_path / "space"
    given = ("--definition", "rmsnorm_h1024", "--dataset", str(PATH))
    made = run(tmp_path, *given, "--out", str(space), "--sample", "0")
    assert made.returncode == 0
    next_step = f"next: tuner compile --space {space} {' '.join(given)} --target sm_90a"
    assert made.stdout.splitlines()[-1] == next_step, "without the dataset it would end with an unknown definition"
    text = (space / "space.yaml").read_text()
    (space / "space.yaml").write_text(text.replace("targets: [", "targets: [cpu, "))

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def swept(**variables):
        words = f"--space {space} --target cpu --axes batch_size=16 --max-trials 1 --final-s 1 --no-export"
        return command(tmp_path, "sweep", *words.split(), **variables)

    refused = swept()
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith("in Triton's interpreter alone; set TRITON_INTERPRET=1")
    done = swept(TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    main = space / "main.py"
    main.write_text(main.read_text().replace("eps=1e-06", "eps=1e-2"))
    wrong = swept(TRITON_INTERPRET="1")
    assert wrong.returncode == 3
    assert "INCORRECT_NUMERICAL" in wrong.stdout


def test_the_next_command_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    (tmp_path / "row_sums.py").write_text(ROW_SUMS.replace("\n", "\r\n"), encoding="utf-8", newline="")
    made = run(tmp_path, "--definition", "rmsnorm_h1024", "--out", str(tmp_path / "a spaß"), "--sample", "0")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith(f"next: tuner compile --space '{tmp_path}/a spaß' --definition")


def test_a_cuda_file_is_pointed_to_an_example(tmp_path):
    (tmp_path / "kernel.cu").write_text("__global__ void k() {}")
    with pytest.raises(UsageError, match=r"C\+\+ and CUDA get a space\.yaml by hand, see examples/cuda_rmsnorm"):
        read_origin(tmp_path / "kernel.cu")
