"""How good the default strategy is: on a landscape made here, and on the recorded spaces where they are at hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_replay.recording import read_recording
from search_spaces.parameters import Constraint, Parameter
from search_spaces.space import SearchSpace
from tuner.search import Search

DATA = Path(__file__).parents[3].parent / "shared" / "search_replay" / "data"


def evaluations_to_reach(space, value_of, goal, sampler, seed, limit):
    search = Search(space, sampler=sampler, seed=seed)
    for done in range(1, limit + 1):
        proposal = search.ask()
        value = value_of(proposal.config)
        search.tell(proposal.number, value)
        if value is not None and value <= goal:
            return done
    return limit


def made_up_space():
    """3,000 configs; a fifth fails where two sizes multiply to too much, next to the optimum."""
    sizes = Parameter("p", (8, 16, 24, 32, 40, 48, 56, 64, 96, 128)), Parameter("q", (1, 2, 3, 4, 6, 8, 12, 16))
    rest = Parameter("r", ("a", "b", "c", "d"), "categorical"), Parameter("s", (0, 1)), Parameter("t", tuple(range(5)))
    rule = Constraint(("p", "s"), "not written", lambda c: c["s"] == 0 or c["p"] % 16 == 0)
    return SearchSpace("made", "cpu", (*sizes, *rest), (rule,), {"p": 8, "q": 1, "r": "a", "s": 0, "t": 0}, {})


def made_up_value(config):
    work = config["p"] * config["q"]
    if work > 600:
        return None
    uneven = 0.2 * (config["p"] % 32 != 0) + 0.1 * "cadb".index(config["r"])
    return abs(math.log(work / 512)) + uneven + 0.15 * (1 - config["s"]) + 0.05 * abs(config["t"] - 3)


def test_needs_a_small_part_of_what_random_search_needs():
    space = made_up_space()
    goal = min(v for c in space.enumerate() if (v := made_up_value(c)) is not None) + 0.02
    needed = {
        sampler: np.median([evaluations_to_reach(space, made_up_value, goal, sampler, seed, 200) for seed in range(3)])
        for sampler in ("auto", "random")
    }
    assert needed["auto"] < 100
    assert needed["auto"] < needed["random"] / 2


@pytest.mark.parametrize("name", ["conv_w7800", "convold_rtx2080ti"])
def test_recorded_spaces_are_solved_in_a_few_percent_of_their_size(name):
    path = DATA / f"{name}.replay.json.gz"
    if not path.exists():
        pytest.skip(f"the recorded space {name} is not on this machine ({path})")
    recording = read_recording(path)
    space = recording.space()

    def time_of(config):
        time_ms = recording.time_ms[recording.row(config)]
        return None if time_ms is None else math.log(time_ms)

    goal = math.log(recording.optimum_ms * 1.1)
    needed = [evaluations_to_reach(space, time_of, goal, "auto", seed, 150) for seed in range(3)]
    assert np.median(needed) < 100
