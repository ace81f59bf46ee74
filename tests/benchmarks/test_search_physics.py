"""The published figures of the MoE model and its searches, and the recordings beside them."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import search_physics
from benchmarks.search_physics.noise import Noise, ceiling, noise_of
from benchmarks.search_physics.page import page
from benchmarks.search_physics.recorded import Recorded, Timed, Tried, configs_on_all, name_of, regime_of
from benchmarks.search_physics.replay import REGIMES
from benchmarks.search_replay.recording import read_recording
from search_spaces.prediction.model import WorkloadFeatures

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECORDINGS = sorted(Path(search_physics.__file__).with_name("recordings").glob("*.replay.json.gz"))


def test_the_page_is_made_of_the_published_figures():
    """A figure that was changed in one of them only would show here."""
    document = json.loads((RESULTS / "search-physics.json").read_text())
    assert (RESULTS / "search-physics.md").read_text() == page(document)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_recordings_of_the_moe_space_are_complete(path):
    recording = read_recording(path)
    assert recording.gpu == "NVIDIA H200"
    assert recording.name == path.name.partition(".")[0], "the benchmark tells runs apart by it"
    ended = [i for i, status in enumerate(recording.status) if status == "ok"]
    assert len(ended) >= 40
    assert all(recording.workload_ms[w][i] for w in recording.workloads for i in ended)


def test_there_are_recordings():
    assert len(RECORDINGS) == 14


def test_recordings_belong_to_sweeps_and_regimes():
    """Taken for another one, a regime's trials would be missing from the replays, or a sweep's from the ranks."""
    found = Counter(name_of(path) for path in RECORDINGS)
    alone = ("spread-hot3", "random-hot3", "wide-random", "wide-searched", "crowded-random", "crowded-searched")
    assert found == {"no-starts-later": 4, "starts-later": 4, **dict.fromkeys(alone, 1)}
    assert {regime_of(p) for p in RECORDINGS if name_of(p) == "starts-later"} == set(REGIMES)
    assert {regime_of(p) for p in RECORDINGS if name_of(p) == "random-hot3"} == {"all"}
    assert name_of(Path("starts-seed0.db.gz")) == "starts-seed0"


def sweeps(noise: float, offset: float, configs: int = 60, spread: float = 0.2) -> Recorded:
    """Two sweeps of the same configs; everything is slower in the second one."""
    draw = random.Random(7)
    timed = []
    for i in range(configs):
        true = draw.gauss(5.0, spread)
        for sweep, off in (("a", 0.0), ("b", offset)):
            timed.append(Timed(sweep, "w", {"i": i}, math.exp(true + off + draw.gauss(0.0, noise))))
    return Recorded("", cast(Any, None), {"w": WorkloadFeatures({"seq_len": 57})}, tuple(timed), {})


def test_noise_and_offsets_are_found_apart():
    """An offset that is taken for noise would make the ceiling of a single sweep too low."""
    found = noise_of(sweeps(noise=0.01, offset=0.05))["w"]
    assert found.sigma == pytest.approx(0.01, rel=0.2)
    assert found.offsets["b"] - found.offsets["a"] == pytest.approx(0.05, abs=0.005)


def test_the_ceiling_is_what_the_truth_reaches():
    """Without noise 1; with as much noise as there are differences, the correlation of a sum with one of its halves."""
    quiet, loud = sweeps(1e-6, 0.0, 400), sweeps(0.2, 0.0, 400)
    assert ceiling(quiet.of("w", "a"), noise_of(quiet)["w"]) > 0.999
    # The truth of a draw is spread by its own noise: 0.08 / sqrt(0.08 * 0.12) in place of 0.04 / sqrt(0.04 * 0.08).
    found = ceiling(loud.of("w", "a"), noise_of(loud)["w"])
    assert math.sqrt(1 / 2) < found < math.sqrt(2 / 3) + 0.05
    both = sweeps(1e-6, 0.3, 400)
    halves = [t for t in both.timed if (t.config["i"] < 200) == (t.sweep == "a")]
    assert ceiling(halves, noise_of(both)["w"]) < 0.9, "no model can tell the hosts of two sweeps apart"


def test_a_config_that_nobody_measured_twice_says_nothing_about_noise():
    once = sweeps(0.01, 0.0)
    alone = Recorded("", once.space, once.features, tuple(once.of("w", "a")), {})
    with pytest.raises(ValueError, match="measured twice"):
        noise_of(alone)
    assert ceiling(alone.timed, Noise(0.0, {}, 0)) == pytest.approx(1.0)


def test_configs_are_counted_once_and_where_all_workloads_know_them():
    """Counted by sweep, what two sweeps tried would count twice; rejected ones have no times."""
    timed = [Timed(sweep, w, {"i": i}, 1.0) for sweep, i in (("a", 0), ("b", 0), ("b", 1)) for w in ("v", "w")]
    timed += [Timed("a", "v", {"i": 2}, 1.0), Timed("other", "w", {"i": 2}, 1.0)]
    tried = {"a": (0, 2), "b": (0, 1, 3)}
    trials = {s: tuple(Tried("all", {"i": i}, "PASSED", 0.0) for i in found) for s, found in tried.items()}
    recorded = Recorded("", cast(Any, None), {}, tuple(timed), trials)
    assert configs_on_all(recorded, ("a", "b")) == {"workloads": 2, "tried": 4, "measured": 2}
