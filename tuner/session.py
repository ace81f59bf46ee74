"""From settings to a finished sweep: opens the store, the dataset, the space and the workers, and closes them again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from db.records import SweepRecord, SweepState, WinnerRecord
from db.store import Store
from search_spaces import Config, SearchSpace
from search_spaces.registry import space_for
from tuner import errors, tuning_record
from tuner.errors import UnusableEnvironmentError, UsageError
from tuner.objective import Objective
from tuner.regimes import Regime, split
from tuner.settings import SweepSettings
from tuner.stopping import stoppable
from tuner.sweep import Plan, Progress, Sweep, SweepResult
from workers.dataset import Dataset, Problem
from workers.records import Deadlines, Method
from workers.runner import Runner

if TYPE_CHECKING:
    from tuner.export import Export

CLAIM_STALE_S = 30.0
"""A sweep whose owner has not been heard of for this long may be taken over."""


MODES = {True: ("host",), False: ("cuda_graph", "eager")}
"""Whether the target is the CPU -> execution modes that it can time, the default first."""

GPU_MIN_SAMPLES = 10


class View(Protocol):
    """Whoever watches a sweep."""

    def say(self, text: str) -> None: ...
    def __call__(self, progress: Progress) -> None: ...


@dataclass(frozen=True)
class SweepReport:
    """What a sweep leaves for its caller. Latencies are geometric means over a regime's workloads in microseconds."""

    sweep_id: int
    definition: str
    space: str
    target: str
    hardware: str
    trials: int
    failures: Mapping[str, int]
    default_config: Config
    winners: list[WinnerRecord]
    reference_us: Mapping[str, float]
    example_axes: str
    export: Export | None = None
    exit_code: int = field(default=errors.EXIT_OK)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "sweep_id": self.sweep_id,
            "definition": self.definition,
            "space": self.space,
            "target": self.target,
            "hardware": self.hardware,
            "trials": self.trials,
            "failures": dict(self.failures),
            "default_config": self.default_config,
            "winners": [asdict(w) for w in self.winners],
            "reference_us": dict(self.reference_us),
            "export": None if self.export is None else self.export.document(),
        }


@dataclass(frozen=True)
class Setup:
    """What a command measures with, resolved from its settings."""

    settings: SweepSettings
    dataset: Dataset
    problem: Problem
    target: str
    size_axis: str | None

    @property
    def sizes(self) -> dict[str, int | None]:
        """Workload uuid -> value of the size axis."""
        axis = self.size_axis
        return {w["uuid"]: w["axes"].get(axis) if axis else None for w in self.problem.workloads}

    @property
    def method(self) -> Method:
        """How measurements are taken."""
        s = self.settings
        return Method(
            mode=s.mode or MODES[self.target == "cpu"][0],
            # GPU samples are cheap next to what surrounds them, and six are needed for 95 % at all.
            min_samples=Method.min_samples if self.target == "cpu" else min(GPU_MIN_SAMPLES, s.max_samples),
            max_samples=s.max_samples,
            target_rel_ci=s.target_rel_ci,
            budget_s=s.sample_budget_s,
        )


def resolve(settings: SweepSettings) -> Setup:
    """Find dataset, definition, workloads and target; nothing is started.

    Raises:
        UsageError, DatasetError: Something named does not exist, or the choice is not clear.
    """
    dataset = open_dataset(settings.dataset)
    name = settings.definition or _only_definition(dataset, settings.space)
    definition = dataset.definition(name)
    uuids = [w["uuid"] for w in dataset.workloads(name)]
    chosen = [u for u in uuids if any(u.startswith(p) for p in settings.workloads)] if settings.workloads else None
    if settings.workloads and not chosen:
        raise UsageError(f"no workload of {name} starts with {', '.join(settings.workloads)}; it has {len(uuids)}")
    problem = dataset.problem(name, chosen)
    variable = [a for a, spec in definition["axes"].items() if spec["type"] == "var"]
    target = _target(settings)
    allowed = MODES[target == "cpu"]
    if settings.mode is not None and settings.mode not in allowed:
        raise UsageError(f"setting mode={settings.mode!r} cannot be timed on {target}; allowed: {', '.join(allowed)}")
    return Setup(settings, dataset, problem, target, variable[0] if variable else None)


def _target(settings: SweepSettings) -> str:
    """The target that is given, else the accelerator's, else this machine's."""
    if settings.target is None and settings.accelerators:
        from tuner.kinds import target_for

        return target_for(settings, settings.accelerators[0])
    return settings.target or local_target()


def open_dataset(folder: Path | None) -> Dataset:
    """The dataset of that folder, the packaged one for None."""
    if folder is None:
        from search_spaces.dataset import PATH

        folder = PATH
    return Dataset(folder)


def local_target() -> str:
    """The target of this machine: its GPU's if there is one that has a target, else ``cpu``."""
    from workers.environment import gpu_target

    return gpu_target() or "cpu"


