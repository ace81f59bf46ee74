"""A regime in which the guard refuses the fastest config, because of some sizes, is divided by size."""

from dataclasses import replace

import numpy as np

from tuner.sweeps.finals.division import divided, whole_of
from tuner.sweeps.finals.final import FinalResult, guarded
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.ranking import rank
from tuner.sweeps.regimes import Regime, split
from workers.judge.timing.interval import measured
from workers.records import Method

GUARD = Guard()


def final_of(times: dict[str, dict[str, float]], noise: float = 0.002, rounds: int = 24) -> FinalResult:
    """A final of configs with these times by workload; ``default`` is the default."""
    rng = np.random.default_rng(0)
    samples = {
        key: {w: (us * (1 + noise * rng.standard_normal(rounds))).tolist() for w, us in by.items()}
        for key, by in times.items()
    }
    simplicity = {key: (key != "default", key) for key in times}
    ranking = rank(samples, simplicity, "default")
    figures = {k: {w: measured(w, us, Method(), {}) for w, us in by.items()} for k, by in samples.items()}
    return FinalResult(
        ranking.winner, "default", ranking, {}, figures, rounds, usage={"wall_s": 1.0}, simplicity=simplicity
    )


def parts_of(times, elsewhere=(), low=513, bound=2048, **noise):
    """Parts by name -> winner, and the parts; a workload's name starts with its size."""
    workloads = tuple(times["default"])
    regime = Regime(f"{low}-{bound}", low, bound, workloads, {w: int(w.split("~")[0]) for w in workloads})
    final = guarded(final_of(times, **noise), regime, GUARD, elsewhere)
    found = divided(regime, final, GUARD, elsewhere)
    return {part.name: final.winner for part, final in found}, found


# What a sweep over profiles measured on an H200 (docs/results/routing.md): 22 % were lost to 3 % at another size.
MEASURED = {
    "default": {"901": 365, "901~hot:3": 305, "2048": 424, "2048~uniform": 460, "2048~hot:3": 618},
    "fast": {"901": 377, "901~hot:3": 300, "2048": 394, "2048~uniform": 404, "2048~hot:3": 453},
}


def test_what_is_slower_than_the_default_at_one_size_serves_the_others():
    """It won nothing, and the default served all of the regime."""
    names, found = parts_of(MEASURED)
    assert names == {"513-1358": "default", "1359-2048": "fast"}
    (low, first), (high, second) = found
    assert (low.low, low.bound, high.low, high.bound) == (513, 1358, 1359, 2048)
    assert [set(part.sizes) for part in (low, high)] == [
        {"901", "901~hot:3"},
        {"2048", "2048~uniform", "2048~hot:3"},
    ]
    assert set(first.measurements["default"]) == set(low.workloads)
    assert (first.usage, second.usage) == ({"wall_s": 1.0}, {}), "the device's time would count twice"


def test_parts_are_divided_again():
    sizes = ("600", "800", "1200", "1800")
    times = {
        "default": dict.fromkeys(sizes, 100),
        "a": dict(zip(sizes, (50, 104, 104, 104), strict=True)),
        "b": dict(zip(sizes, (104, 104, 104, 60), strict=True)),
    }
    assert list(parts_of(times)[0].values()) == ["a", "default", "b"]


def test_a_regime_that_is_open_above_stays_so():
    times = {"default": {"3000": 100, "9000": 200}, "fast": {"3000": 105, "9000": 150}}
    names, ((low, _), (high, _)) = parts_of(times, low=2049, bound=None)
    assert names == {"2049-5196": "default", "5197+": "fast"}
    assert (low.bound, high.bound) == (5196, None)


def test_nothing_is_divided_where_the_guard_refuses_nobody():
    """Two configs that are each best at one size, and never slower than the default: the better mean is enough."""
    times = {
        "default": {"600": 100, "2000": 100},
        "a": {"600": 60, "2000": 90},
        "b": {"600": 90, "2000": 70},
    }
    assert parts_of(times)[0] == {"513-2048": "a"}


def test_what_differs_by_inputs_of_one_size_is_not_divided():
    """A dispatch table knows the size alone."""
    times = {"default": {"2048": 100, "2048~hot:3": 200}, "fast": {"2048": 104, "2048~hot:3": 150}}
    assert parts_of(times)[0] == {"513-2048": "default"}


def test_neither_noise_nor_half_a_percent_makes_a_part():
    times = {"default": {"901": 100.0, "2048": 100.0}, "fast": {"901": 106.0, "2048": 93.0}}
    assert parts_of(times, noise=0.0005)[0] == {"513-1358": "default", "1359-2048": "fast"}
    assert parts_of(times, noise=0.3)[0] == {"513-2048": "default"}
    times["fast"]["2048"] = 99.5
    assert parts_of(times, noise=0.0001)[0] == {"513-2048": "default"}


def test_sizes_that_a_neighbour_serves_decide_nothing():
    times = {"default": {"600": 100, "901": 100, "2048": 100}, "fast": {"600": 150, "901": 70, "2048": 70}}
    assert parts_of(times)[0] == {"513-735": "default", "736-2048": "fast"}
    assert parts_of(times, elsewhere=("600",))[0] == {"513-2048": "fast"}


def test_without_sizes_there_is_nothing_to_divide_by():
    final = final_of({"default": {"a": 100, "b": 100}, "fast": {"a": 110, "b": 50}})
    regime = Regime("all", None, None, ("a", "b"))
    final = guarded(final, regime, GUARD)
    assert divided(regime, final, GUARD) == [(regime, replace(final))]


def test_a_part_is_compared_with_the_default_of_its_final():
    """The default by size may be another one in the part, which ran in no final, or break a constraint there."""
    regimes = split({w: int(w.split("~")[0]) for w in ("8", "600", *MEASURED["default"])}, (512, 2048))
    _, found = parts_of(MEASURED)
    assert [whole_of(part, regimes) for part, _ in found] == [regimes[1], regimes[1]]
    assert whole_of(regimes[0], regimes) == regimes[0]
