"""The last mile of a sweep: who reaches the final, and what is kept of its winner."""

import pytest

from tuner.sweeps.finals.final import FinalResult
from tuner.sweeps.finals.statistics import Ranking
from tuner.sweeps.finals.winners import winner_record
from tuner.sweeps.regimes import Regime
from workers.judge.timing.interval import measured
from workers.records import Method


def final(samples_us: dict[str, list[float]], default: str | None) -> FinalResult:
    """Everybody on one workload; the first one has won."""
    winner = next(iter(samples_us))
    return FinalResult(
        winner=winner,
        default=default,
        ranking=Ranking(winner, {}, True, "fastest"),
        configs={key: {"tile": number} for number, key in enumerate(samples_us)},
        measurements={key: {"w": measured("w", us, Method(), {})} for key, us in samples_us.items()},
        rounds=3,
    )


def test_a_winner_is_kept_with_the_range_that_it_was_chosen_for_and_the_defaults_figures():
    record = winner_record(Regime("17-256", 17, 256, ("w",)), final({"a": [1.0, 2.0, 3.0], "b": [5.0] * 3}, "b"), "n")
    assert (record.regime, record.size_axis, record.min_size, record.max_size) == ("17-256", "n", 17, 256)
    assert (record.config_hash, record.config) == ("a", {"tile": 0})
    assert (record.median_us, record.low_us, record.high_us) == pytest.approx((2.0, 1.0, 3.0))
    assert (record.default_median_us, record.workloads[0].default_median_us) == pytest.approx((5.0, 5.0))


def test_without_regimes_the_winner_names_no_axis():
    """Else a lookup would ask for a size although one config holds for all of them."""
    record = winner_record(Regime("all", None, None, ("w",)), final({"a": [1.0]}, None), "n")
    assert (record.size_axis, record.min_size, record.max_size) == (None, None, None)
    assert (record.default_median_us, record.workloads[0].default_median_us) == (None, None)
