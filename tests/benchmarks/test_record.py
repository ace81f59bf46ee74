"""The stage that records many configs: what it asks for, and that it goes on where it was cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import search_spaces.dataset
from benchmarks.gpu_sweep import record
from benchmarks.gpu_sweep.context import Context

SMALL = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"


class Asked(Context):
    """Notes commands and answers as if each had run."""

    def tuner(self, arguments: Any, **_: Any) -> dict[str, Any]:
        CALLS.append(list(arguments))
        return {"wall_s": 1.0, "code": 0}


CALLS: list[list[str]] = []
EITHER = [("--resume", "1"), ("--resume", "2"), ("--sampler", "auto"), ("--sampler", "random")]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    CALLS.clear()
    return Asked(
        target="cpu", dataset=search_spaces.dataset.PATH, definition=SMALL, work=tmp_path,
        trials=1, busy_trials=1, compared=1, budget_s=1, limit_s=500,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("done", "begun"),
    [
        ({}, [("--sampler", "auto")]),
        ({1: 7}, [("--resume", "1"), ("--resume", "2")]),
        ({1: 10, 2: 20}, [("--resume", "2")]),
        ({1: 10}, [("--sampler", "random")]),
        ({1: 10, 2: 40}, []),
    ],
)
def test_what_is_there_is_gone_on_with(context, monkeypatch, done, begun):
    """A later session began both sweeps again, in the same database."""
    monkeypatch.setattr(record, "trials", lambda _: done if 2 in done or not CALLS else {**done, 2: 1})
    found = record.run(context, 50, None)
    sweeps = [call for call in CALLS if call[0] == "sweep"]
    assert [both for call in sweeps for both in itertools.pairwise(call) if both in EITHER] == begun
    assert all("--max-trials" in call and "--no-export" in call for call in sweeps)
    assert ("searched" in found["recordings"]) == (1 in done)
