"""The kernel lab's worker on this machine: a right and a wrong MoE in torch, with the product's verdict and timer."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from search_spaces.moe_fp8.model import moe
from workers.devices.cpu import HostDevice

LAB = Path(__file__).resolve().parents[2] / "benchmarks" / "h200_moe"


@pytest.fixture
def lab(monkeypatch):
    """The worker's module, for a problem that is small enough for a CPU."""
    monkeypatch.syspath_prepend(str(LAB))
    worker, reference = (importlib.import_module(name) for name in ("worker", "reference"))
    problem = replace(worker.MAIN, hidden=256, intermediate=256, experts=64, local=8)
    monkeypatch.setattr(worker, "DEVICE", "cpu")
    monkeypatch.setattr(worker, "problem_of", lambda sizes: problem)
    monkeypatch.setattr(worker, "OTHER_SIZES", (1, 5))
    monkeypatch.setattr(worker, "choices", lambda module, name: ({}, lambda tokens: {"solution": name}))
    reading = reference.reading(problem)

    def judged(spoil, **options):
        run = lambda *arguments: arguments[-1].copy_(spoil(moe(reading, *arguments[:-1])))  # noqa: E731
        monkeypatch.setattr(worker, "load_variant", lambda folder: SimpleNamespace(run=run))
        timer = importlib.import_module("timing").Timer(HostDevice())
        options = worker.Options(**{"random_cases": 4, "largest": 200, "samples": 5, **options})
        return worker.Worker(options, timer).variant(Path("mine"))

    yield judged
    for name in ("worker", "reference", "problems", "judge", "timing", "load", "product"):
        sys.modules.pop(name, None)


def test_a_right_one_passes_every_case_and_is_timed(lab):
    found = lab(lambda out: out)
    assert (found["status"], found["checks"], found["failed"]) == ("PASSED", 4, [])
    assert [t["seq_len"] for t in found["times"]] == [1, 5]
    for figures in found["times"]:
        assert 0 < figures["low_us"] <= figures["median_us"] <= figures["high_us"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda out: out * 1.1, "Frobenius error"),  # within the tolerance of every element
        (lambda out: torch.cat([out[:-1], out[:1] + 9]) if len(out) > 99 else out, "in one row"),
        (lambda out: out.fill_(float("nan")), "not finite"),
    ],
)
def test_a_wrong_one_ends_at_its_first_wrong_case(lab, spoil, said):
    found = lab(spoil, time=False)
    assert found["status"] == "INCORRECT_NUMERICAL"
    assert said in found["failed"][0]["problem"]
    assert "times" not in found
