"""The last mile of a sweep: who reaches the final, and what is kept of its winner."""

from dataclasses import replace

import pytest

from db.store import Store
from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace
from search_spaces.space_file import SizedConstraint
from tuner.sweeps.finals.final import FinalResult
from tuner.sweeps.finals.ranking import Ranking
from tuner.sweeps.finals.winners import commit, winner_record
from tuner.sweeps.regimes import Regime
from workers.judge.timing.interval import measured
from workers.records import Environment, Method


def final(samples_us: dict[str, list[float]], default: str | None) -> FinalResult:
    """Everybody on one workload; the first one has won."""
    winner = next(iter(samples_us))
    return FinalResult(
        winner=winner,
        default=default,
        ranking=Ranking(winner, {}, True, "fastest"),
        configs={key: {"tile": number} for number, key in reversed([*enumerate(samples_us)])},
        measurements={key: {"w": measured("w", us, Method(), {})} for key, us in samples_us.items()},
        rounds=3,
    )


def fits(values) -> bool:
    """Of a space: nothing is right beyond 200."""
    return values["sizes.seq_len"] <= 200


def test_a_winner_is_kept_with_the_range_that_it_was_chosen_for_and_the_defaults_figures():
    record = winner_record(Regime("17-256", 17, 256, ("w",)), final({"a": [1.0, 2.0, 3.0], "b": [5.0] * 3}, "b"), "n")
    assert (record.regime, record.size_axis, record.min_size, record.max_size) == ("17-256", "n", 17, 256)
    assert (record.config_hash, record.config) == ("a", {"tile": 0})
    assert (record.median_us, record.low_us, record.high_us) == pytest.approx((2.0, 1.0, 3.0))
    assert (record.default_median_us, record.default_low_us, record.default_high_us) == pytest.approx((5.0, 5.0, 5.0))
    assert record.workloads[0].default_median_us == pytest.approx(5.0)


def test_without_regimes_the_winner_names_no_axis():
    """Else a lookup would ask for a size although one config holds for all of them."""
    record = winner_record(Regime("all", None, None, ("w",)), final({"a": [1.0]}, None), "n")
    assert (record.size_axis, record.min_size, record.max_size) == (None, None, None)
    assert (record.default_median_us, record.workloads[0].default_median_us) == (None, None)


def test_the_winners_of_all_regimes_are_stored_with_their_samples_and_those_of_profiles_apart(scene):
    """A lookup or an export that missed a regime would serve its sizes by a neighbour's config, or by the default."""
    with Store.open("sqlite://") as store:
        ground = scene(store)
        sweep = ground.sweep()
        for number in (0, 1):
            store.trials.commit(ground.trial(sweep, number, measurements=()))
        first = final({"hash0": [1.0, 2.0, 3.0], "hash1": [5.0] * 3}, "hash1")
        finals = {"0-16": with_workload(first, "w1"), "17+": with_workload(final({"hash1": [7.0] * 3}, "hash1"), "w3")}
        finals["0-16"] = replace(finals["0-16"], by_profile={"recorded": Ranking("hash1", {}, True, "fastest")})
        regimes = {
            "0-16": Regime("0-16", 0, 16, ("w1",), {"w1": 1}, profiles={"w1": "recorded"}),
            "17+": Regime("17+", 17, None, ("w3",), {"w3": 100}),
        }
        rule = SizedConstraint(("tile",), "fits", lambda _: True, axis="seq_len", rule=fits, facts={})
        space = SearchSpace("tiles", "cpu", (Parameter("tile", (0, 1)),), (rule,), {"tile": 0}, {}, size_axis="seq_len")
        here = Environment(ground.hardware, ground.target, fingerprint=ground.environment)
        told = commit(store, sweep, regimes, finals, here, space)
        assert told == store.winners.of(sweep)
        found = {w.regime: w for w in told}
        assert {name: (w.config_hash, w.config, w.max_size) for name, w in found.items()} == {
            "0-16": ("hash0", {"tile": 0}, 16),
            "17+": ("hash1", {"tile": 1}, None),
        }
        assert {name: w.unfit_sizes for name, w in found.items()} == {"0-16": (), "17+": ((201, None),)}
        assert [(w.workload, w.median_us, w.default_median_us) for w in found["0-16"].workloads] == [("w1", 2.0, 5.0)]
        (alone,) = store.winners.of(sweep, alone=True)
        assert (alone.profile, alone.config_hash, alone.median_us) == ("recorded", "hash1", pytest.approx(5.0))


def with_workload(found: FinalResult, uuid: str) -> FinalResult:
    """The same final on another workload."""
    moved = {key: {uuid: replace(m["w"], workload=uuid)} for key, m in found.measurements.items()}
    return replace(found, measurements=moved)