def _only_definition(dataset: Dataset, space: str | None) -> str:
    """The definition a sweep means when none is named: the space's own, or the dataset's only MoE."""
    if space is not None:
        from search_spaces.registry import family

        fitting = [n for n, d in dataset.definitions.items() if family(space).why_not(d) is None]
    else:
        fitting = [n for n, d in dataset.definitions.items() if d["op_type"] == "moe"]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(fitting or dataset.definitions)[:8])
    raise UsageError(f"--definition is needed, {len(fitting)} of the dataset's fit; some are {listed}")


@contextmanager
def open_runner(setup: Setup, say: Callable[[str], None] = lambda _: None) -> Iterator[Runner]:
    """The workers for a problem, ended on the way out whatever happens.

    Args:
        setup: What is measured.
        say: Told when the workers start, which takes a while; not where they cannot.

    Raises:
        UnusableEnvironmentError: There is no machine for the target.
        UsageError: Several accelerators: that takes a sweep on each, see :mod:`tuner.kinds`.
    """
    from workers.environment import gpu_name
    from workers.ray_cluster import ACCELERATORS
    from workers.ray_runner import RayRunner

    s = setup.settings
    if len(s.accelerators) > 1:
        raise UsageError(f"one kind of machine at a time can be measured on, not {', '.join(s.accelerators)}")
    if setup.target != "cpu" and s.ray_address is None and local_target() != setup.target:
        raise UnusableEnvironmentError(
            f"target {setup.target} needs one of {', '.join(ACCELERATORS[setup.target])} and this machine has "
            f"{gpu_name() or 'no GPU'}; give --ray-address of a cluster that has one, or --target {local_target()}"
        )
    say(f"starting workers for {setup.problem.name} on {setup.target}")
    runner = RayRunner(
        setup.problem,
        setup.target,
        deadlines=Deadlines(s.compile_s, s.check_s, s.measure_s),
        ray_address=s.ray_address,
        accelerator=s.accelerators[0] if s.accelerators else None,
        builders=s.builders,
        evaluators=s.evaluators,
        cache_dir=s.cache_dir,
    )
    try:
        yield runner
    finally:
        runner.close()


def run_sweep(
    settings: SweepSettings,
    *,
    resume: int | None = None,
    out: Path | None = None,
    view: View | None = None,
    ticket: str | None = None,
) -> SweepReport:
    """Run a sweep, or go on with one, to a verified Solution.

    Args:
        settings: With ``resume`` only database, cache, dataset and Ray address count: a sweep keeps its own.
        resume: ID of the sweep to go on with.
        out: flashinfer-trace folder for the Solution, None to write none.
        view: Told about progress.
        ticket: What whoever started this process recognises the new sweep by.

    Raises:
        TunerError, SpaceError, StoreError, WorkerError: One line each; what was finished is kept.
        KeyboardInterrupt: The sweep is marked as interrupted and can be resumed.
    """
    store = Store.open(settings.db)
    try:
        if resume is not None:
            settings = settings_of(store, resume, settings)
        setup = resolve(settings)
        space = space_for(setup.problem.definition, setup.target, settings.space)
        regimes = tuple(split(setup.sizes, settings.regimes))
        say = (lambda _: None) if view is None else view.say
        with open_runner(setup, say) as runner:
            sweep_id = _register(store, setup, space, runner, resume, ticket)
            shape = f"space {space.name}, {len(regimes)} regimes, {len(setup.sizes)} workloads"
            say(f"sweep {sweep_id}: {shape}, database {_shown(settings.db)}")
            result = _guarded(store, sweep_id, setup, space, regimes, runner, view)
            return _conclude(store, setup, space, regimes, runner, result, out)
    finally:
        store.close()


