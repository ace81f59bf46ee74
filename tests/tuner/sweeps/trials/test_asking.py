"""What goes on while a search is asked. Timings of the recording are synthetic."""

import threading
import time

import pytest

from benchmarks.search_replay.runner import ReplayRunner
from tests.tuner.sweeps.test_head_start import BOTH
from tests.tuner.sweeps.test_loop import _recording, _store, make_sweep  # noqa: F401
from tuner.search import Search
from tuner.sweeps.failures import ALIKE
from tuner.sweeps.trials.asking import Asker
from workers.records import BuildResult, Status

LIMIT_S = 20.0


class Slow:
    """A search that answers when it is let, and notes what it is told."""

    def __init__(self):
        self.may_answer = threading.Event()
        self.told = []

    def ask(self):
        assert self.may_answer.wait(LIMIT_S), "nothing went on while it was asked"
        assert self.told == [], "told while it was asked"
        return "proposal"

    def tell(self, number, value, *, detail):
        self.told.append((number, value, detail))


def test_what_a_search_is_told_while_it_is_asked_reaches_it_afterwards():
    """Would catch a sweep that changes a search's study under its sampler's hands."""
    search = Slow()

    def meanwhile():
        asker.tell(search, 0, 1.0, "PASSED")
        search.may_answer.set()

    asker = Asker(meanwhile)
    assert asker.ask(search) == "proposal"
    assert search.told == [(0, 1.0, "PASSED")]
    asker.tell(search, 1, None, "REJECTED")
    assert search.told[1:] == [(1, None, "REJECTED")]


def test_what_a_search_raises_reaches_the_sweep_and_the_next_can_be_asked():
    def broken():
        raise ZeroDivisionError

    search = Slow()
    asker = Asker(search.may_answer.set)
    search.ask, ask = broken, search.ask
    with pytest.raises(ZeroDivisionError):
        asker.ask(search)
    search.ask = ask
    search.may_answer.set()
    assert asker.ask(search) == "proposal"


def test_what_is_built_is_judged_while_a_search_is_asked(recording, store, monkeypatch):
    """Would catch a sweep whose evaluators and builders wait for a proposal that takes a second."""

    class Alive(ReplayRunner):
        def arrived(self):
            return self.wait(0.0)

    judged_meanwhile = []

    def ask(search):
        before = len(runner.judged)
        until = time.monotonic() + 3.0  # seldom reached: only where nothing that is ready is judged
        while runner._ready and len(runner.judged) == before and time.monotonic() < until:
            time.sleep(0.01)
        judged_meanwhile.append(len(runner.judged) - before)
        return asked(search)

    asked = Search.ask
    monkeypatch.setattr(Search, "ask", ask)
    runner = Alive(recording, in_flight=5)
    assert make_sweep(recording, store, runner, max_trials=12).run().trials == 12
    assert sum(judged_meanwhile) >= 5


@pytest.mark.parametrize("target_is_gpu", [True, False])
def test_regimes_that_are_done_have_their_finals_while_the_last_builds_are_awaited(
    recording, store, monkeypatch, target_is_gpu
):
    """Would catch a GPU that is idle for as long as the last variant is built; a CPU's builders disturb a final."""
    monkeypatch.setattr("tuner.sweeps.loop.is_cuda", lambda target: target_is_gpu)
    order = []

    class Late(ReplayRunner):
        """One build takes until a comparison has begun, or nothing else is left."""

        held = None
        builds = 0

        def submit_build(self, variant):
            self.builds += 1
            super().submit_build(variant)
            if self.builds == 4:
                self.held = self._ready.pop()

        def submit_comparison(self, job):
            order.append("comparison")
            super().submit_comparison(job)

        def wait(self, timeout_s):
            outcomes = super().wait(timeout_s)
            if self.held is not None and (not outcomes or order):
                self._ready.append(self.held)
                self.held = None
                order.append("last build")
            return outcomes

    runner = Late(recording, in_flight=3)
    result = make_sweep(recording, store, runner, regimes=BOTH, max_trials=12).run()
    assert result.trials == 12
    assert set(result.finals) == {"0-8", "9+"}
    assert (order.index("comparison") < order.index("last build")) is target_is_gpu


def test_a_search_that_goes_on_after_all_had_failed_alike_has_the_finals_of_all_regimes(recording, store, monkeypatch):
    """Would catch a regime whose final is over before its first config has passed."""
    monkeypatch.setattr("tuner.sweeps.loop.is_cuda", lambda target: True)

    class Recovering(ReplayRunner):
        """No build works until one that takes longest, of the first regime, has worked."""

        held = None
        builds = 0

        def submit_build(self, variant):
            self.builds += 1
            super().submit_build(variant)
            row, built = self._ready.pop()
            if self.builds == 4:
                self.held = (row, built)
                return
            if self.held is not None or self.builds < 4:
                built = BuildResult(variant.key, Status.COMPILE_ERROR, 0.0, log="no compiler")
            self._ready.append((row, built))

        def wait(self, timeout_s):
            outcomes = super().wait(timeout_s)
            if self.held is not None and not outcomes:
                self._ready.append(self.held)
                self.held = None
            return outcomes

    result = make_sweep(recording, store, Recovering(recording, in_flight=3), regimes=BOTH, max_trials=30).run()
    assert result.trials == 30
    assert result.failures["COMPILE_ERROR"] >= ALIKE
    assert set(result.finals) == {"0-8", "9+"}


def test_an_interrupted_search_does_not_go_on_to_prepare():
    """Would catch a sweep that ends seconds after Ctrl-C, when every search has looked at its space."""
    began, goes_on, prepared = threading.Event(), threading.Event(), []

    class Long(Slow):
        def prepare(self):
            began.set()
            assert goes_on.wait(LIMIT_S)
            prepared.append(self)

    asker = Asker(lambda: None)
    asker.prepare([Long(), Long()])
    assert began.wait(LIMIT_S)
    with pytest.raises(KeyboardInterrupt), asker:
        raise KeyboardInterrupt
    goes_on.set()
    asker._thread.shutdown(wait=True)
    assert len(prepared) == 1


def test_searches_prepare_before_they_are_asked_and_nobody_waits_for_that():
    """Would catch a preparation that runs beside a proposal of the same search, or that holds up the sweep."""
    order = []
    goes_on = threading.Event()

    class Prepared(Slow):
        def prepare(self):
            assert goes_on.wait(LIMIT_S), "the sweep waits for the preparation"
            order.append("prepared")

        def ask(self):
            order.append("asked")

    search = Prepared()
    asker = Asker(goes_on.set)
    asker.prepare([search])
    asker.tell(search, 0, 1.0, "PASSED")
    asker.ask(search)
    assert order == ["prepared", "asked"]
    assert search.told
