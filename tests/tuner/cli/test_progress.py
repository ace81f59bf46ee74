"""What a command says while it works: by whom it is told does not matter, nor whether it comes back in between."""

import io
import threading
import time

import pytest
from rich.console import Console

from tuner.cli import progress_line
from tuner.cli.progress_line import StepView
from tuner.cli.sweep_progress import SweepView
from tuner.progress import Progress, Slow

REGIMES = {"all": 20.0}
SEARCH = Progress("search", 3, 8, 12.0, None, 1, 1, {}, 0, 0, REGIMES, REGIMES, REGIMES)


@pytest.fixture
def written(monkeypatch):
    """What goes to a stderr that is no terminal, each line at once."""
    text = io.StringIO()
    console = Console(file=text, soft_wrap=True, highlight=False, markup=False)
    monkeypatch.setattr(progress_line, "stderr", lambda: console)
    monkeypatch.setattr(progress_line, "LINE_EVERY_S", 0.0)
    return text


def wait_for(text, what):
    deadline = time.monotonic() + 30
    while what not in text.getvalue():
        assert time.monotonic() < deadline, text.getvalue()
        time.sleep(0.02)


@pytest.mark.parametrize("view", [StepView, SweepView])
def test_a_step_that_takes_long_goes_on_showing_its_time_and_limit(written, view):
    """Catches a command that is silent while it waits for something else, such as a reference that takes minutes."""
    with view() as shown:
        shown.step("building [k]", 60)
        wait_for(written, "building [k] (1 of at most 60 s)")
    assert all(thread.name != "progress" for thread in threading.enumerate()), "it goes on after the command's end"


def test_a_build_that_takes_long_is_named_beside_the_search(written):
    with SweepView() as shown:
        shown.step("making inputs")
        shown(SEARCH)
        assert "making inputs (" not in written.getvalue().splitlines()[-1]
        shown(Progress(**{**vars(SEARCH), "slow": (Slow(7, "build", 42.0, 300.0),)}))
        wait_for(written, "trial 7 has waited 42 s for its build (limit 300 s)")
        assert "search: 3/8 trials in 12 s" in written.getvalue()


def test_builds_that_take_long_are_one_line(written):
    """Catches a line for each: a first build waits for imports, and all others with it."""
    with SweepView() as shown:
        slow = (Slow(3, "build", 21.0, 300.0), Slow(4, "build", 22.0, 300.0), Slow(1, "check and times", 16.0, 90.0))
        shown(Progress(**{**vars(SEARCH), "slow": slow}))
        wait_for(written, "trial 1 has waited 16 s for its check and times (limit 90 s)\n")
    assert "trial 4 has waited 22 s for its build (limit 300 s), and 1 more for a shorter time\n" in written.getvalue()
    assert "trial 3" not in written.getvalue()


def test_a_regime_without_a_figure_is_not_shown_as_one(written):
    with SweepView() as shown:
        shown(Progress(**{**vars(SEARCH), "best_us": {"a": None, "b": 2.0}, "default_us": {"a": None, "b": None}}))
        wait_for(written, "; best b 2 us; failures")
