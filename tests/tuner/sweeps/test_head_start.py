"""What a sweep asks and builds before its workloads are there."""

from collections import Counter, deque
from dataclasses import replace

import pytest

from benchmarks.search_replay.runner import ReplayRunner
from tests.tuner.sweeps.test_loop import SlowReference, _recording, _store, make_sweep  # noqa: F401
from tuner.sweeps.loop import Sweep
from tuner.sweeps.regimes import Regime
from tuner.sweeps.start.head_start import PROPOSALS, head_start
from tuner.sweeps.trials.reference_times import REFERENCE_KEY
from workers.records import Evaluation, Status

SMALL, LARGE = Regime("0-8", 0, 8, ("small",), {"small": 4}), Regime("9+", 9, None, ("large",), {"large": 64})
BOTH = (SMALL, LARGE)


class Counting(ReplayRunner):
    """Knows how often each variant was built, and what is in flight when a comparison begins."""

    def __init__(self, recording):
        super().__init__(recording, in_flight=3)
        self.times_built = Counter()

    def submit_build(self, variant):
        self.times_built[variant.key] += 1
        super().submit_build(variant)

    def submit_evaluation(self, job):
        super().submit_evaluation(job)
        self._ready.rotate(1)  # it ends before builds that were submitted earlier

    def submit_comparison(self, job):
        assert not self._ready, "builds of the head start are still in flight"
        super().submit_comparison(job)


def started(recording, store, runner, searched=BOTH, expect=None, then=None, **changes):
    """A sweep of the regimes ``searched``, with a head start for both."""
    ahead = head_start(make_sweep(recording, store, runner, regimes=BOTH, **changes).plan, runner)
    plan = make_sweep(recording, store, runner, sweep_id=1, regimes=searched, **(changes | (then or {}))).plan
    return ahead, Sweep(replace(plan, expect=expect or {}), runner, store, 1, ahead=ahead)


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_trials_take_up_what_was_proposed_and_nothing_is_built_twice(recording, store, sampler):
    runner = Counting(recording)
    ahead, sweep = started(recording, store, runner, max_trials=30, sampler=sampler)
    proposed = [[p.config for p in own] for own in ahead.proposals]
    assert [len(own) for own in proposed] == [PROPOSALS, PROPOSALS]
    assert proposed[0][0] == recording.space().default
    sweep.run()
    trials = store.trials.of(1)
    assert len(trials) == 30
    for regime, first in zip(BOTH, proposed, strict=True):
        assert [dict(t.config) for t in trials if t.regime == regime.name][:PROPOSALS] == first
    assert set(runner.times_built.values()) == {1}


def test_where_a_workload_falls_out_the_builds_are_awaited_and_the_searches_made_anew(recording, store):
    """Their outcomes would otherwise come in the midst of a comparison, as something that nobody has asked for."""
    runner = Counting(recording)
    ahead, sweep = started(recording, store, runner, (SMALL,), then={"max_trials": 1}, max_trials=12)
    result = sweep.run()
    assert (result.trials, list(result.finals)) == (1, ["0-8"])
    assert len(ahead.building) > 1


def test_a_search_that_ends_early_takes_back_the_builds_that_nobody_waits_for(recording, store):
    """Would catch a sweep that lets builders finish dozens of candidates after it has seen that none can work."""

    class Broken(Counting):
        """Builds candidates one after the other, and judges none."""

        def wait(self, timeout_s):
            outcomes = super().wait(timeout_s)
            return [Evaluation(o.key, Status.RUNTIME_ERROR) if isinstance(o, Evaluation) else o for o in outcomes]

        def withdraw(self, keys):
            taken.update(keys)
            self._ready = deque(x for x in self._ready if x[1].key not in keys)
            return set(keys)

    taken = set()
    runner = Broken(recording)
    ahead, sweep = started(recording, store, runner, max_trials=40)
    result = sweep.run()
    assert result.trials < len(ahead.building)
    assert {t.config_hash for t in store.trials.of(1)} | taken == ahead.building


def test_no_more_is_proposed_than_the_sweep_may_try(recording, store):
    runner = Counting(recording)
    ahead, sweep = started(recording, store, runner, max_trials=3)
    assert [len(own) for own in ahead.proposals] == [2, 1]
    assert sweep.run().trials == 3
    assert sum(runner.times_built.values()) == len(runner.times_built) <= 3


def test_the_reference_is_built_first_and_once(recording, store):
    """Would catch one that waits behind the builds of dozens of candidates, and is not timed when the time is over."""
    built = []

    class Watching(SlowReference):
        def submit_build(self, variant):
            built.append(variant.key)
            super().submit_build(variant)

    _, sweep = started(recording, store, Watching(recording, in_flight=3), max_trials=6, time_reference=True)
    assert set(sweep.run().reference) == {"small", "large"}
    assert built.index(REFERENCE_KEY) == 0
    assert built.count(REFERENCE_KEY) == 1


def test_what_the_workloads_are_like_is_believed_once_it_is_known(recording, store):
    """The model says something else of the routing that there is than of even routing."""
    asked = []
    expect = {"0-8": lambda config: asked.append(config) or 0.0}
    _, sweep = started(recording, store, Counting(recording), expect=expect, sampler="auto", max_trials=40)
    sweep.run()
    assert asked


def test_what_is_built_is_judged_while_the_next_config_is_thought_of(recording, store):
    """A proposal may take a second; the evaluator waited for the whole round of them."""
    order = []

    class Watching(ReplayRunner):
        def arrived(self):
            return self.wait(0.0)

        def submit_evaluation(self, job):
            order.append("evaluation")
            super().submit_evaluation(job)

    sweep = make_sweep(recording, store, Watching(recording, in_flight=5), max_trials=5)
    (state,) = sweep._states
    ask = state.search.ask
    state.search.ask = lambda: order.append("ask") or ask()
    sweep.run()
    assert order[:2] == ["ask", "evaluation"]