def _shown(url: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


def settings_of(store: Store, sweep_id: int, given: SweepSettings) -> SweepSettings:
    """The settings a sweep was started with, on this machine's database, cache and cluster."""
    stored = dict(store.get_sweep(sweep_id).settings)
    stored.pop("host", None)
    here = {"db": given.db, "cache_dir": given.cache_dir, "ray_address": given.ray_address}
    return SweepSettings(**{**stored, **here, **({"dataset": given.dataset} if given.dataset else {})})


def _register(
    store: Store, setup: Setup, space: SearchSpace, runner: Runner, resume: int | None, ticket: str | None
) -> int:
    """Write down what the sweep is about, and claim it for this process."""
    owner = f"{tuning_record.host()}:{os.getpid()}:{time.time():.3f}"
    settings, definition = setup.settings, setup.problem.definition
    environment_id = store.register_environment(tuning_record.environment(runner.environment()))
    definition_id = store.register_definition(definition["name"], definition["op_type"], definition)
    for workload in setup.problem.workloads:
        store.register_workload(definition_id, workload["uuid"], workload["axes"], str(setup.dataset.root))
    space_id = store.register_space(space.name, space.target, space.fingerprint)
    if resume is not None:
        known = store.get_sweep(resume)
        if known.space_fingerprint != space.fingerprint:
            raise UsageError(
                f"sweep {resume} searched another version of space {space.name} ({known.space_fingerprint}, now "
                f"{space.fingerprint}); start a new sweep, it reuses what still holds"
            )
        store.claim_sweep(resume, owner, CLAIM_STALE_S)
        return resume
    return store.create_sweep(
        SweepRecord(
            definition_id=definition_id,
            space_id=space_id,
            environment_id=environment_id,
            seed=settings.seed,
            settings=settings.model_dump(mode="json", exclude={"db", "cache_dir", "ray_address"}),
            budget_s=settings.budget_s,
            max_trials=None if settings.max_trials == "auto" else settings.max_trials,
            host=tuning_record.host(),
            owner=owner,
            ticket=ticket,
        )
    )


def _guarded(
    store: Store,
    sweep_id: int,
    setup: Setup,
    space: SearchSpace,
    regimes: tuple[Regime, ...],
    runner: Runner,
    view: View | None,
) -> SweepResult:
    """Run the loop; however it ends, the sweep's state says so."""
    s = setup.settings
    plan = Plan(
        definition=setup.problem.definition,
        space=space,
        regimes=regimes,
        method=setup.method,
        sampler=s.sampler,
        seed=s.seed,
        max_trials=s.max_trials,
        budget_s=s.budget_s,
        race_factor=s.race_factor,
        finalists=s.finalists,
        final_rounds=s.final_rounds,
        final_s=s.final_s,
        final_share=s.final_share,
        reuse=s.reuse,
        warm_start=_warm_start(store, setup, space, regimes, runner.environment().hardware) if s.warm_start else {},
        prior=prior(store, setup.problem.name, space, regimes, runner.environment().hardware) if s.warm_start else {},
    )
    try:
        with stoppable(store, sweep_id) as checkpoint:
            watch = view or (lambda _: None)
            return Sweep(plan, runner, store, sweep_id, on_progress=watch, checkpoint=checkpoint).run()
    except KeyboardInterrupt:
        store.finish_sweep(sweep_id, SweepState.INTERRUPTED, {})
        if view is not None:
            view.say(f"interrupted; go on with: tuner sweep --resume {sweep_id}")
        raise
    except BaseException as error:
        store.finish_sweep(sweep_id, SweepState.FAILED, {"error": f"{type(error).__name__}: {error}"})
        raise


def _warm_start(
    store: Store, setup: Setup, space: SearchSpace, regimes: tuple[Regime, ...], hardware: str
) -> dict[str, tuple[Config, ...]]:
    """For each regime the best configs of related sweeps (other shapes, other hardware) in the regime of the same name,
    then those that the kernel's author expects to be good for its sizes."""
    related = store.related_best_configs(
        space.name, definition=setup.problem.name, hardware=hardware, limit=6 * len(regimes)
    )
    found = {r.name: [dict(c.config) for c in related if c.regime == r.name][:3] for r in regimes}
    for regime in regimes:
        sizes = [setup.sizes[uuid] for uuid in regime.workloads]
        found[regime.name] += [dict(s.config) for s in space.starts if s.suits(sizes)]
    return {name: tuple(configs) for name, configs in found.items()}


def prior(
    store: Store, definition: str, space: SearchSpace, regimes: tuple[Regime, ...], hardware: str
) -> dict[str, tuple[tuple[Config, float | None], ...]]:
    """The trials of the nearest finished sweep of the same space family, for the regime of the same name."""
    nearest = store.related_best_configs(space.name, definition=definition, hardware=hardware, limit=1)
    if not nearest:
        return {}
    trials = store.trials(nearest[0].sweep_id, measurements=False)
    return {r.name: tuple((dict(t.config), t.objective) for t in trials if t.regime == r.name) for r in regimes}


def _conclude(
    store: Store,
    setup: Setup,
    space: SearchSpace,
    regimes: tuple[Regime, ...],
    runner: Runner,
    result: SweepResult,
    out: Path | None,
) -> SweepReport:
    """Mark the sweep as done, export its winners."""
    by_regime = {r.name: Objective(r.workloads).geomean_us(result.reference) for r in regimes}
    reference = {k: v for k, v in by_regime.items() if v is not None}
    summary = {
        "reference_us": reference,
        "reference_by_workload_us": {w: m.median_us for w, m in result.reference.items()},
        "failures": dict(result.failures),
        "trials": result.trials,
        "evaluator": result.usage,
        "finals": {
            name: {
                "settled": f.ranking.settled,
                "reason": f.ranking.reason,
                "rounds": f.rounds,
                "dropped": dict(f.dropped),
            }
            for name, f in result.finals.items()
        },
    }
    store.finish_sweep(result.sweep_id, SweepState.DONE, summary)
    exported = None
    if out is not None and result.winners:
        from tuner.export import export_winners

        exported = export_winners(store, result.sweep_id, setup, space, runner, out)
    first = setup.problem.workloads[0]["axes"]
    return SweepReport(
        sweep_id=result.sweep_id,
        definition=setup.problem.name,
        space=space.name,
        target=setup.target,
        hardware=runner.environment().hardware,
        trials=result.trials,
        failures=result.failures,
        default_config=space.default,
        winners=result.winners,
        reference_us=reference,
        example_axes=" ".join(f"{k}={v}" for k, v in first.items()),
        export=exported,
        exit_code=errors.EXIT_OK if result.winners else errors.EXIT_NOTHING_FOUND,
    )
