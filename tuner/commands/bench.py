"""``tuner bench``: Solutions measured side by side, interleaved, so that their differences are paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from db.records import SweepRecord
from db.store import Store
from search_spaces import Config
from tuner.commands.bench_result import BenchResult
from tuner.database import open_existing
from tuner.errors import UsageError
from tuner.files import read_object
from tuner.format import first_line, workload_text
from tuner.progress import Steps
from tuner.results.export import newest_finished, winners_table
from tuner.settings import SweepSettings
from tuner.sweeps.setup import (
    Setup,
    judgeable,
    local_target,
    open_runner,
    preparing,
    resolve,
    same_space,
    settings_of,
)
from tuner.sweeps.stop_requests import noted_signals
from tuner.sweeps.variants import solution_variant
from workers.devices.environment import hardware_of_target
from workers.errors import DatasetError
from workers.fib import adapter as fib
from workers.fib.dataset import profile_of, unknown
from workers.records import BuildResult, BuiltVariant, ComparisonJob, Evaluation, Measurement, Status, Variant
from workers.runner import Outcome, Runner

SPECIAL = ("best", "default", "reference")
BASELINE = "baseline"
BASELINE_ROUNDS = 24
MOST_LOST = 2
"""After so many workloads on which a Solution hangs, crashes or does not load, it is not tried on the others."""


def run_bench(settings: SweepSettings, solutions: Sequence[str], rounds: int, view: Steps | None = None) -> BenchResult:
    """Measure Solutions of one definition side by side.

    Args:
        settings: Settings with definition, dataset, target, workloads and database.
        solutions: Names in the dataset's ``solutions/``, paths of Solution JSON files, or ``best`` and ``default`` of
            the newest finished sweep of the target on this hardware, or ``reference``.
        rounds: Number of samples of each Solution on each workload.
        view: Shows what is being done, and each workload's results as they arrive.

    Raises:
        UsageError: A Solution is unknown, or they solve different definitions.
    """
    view = view or Steps()
    settings = settings.model_copy(update=_named_by(settings, solutions))
    tuned = {"best", "default"} & set(solutions)
    sweep = _swept(settings, view.say) if tuned else None
    if sweep is not None:
        dataset = settings.dataset or _path(sweep.settings.get("dataset"))
        settings = settings.model_copy(update={"definition": sweep.definition, "dataset": dataset})
    setup = resolve(settings)
    variants = _variants(setup, solutions, sweep)
    with open_runner(setup, view.say) as runner:
        view.step(preparing(setup))
        setup = judgeable(setup, runner, view.say)
        with noted_signals() as checkpoint:  # until here there is no result that a signal could lose
            return measure(runner, setup, variants, rounds, settings.seed, view, checkpoint)


def measure(
    runner: Runner,
    setup: Setup,
    variants: Sequence[Variant],
    rounds: int,
    seed: int,
    view: Steps | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> BenchResult:
    """Build the variants, then measure those that built, interleaved, one workload after the other.

    Results of a workload are kept whatever happens later. A Solution that fails, hangs or crashes on one workload is
    still measured on the others, and if ``checkpoint`` raises KeyboardInterrupt the results so far are returned.
    """
    view = view or Steps()
    names = tuple(v.key for v in variants)
    axes = {w["uuid"]: workload_text(w["axes"], profile_of(w)) for w in setup.problem.workloads}
    found: dict[str, list[Measurement]] = {name: [] for name in names}
    failures: dict[str, tuple[Status, str]] = {}

    lost: Counter[str] = Counter()
    hardware = ""

    def tick() -> None:
        view.tick()
        checkpoint()

    def result(interrupted: bool) -> BenchResult:
        evaluations = {n: _evaluation(n, failures.get(n), found[n]) for n in names}
        return BenchResult(setup.problem.name, hardware, names, axes, evaluations, interrupted)

    try:
        built = _build(runner, setup, variants, failures, view, tick)
        hardware = runner.environment().hardware
        job = ComparisonJob(built, (), replace(setup.method, interleaved=True), rounds, seed, keep_loaded=True)
        for index, uuid in enumerate(axes):
            left = tuple(v for v in built if lost[v.key] < MOST_LOST)
            if not left:
                break
            view.step(f"workload {index + 1} of {len(axes)} ({axes[uuid]}): checking and timing {len(left)} Solutions")
            part = replace(job, variants=left, workloads=(uuid,), seed=seed + index)
            for evaluation in runner.compared(part, tick).evaluations:
                # Without an evaluation, when its process died or it did not load, there is only a status.
                lost[evaluation.key] += not evaluation.measurements
                measurements = evaluation.measurements or (
                    Measurement(uuid, evaluation.status, message=evaluation.message),
                )
                found[evaluation.key] += measurements
                for measurement in measurements:
                    if measurement.status is not Status.PASSED and evaluation.key not in failures:
                        failures[evaluation.key] = (measurement.status, measurement.message)
                        view.say(f"{evaluation.key}: {measurement.status.value} {first_line(measurement.message)}")
            so_far = result(False)
            view.say(f"{axes[uuid]}: " + ", ".join(f"{n} {so_far.cell(n, uuid)}" for n in names if n in found))
    except KeyboardInterrupt:
        return result(True)
    return result(False)


def _build(
    runner: Runner,
    setup: Setup,
    variants: Sequence[Variant],
    failures: dict[str, tuple[Status, str]],
    view: Steps,
    tick: Callable[[], None],
) -> tuple[BuiltVariant, ...]:
    """The variants that can be built. Reasons for the others go to ``failures``, and to the user at once."""
    waiting = {v.key for v in variants}
    limits = setup.deadlines
    view.say(
        f"{len(variants)} Solutions on {len(setup.problem.workloads)} workloads; limits: {limits.compile_s:g} s to "
        f"build, "
        f"{limits.check_s:g} s to load and check, {limits.measure_s:g} s to measure a workload; one that hangs or "
        f"crashes on {MOST_LOST} workloads is not tried on the rest"
    )

    def arrived(outcome: Outcome) -> None:
        assert isinstance(outcome, BuildResult)
        waiting.discard(outcome.key)
        if outcome.status is not Status.BUILT:
            failures[outcome.key] = (outcome.status, outcome.log)
            view.say(f"{outcome.key}: {outcome.status.value} {first_line(outcome.log)}")
        view.step(f"building {', '.join(sorted(waiting))}", limits.compile_s)

    view.step(f"building {', '.join(sorted(waiting))}", limits.compile_s)
    builds = runner.built(variants, tick, arrived)
    return tuple(v.built(artifact) for v in variants if (artifact := builds[v.key].artifact) is not None)


def _evaluation(name: str, failure: tuple[Status, str] | None, measurements: Sequence[Measurement]) -> Evaluation:
    status, message = failure or (Status.PASSED, "")
    return Evaluation(name, status, tuple(measurements), message=message)


def _named_by(settings: SweepSettings, solutions: Sequence[str]) -> dict[str, Any]:
    """The definition of a Solution file, if none is given."""
    if settings.definition is not None:
        return {}
    for solution in solutions:
        if solution.endswith(".json") and Path(solution).is_file():
            named = read_object(Path(solution), "Solution file").get("definition")
            if not isinstance(named, str):
                raise UsageError(f"Solution file {solution} does not name its definition")
            return {"definition": named}
    return {}


def _swept(settings: SweepSettings, say: Callable[[str], None]) -> SweepRecord:
    """The sweep that ``best`` and ``default`` mean: the newest finished one of the target on the hardware that is
    measured on; on any hardware where a cluster decides.

    Raises:
        NothingFoundError: There is none.
    """
    target = settings.target or local_target()
    here = hardware_of_target(target) if settings.ray_address is None else None
    with open_existing(settings.db) as store:
        sweep = store.sweeps.get(newest_finished(store, settings.definition, here, target))
    say(f"best and default are those of sweep {sweep.id}: space {sweep.space} for {sweep.target} on {sweep.hardware}")
    return sweep


def baseline_variant(setup: Setup) -> Variant | None:
    """The Solution that the settings name as their baseline, None if there is none.

    Raises:
        UsageError: It cannot be read, or solves another definition.
    """
    path = setup.settings.baseline
    if path is None:
        return None
    try:
        variant = fib.variant_of(read_object(path, "Solution file"), setup.target)
    except DatasetError as error:
        raise UsageError(f"baseline {path}: {error}") from None
    if variant.definition != setup.problem.name:
        raise UsageError(f"baseline {path} solves {variant.definition}, not {setup.problem.name}")
    return replace(variant, key=BASELINE)


def _path(text: Any) -> Path | None:
    return Path(text) if text else None


def _variants(setup: Setup, solutions: Sequence[str], sweep: SweepRecord | None) -> list[Variant]:
    variants = [_variant(setup, name, sweep) for name in solutions]
    variants = _told_apart(solutions, variants)
    for variant in variants:
        if variant.definition != setup.problem.name:
            raise UsageError(f"{variant.key} solves {variant.definition}, not {setup.problem.name}")
    return variants


def _told_apart(given: Sequence[str], variants: Sequence[Variant]) -> list[Variant]:
    """The variants under names of their own: where files hold Solutions of one name, the files' names count.

    Raises:
        UsageError: One is given twice.
    """
    twice = next((name for name, count in Counter(given).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice")
    keys = [v.key for v in variants]
    for name_of in (lambda path: path.stem, str):
        same = {key for key, count in Counter(keys).items() if count > 1}
        named = [name_of(Path(g)) if g.endswith(".json") else k for g, k in zip(given, keys, strict=True)]
        keys = [n if k in same else k for k, n in zip(keys, named, strict=True)]
    if len(set(keys)) < len(keys):
        raise UsageError(f"several of these are the same Solution: {', '.join(given)}")
    return [replace(v, key=key) for v, key in zip(variants, keys, strict=True)]


def _variant(setup: Setup, name: str, sweep: SweepRecord | None) -> Variant:
    if name == "reference":
        return fib.reference_variant(setup.problem.definition, setup.target)
    if name in ("best", "default") and sweep is not None:
        return _tuned(setup, name, sweep)
    if name.endswith(".json"):
        return fib.variant_of(read_object(Path(name), "Solution file"), setup.target)
    known = setup.dataset.solutions()
    if name not in known:
        raise UsageError(unknown("Solution", name, [*known, *SPECIAL]))
    return fib.variant_of(known[name], setup.target)


def _tuned(setup: Setup, which: str, sweep: SweepRecord) -> Variant:
    """The best Solution of a sweep, or its space's default config."""
    with Store.open(setup.settings.db, create=False) as store:
        swept = settings_of(store, sweep.id, setup.settings)
        space = replace(setup, settings=swept).space()
        table: list[tuple[int | None, Config]] = space.default_table
        if which == "best":
            space = same_space(sweep, space)
            table = winners_table(store.winners.of(sweep.id), space, sweep.id)
    return solution_variant(setup.problem.name, space, table, which)
