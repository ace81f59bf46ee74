"""One sweep of many trials with modelled workers, and what it cost the sweep's process."""

from __future__ import annotations

import itertools
import resource
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.scale.model import ModelledRunner
from db.records import SweepRecord
from db.store import Store
from search_spaces.dataset import PATH
from search_spaces.registry import space_for
from tuner.results.status import describe
from tuner.settings import SweepSettings
from tuner.sweeps.loop import Sweep
from tuner.sweeps.regimes import Regime
from tuner.sweeps.start.plan import SweepPlan
from workers.fib.dataset import Dataset
from workers.records import Method

DEFINITION = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"
TARGET = "sm_90a"
REGIMES = (("0-16", None, 16), ("17-256", 17, 256), ("257-2048", 257, 2048), ("2049+", 2049, None))
STATUS_REPEATS = 5
WORKLOADS = 5
"""Per regime."""
RACE_FACTOR = 1.3
"""The product's default."""


@dataclass(frozen=True)
class Cost:
    """What a sweep cost its process.

    Args:
        trials: Trials of this process.
        cpu_ms: Of the whole process per trial, without the model's own.
        search_cpu_ms: The part of it in ``Search.ask`` and ``Search.tell``.
        store_cpu_ms: The part of it in the store.
        rss_growth_bytes: Anonymous memory per trial, from a tenth of the trials to the end of the search.
        start_s: Wall time from the start until the first new config was asked for; a resume reads its trials here.
        wall_s: Wall time of all.
        simulated_s: Time on the simulated clock.
        last_tenth_cpu_ms: CPU per trial in the last tenth of the search; beside ``cpu_ms`` it shows what grows.
        database_bytes_per_trial: With write-ahead log.
        measurements: In the database at the end.
        curve: What each tenth of the search cost.
    """

    trials: int
    cpu_ms: float
    search_cpu_ms: float
    store_cpu_ms: float
    rss_growth_bytes: float
    start_s: float
    wall_s: float
    simulated_s: float
    last_tenth_cpu_ms: float
    database_bytes_per_trial: float
    measurements: int
    curve: list[dict[str, float]]

    def document(self) -> dict[str, Any]:
        """Rounded, for JSON."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Mark:
    """Where a search stands after a tenth of its trials."""

    trials: int
    cpu_s: float
    search_s: float
    store_s: float
    anonymous_bytes: int
    database_bytes: float
    status_ms: float
    """Of ``tuner status`` on the sweep, asked in its own process."""


def run(
    url: str,
    trials: int,
    sampler: str,
    *,
    evaluators: int = 8,
    samples: int = 60,
    sweep_id: int | None = None,
    workloads: int = WORKLOADS,
    race_factor: float = RACE_FACTOR,
    make_runner: Callable[..., Any] = ModelledRunner,
) -> Cost:
    """Run a sweep, or go on with one, until it has that many trials."""
    definition = Dataset(PATH).definition(DEFINITION)
    space = space_for(definition, TARGET, None)
    uuids = {name: tuple(f"{name}-{i}" for i in range(workloads)) for name, _, _ in REGIMES}
    runner = make_runner(space, evaluators, samples)
    with Store.open(url) as store:
        plan = SweepPlan(
            definition=definition,
            space=space,
            regimes=tuple(Regime(name, low, high, uuids[name]) for name, low, high in REGIMES),
            method=Method(mode="cuda_graph"),
            settings=SweepSettings(sampler=sampler, max_trials=trials, final_rounds=12, race_factor=race_factor),
            time_reference=False,
        )
        if sweep_id is None:
            sweep_id = _register(store, plan, runner, uuids)
        spent = {"search": 0.0, "store": 0.0}
        for group, name in ((store.trials, "commit"), (store.measurements, "known"), (store.sweeps, "heartbeat")):
            _time_calls(group, (name,), spent, "store")
        watch = _Watch(runner, trials, spent, url)
        began, cpu = time.perf_counter(), time.process_time()
        sweep = Sweep(plan, runner, store, sweep_id, on_progress=watch)
        for state in sweep._states:
            _time_calls(state.search, ("ask", "tell"), spent, "search")
        before = sum(store.trials.count(sweep_id).values())
        watch.began, watch.store, watch.sweep_id = began, store, sweep_id
        sweep.run()
        done = sum(store.trials.count(sweep_id).values()) - before
        total = time.process_time() - cpu - runner.cpu_s - watch.cpu_s
        wall = time.perf_counter() - began
        with store.database.engine.connect() as connection:
            measurements = int(connection.execute(text("SELECT count(*) FROM measurement")).scalar_one())
    each = max(1, done)
    return Cost(
        trials=done,
        cpu_ms=1e3 * total / each,
        search_cpu_ms=1e3 * spent["search"] / each,
        store_cpu_ms=1e3 * spent["store"] / each,
        rss_growth_bytes=watch.growth(),
        start_s=watch.first_s,
        wall_s=wall,
        simulated_s=runner.now_s,
        last_tenth_cpu_ms=watch.last_tenth_ms(),
        database_bytes_per_trial=_size(url) / max(1, before + done),
        measurements=measurements,
        curve=watch.curve(),
    )


class _Watch:
    """Looks at memory, CPU and database as the sweep goes."""

    def __init__(self, runner: Any, trials: int, spent: dict[str, float], url: str) -> None:
        self._runner = runner
        self._trials = trials
        self._spent = spent
        self._url = url
        self.began = 0.0
        self.store: Store
        self.sweep_id = 0
        self.first_s = 0.0
        self.cpu_s = 0.0
        """Spent on looking."""
        self._marks: dict[int, Mark] = {}

    def __call__(self, progress: Any) -> None:
        """Called after every round of the loop."""
        if not self.first_s:
            self.first_s = time.perf_counter() - self.began
        tenth = 10 * progress.done // self._trials
        if progress.phase == "search" and tenth not in self._marks:
            cpu = time.process_time()
            self._marks[tenth] = self._mark(progress.done, cpu - self._runner.cpu_s - self.cpu_s)
            self.cpu_s += time.process_time() - cpu

    def _mark(self, done: int, cpu_s: float) -> Mark:
        times = []
        for _ in range(STATUS_REPEATS):
            began = time.perf_counter()
            describe(self.store, self.sweep_id)
            times.append(1e3 * (time.perf_counter() - began))
        spent = self._spent
        status_ms = statistics.median(times)
        return Mark(done, cpu_s, spent["search"], spent["store"], anonymous_bytes(), _size(self._url), status_ms)

    def growth(self) -> float:
        """Bytes per trial between the first and the last mark after a tenth."""
        marks = [m for t, m in sorted(self._marks.items()) if t >= 1]
        if len(marks) < 2:
            return 0.0
        first, last = marks[0], marks[-1]
        return (last.anonymous_bytes - first.anonymous_bytes) / max(1, last.trials - first.trials)

    def last_tenth_ms(self) -> float:
        """CPU per trial between the last two marks."""
        curve = self.curve()
        return curve[-1]["cpu_ms"] if curve else 0.0

    def curve(self) -> list[dict[str, float]]:
        """What each tenth cost per trial, and how it stood at its end."""
        marks = [m for _, m in sorted(self._marks.items())]
        return [_tenth(old, new) for old, new in itertools.pairwise(marks)]


def _tenth(old: Mark, new: Mark) -> dict[str, float]:
    each = 1e3 / max(1, new.trials - old.trials)
    return {
        "trials": new.trials,
        "cpu_ms": round(each * (new.cpu_s - old.cpu_s), 3),
        "search_cpu_ms": round(each * (new.search_s - old.search_s), 3),
        "store_cpu_ms": round(each * (new.store_s - old.store_s), 3),
        "anonymous_mib": round(new.anonymous_bytes / 2**20, 1),
        "database_mib": round(new.database_bytes / 2**20, 1),
        "status_ms": round(new.status_ms, 2),
    }


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process; without pages of files, which the kernel may drop."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _register(store: Store, plan: SweepPlan, runner: Any, uuids: dict[str, tuple[str, ...]]) -> int:
    definition = plan.definition
    definition_id = store.catalog.register_definition(definition["name"], definition["op_type"], definition)
    for regime in plan.regimes:
        for uuid in uuids[regime.name]:
            store.catalog.register_workload(definition_id, uuid, {"seq_len": regime.low or 1}, "modelled")
    return store.sweeps.create(
        SweepRecord(
            definition_id=definition_id,
            space_id=store.catalog.register_space(plan.space.name, plan.space.target, plan.space.fingerprint),
            environment_id=store.catalog.register_environment(runner.environment()),
            max_trials=int(plan.settings.max_trials),
            host=socket.gethostname(),
        )
    )


def _time_calls(target: Any, names: tuple[str, ...], spent: dict[str, float], kind: str) -> None:
    for name in names:
        inner = getattr(target, name)

        def timed(*args: Any, _inner: Callable[..., Any] = inner, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return _inner(*args, **kwargs)
            finally:
                spent[kind] += time.thread_time() - began

        setattr(target, name, timed)


def _size(url: str) -> float:
    path = Path(url.removeprefix("sqlite:///"))
    return float(sum(p.stat().st_size for p in path.parent.glob(path.name + "*"))) if path.is_file() else 0.0
