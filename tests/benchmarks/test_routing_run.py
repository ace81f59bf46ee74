"""Which configs a second pass over the routings leaves out."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def routing_run(of_h200_moe):
    return of_h200_moe("routing_run")


def record(profile: str, problems: dict[str, str], **us: float) -> dict:
    return {"profile": profile, "seq_len": 57, "times_us": us, "problems": problems}


def test_the_fastest_of_a_point_and_what_is_always_timed_stay(routing_run):
    """A config that is fast on one profile must not be lost on it for being slow on another."""
    one = record("uniform", {"broken": "wrong"}, default=9.0, a=1.0, b=2.0, c=3.0)
    two = record("hot:1", {}, default=1.0, a=5.0, b=2.0, c=3.0, baseline_triton=8.0)
    assert routing_run.too_slow([one, two], 2) == {("uniform", 57): {"c", "broken"}, ("hot:1", 57): {"a", "c"}}
