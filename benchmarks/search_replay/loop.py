"""One replayed sweep: the product's loop, store and search on a recording instead of a machine."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmarks.search_replay.recording import SUFFIX, Recording, read_recording
from benchmarks.search_replay.runner import ReplayFamily, ReplayRunner
from db.records import SweepRecord
from db.store import Store
from search_spaces import Config, SearchSpace
from tuner.errors import UsageError
from tuner.search import Search
from tuner.settings import SweepSettings
from tuner.sweeps.loop import Sweep
from tuner.sweeps.regimes import Regime
from tuner.sweeps.start.plan import SweepPlan
from workers.records import Method

T = TypeVar("T")

Prior = Sequence[tuple[Config, float | None]]


@dataclass(frozen=True)
class Run:
    """What one sweep found.

    Args:
        strategy: Name of the sampler.
        space: Name of the recording.
        seed: Of the sweep.
        rows: Row of the recording of each evaluation, in the order in which they ended.
        raced: Whether each of them was raced out: it is not found then, however good it would have been.
        timings: Workloads that were timed in each of them.
        cpu_ms: CPU time of the whole loop per evaluation: search, store, bookkeeping.
        search_cpu_ms: CPU time of the search alone per evaluation.
    """

    strategy: str
    space: str
    seed: int
    rows: tuple[int, ...]
    raced: tuple[bool, ...]
    timings: tuple[int, ...]
    cpu_ms: float
    search_cpu_ms: float


@lru_cache(maxsize=2)
def recorded(path: Path) -> tuple[Recording, SearchSpace]:
    """A recording and its space, read once per process."""
    recording = read_recording(path)
    return recording, recording.space()


def recordings(folder: Path, names: str) -> dict[str, Path]:
    """Name -> file, in order of name: those of the given names (comma-separated), or all.

    Raises:
        UsageError: There is none, or none of that name.
    """
    found = {p.name.removesuffix(SUFFIX): p for p in sorted(folder.glob(f"*{SUFFIX}"))}
    if not found:
        raise UsageError(f"no *{SUFFIX} file in {folder}")
    chosen = names.split(",") if names else list(found)
    for name in chosen:
        if name not in found:
            raise UsageError(f"no recording {name!r} in {folder}; it has {', '.join(found)}")
    return {name: found[name] for name in chosen}


def readable(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Those that can be read. The others are said, one line each, and must not cost these their results.

    Raises:
        UsageError: None can be read; the message is about the first.
    """
    good, first = {}, None
    for name, path in paths.items():
        try:
            recorded(path)
            good[name] = path
        except UsageError as error:
            first = first or error
            print(f"search_replay: left out: {error}", file=sys.stderr)
    if first is not None and not good:
        raise first
    return good


def spread(function: Callable[..., T], tasks: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[T]:
    """Results of the function for each task, in order: in this process for one job, else in as many processes."""
    if jobs == 1:
        yield from (function(*task) for task in tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        yield from pool.map(function, *zip(*tasks, strict=True))


def one_thread() -> None:
    """Keep linear algebra to one thread in this process: two jobs on two cores would fight otherwise."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def replay(
    path: Path,
    strategy: str,
    seed: int,
    evaluations: int | Literal["auto"],
    in_flight: int = 1,
    prior: Prior = (),
    *,
    race_factor: float = 1.3,
    watch: Callable[[Search], None] = lambda _: None,
) -> Run:
    """Run a sweep on a recording.

    Args:
        path: The recording.
        strategy: Name of a sampler.
        seed: Of the sweep.
        evaluations: Trials at most, or until the search advises to stop.
        in_flight: Trials in flight at a time.
        prior: Finished trials of a related sweep.
        race_factor: See :class:`~tuner.settings.SweepSettings`.
        watch: Called with the search before it is asked for the first time.
    """
    recording, space = recorded(path)
    runner = ReplayRunner(recording, in_flight)
    family = ReplayFamily(recording)
    started = time.process_time()
    with Store.open("sqlite://") as store:
        plan = SweepPlan(
            definition=family.definition,
            space=space,
            regimes=(Regime("all", None, None, recording.workloads),),
            method=Method(),
            settings=SweepSettings(
                sampler=strategy,
                seed=seed,
                max_trials=evaluations,
                race_factor=race_factor,
                finalists=1,
                final_rounds=8,
                reuse=False,
            ),
            prior={"all": tuple(prior)},
            time_reference=False,
        )
        sweep = Sweep(plan, runner, store, _register(store, plan, runner, recording))
        clock = _clock(sweep)
        watch(sweep._states[0].search)
        sweep.run()
    count = len(runner.judged) if evaluations == "auto" else min(evaluations, len(runner.judged))
    total_ms = (time.process_time() - started) * 1e3 / count
    seen = (tuple(column[:count]) for column in (runner.judged, runner.raced, runner.timings))
    return Run(strategy, recording.name, seed, *seen, total_ms, clock() * 1e3 / count)


def _register(store: Store, plan: SweepPlan, runner: ReplayRunner, recording: Recording) -> int:
    """The rows that a sweep refers to."""
    definition = plan.definition
    definition_id = store.catalog.register_definition(definition["name"], definition["op_type"], definition)
    for workload in recording.workloads:
        store.catalog.register_workload(definition_id, workload, {}, "replay")
    return store.sweeps.create(
        SweepRecord(
            definition_id=definition_id,
            space_id=store.catalog.register_space(plan.space.name, plan.space.target, plan.space.fingerprint),
            environment_id=store.catalog.register_environment(runner.environment()),
            seed=plan.settings.seed,
            max_trials=None if plan.settings.max_trials == "auto" else plan.settings.max_trials,
            host=socket.gethostname(),
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
