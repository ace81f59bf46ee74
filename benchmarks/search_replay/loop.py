"""One replayed sweep: the product's loop, store and search on a recording instead of a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from db.records import SweepRecord
from db.store import Store
from search_spaces import Config, SearchSpace
from tuner import tuning_record
from tuner.recording import Recording, read_recording
from tuner.regimes import Regime
from tuner.replay import ReplayFamily, ReplayRunner
from tuner.search import Search
from tuner.sweep import Plan, Sweep
from workers.records import Method

Prior = Sequence[tuple[Config, float | None]]


@dataclass(frozen=True)
class Run:
    """What one sweep found.

    Args:
        strategy: Name of the sampler.
        space: Name of the recording.
        seed: Of the sweep.
        rows: Row of the recording of each evaluation, in the order in which they ended.
        cpu_ms: CPU time of the whole loop per evaluation: search, store, bookkeeping.
        search_cpu_ms: CPU time of the search alone per evaluation.
    """

    strategy: str
    space: str
    seed: int
    rows: tuple[int, ...]
    cpu_ms: float
    search_cpu_ms: float


@lru_cache(maxsize=2)
def recorded(path: Path) -> tuple[Recording, SearchSpace]:
    """A recording and its space, read once per process."""
    recording = read_recording(path)
    return recording, recording.space()


def one_thread() -> None:
    """Keep linear algebra to one thread in this process: two jobs on two cores would fight otherwise."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def replay(path: Path, strategy: str, seed: int, evaluations: int, in_flight: int = 1, prior: Prior = ()) -> Run:
    """Run a sweep on a recording.

    Args:
        path: The recording.
        strategy: Name of a sampler.
        seed: Of the sweep.
        evaluations: Trials at most.
        in_flight: Trials in flight at a time.
        prior: Finished trials of a related sweep.
    """
    recording, space = recorded(path)
    runner = ReplayRunner(recording, in_flight)
    family = ReplayFamily(recording)
    started = time.process_time()
    with Store.open("sqlite://") as store:
        plan = Plan(
            definition=family.definition,
            space=space,
            regimes=(Regime("all", None, None, recording.workloads),),
            method=Method(),
            sampler=strategy,
            seed=seed,
            max_trials=evaluations,
            finalists=1,
            final_rounds=1,
            reuse=False,
            prior={"all": tuple(prior)},
            time_reference=False,
        )
        sweep = Sweep(plan, runner, store, _register(store, plan, runner, recording))
        clock = _clock(sweep)
        sweep.run()
    judged = runner.judged[:evaluations]
    total_ms = (time.process_time() - started) * 1e3 / len(judged)
    return Run(strategy, recording.name, seed, tuple(judged), total_ms, clock() * 1e3 / len(judged))


def _register(store: Store, plan: Plan, runner: ReplayRunner, recording: Recording) -> int:
    """The rows that a sweep refers to."""
    definition = plan.definition
    definition_id = store.register_definition(definition["name"], definition["op_type"], definition)
    for workload in recording.workloads:
        store.register_workload(definition_id, workload, {}, "replay")
    return store.create_sweep(
        SweepRecord(
            definition_id=definition_id,
            space_id=store.register_space(plan.space.name, plan.space.target, plan.space.fingerprint),
            environment_id=store.register_environment(tuning_record.environment(runner.environment())),
            seed=plan.seed,
            max_trials=int(plan.max_trials),
            host=tuning_record.host(),
        )
    )


def _clock(sweep: Sweep) -> Callable[[], float]:
    """Adds up the CPU seconds that the sweep's searches take."""
    spent = [0.0]
    for state in sweep._states:
        _time_calls(state.search, ("ask", "tell"), spent)
    return lambda: spent[0]


def _time_calls(search: Search, names: Sequence[str], spent: list[float]) -> None:
    for name in names:
        inner = getattr(search, name)

        def timed(*args: object, _inner: Callable[..., object] = inner, **kwargs: object) -> object:
            started = time.process_time()
            try:
                return _inner(*args, **kwargs)
            finally:
                spent[0] += time.process_time() - started

        setattr(search, name, timed)
