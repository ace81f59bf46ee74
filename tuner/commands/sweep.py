"""Runs a sweep from its settings to its export: opens the store and the workers, and closes them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from db.records import SweepState, WinnerRecord
from db.store import Store
from search_spaces import Config, SearchSpace
from search_spaces.prediction.model import WorkloadFeatures
from search_spaces.targets import is_cuda
from tuner import errors
from tuner.commands.bench import BASELINE_ROUNDS, baseline_variant, measure
from tuner.commands.bench_result import BenchResult
from tuner.commands.going_on import export_command, resume_command, shown
from tuner.commands.registration import begin, failure, recorded_end, register
from tuner.database import open_existing
from tuner.errors import UsageError
from tuner.prediction.expected import expectations, features, of_winners
from tuner.progress import Progress, Steps
from tuner.results.export import Export, export_winners, winners_table
from tuner.results.trace_folder import TraceFolder
from tuner.search import related_sweeps
from tuner.settings import SweepSettings
from tuner.sweeps.finals.crossings import Crossing
from tuner.sweeps.finals.division import whole_of
from tuner.sweeps.loop import Sweep
from tuner.sweeps.objective import Objective
from tuner.sweeps.regimes import Regime
from tuner.sweeps.result import SweepResult
from tuner.sweeps.reuse import why_made_anew
from tuner.sweeps.setup import (
    Setup,
    judgeable,
    open_runner,
    preparing,
    resolve,
    resumed_settings,
    same_space,
    startable,
)
from tuner.sweeps.start.head_start import head_start
from tuner.sweeps.start.plan import SweepPlan
from tuner.sweeps.start.sign_of_life import shown_alive
from tuner.sweeps.stop_requests import noted_signals, stoppable
from tuner.sweeps.variants import solution_variant
from workers.devices.libraries import imported_names
from workers.errors import WorkerError
from workers.fib.dataset import profile_of
from workers.records import Variant
from workers.runner import Runner


class View(Steps):
    """Receives the progress of a sweep; this one shows nothing."""

    def __call__(self, progress: Progress) -> None:
        """Show a snapshot."""


@dataclass(frozen=True)
class SweepReport:
    """The result of a sweep. Latencies are geometric means over a regime's workloads in microseconds.

    ``export_failure`` says why there is no Solution in ``out``. The winners are kept; ``export_command`` tries again.
    """

    sweep_id: int
    definition: str
    space: str
    target: str
    hardware: str
    trials: int
    failures: Mapping[str, int]
    default_config: Config
    default_by_regime: Mapping[str, Config]
    winners: list[WinnerRecord]
    reference_us: Mapping[str, float]
    example_axes: str
    crossings: Sequence[Crossing] = ()
    """Where the winners of neighbouring regimes cross."""
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Regime -> hash of each finalist that would have won but for the guard -> why."""
    left_out: tuple[str, ...] = ()
    """One line for each workload that has no inputs or cannot be judged, saying why."""
    reasons: tuple[str, ...] = ()
    """Why trials failed, the most frequent reasons first."""
    stopped_early: bool = False
    """Whether the search stopped because the first trials all failed for the same reason."""
    export: Export | None = None
    export_failure: Exception | None = None
    out: Path | None = None
    beside_baseline: BenchResult | None = None
    """The baseline and the winners' Solution side by side, if a baseline was given."""
    export_command: str = ""
    """The command that writes the Solution, once the cause of the failure is gone."""
    exit_code: int = field(default=errors.EXIT_OK)

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
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
            "crossings": [c.document() for c in self.crossings],
            "refused": {regime: dict(why) for regime, why in self.refused.items()},
            "reference_us": dict(self.reference_us),
            "baseline": None if self.beside_baseline is None else self.beside_baseline.document(),
            "left_out": list(self.left_out),
            "reasons": list(self.reasons),
            "export": None if self.export is None else self.export.document(),
            "export_error": None if self.export_failure is None else str(self.export_failure),
        }


def run_sweep(
    settings: SweepSettings,
    *,
    resume: int | None = None,
    out: Path | None = None,
    view: View | None = None,
    ticket: str | None = None,
    retry_failed: bool = False,
) -> SweepReport:
    """Run or resume a sweep, up to a verified Solution.

    Args:
        settings: With ``resume`` the sweep keeps its own, except for those in ``CHANGEABLE`` that are given.
        resume: ID of the sweep to resume.
        out: flashinfer-trace folder for the Solution, None to write none.
        view: Shows the progress.
        ticket: Text by which the server that started this process recognises the new sweep.
        retry_failed: With ``resume``, make trials again that failed for a reason of the machine.

    Raises:
        TunerError, SpaceError, StoreError, WorkerError: The message is one line; finished trials are kept.
        KeyboardInterrupt: The sweep is marked as interrupted and can be resumed; the message says how. Without a
            message nothing was begun.
    """
    if retry_failed and resume is None:
        raise UsageError("--retry-failed goes on with a sweep: give its ID with --resume")
    view = view or View()
    with Store.open(settings.db) if resume is None else open_existing(settings.db) as store:
        if resume is not None:
            settings = resumed_settings(store, resume, settings)
        setup = resolve(settings)
        space = setup.checked_space()  # bad values are refused before anything starts
        startable(setup)  # before the proof, which takes seconds
        setup = setup.timed_as(space)
        if resume is not None:
            space = same_space(store.sweeps.get(resume), space)
        folder = None if out is None else TraceFolder(out, setup.dataset, setup.problem)
        if folder is not None:
            folder.check()
        baseline = baseline_variant(setup)
        setup = setup.with_generator()
        say = view.say
        _prove(setup, say)
        if settings.verify_first and resume is None:
            from tuner.commands.verify import verify_first

            own = settings.model_copy(update={"space": settings.space or setup.family().name, "target": setup.target})
            verify_first(own, view)
        imports = imported_names(space.sources, space.dependencies)
        with ExitStack() as stack:
            with noted_signals() as interrupt:  # none comes between the row and what records its end
                sweep_id = resume if resume is not None else register(store, setup, space, ticket)
                recorded = partial(recorded_end, store, sweep_id, resume_command(sweep_id, settings, out))
                stack.enter_context(recorded())
            interrupt()  # before workers are started, which may take minutes
            started = stack.enter_context(shown_alive(store, sweep_id))
            runner = stack.enter_context(open_runner(setup, say, imports))
            stack.enter_context(recorded())  # once more, since ending the workers takes seconds
            view.step(preparing(setup))
            ahead = None
            if resume is None and is_cuda(setup.target):  # on a CPU builders would take cores from what is prepared
                ahead = head_start(_plan(store, setup, space, setup.regimes(space.size_axis), runner), runner)
            setup = judgeable(setup, runner, say)
            sizes = setup.sizes(space.size_axis)
            regimes = setup.regimes(space.size_axis)
            begin(store, sweep_id, setup, space, regimes, runner.environment())
            _measure_rates(store, sweep_id, runner, view)
            shape = f"space {space.name}, {_parts(regimes, space.size_axis)}, {len(sizes)} workloads"
            say(f"sweep {sweep_id}: {shape}, database {shown(settings.db)}")
            if settings.reuse:
                _say_what_is_not_reused(store, sweep_id, setup, space, runner, say)
            plan = replace(_plan(store, setup, space, regimes, runner), retry_failed=retry_failed)
            started()
            with stoppable(store, sweep_id) as checkpoint:
                sweep = Sweep(
                    plan, runner, store, sweep_id, on_progress=view, steps=view, checkpoint=checkpoint, ahead=ahead
                )
                result = sweep.run()
            _say_what_load_there_was(result, say)
            for line in result.timed_eagerly:
                say(line)
            winners_kept = export_command(sweep_id, settings, out)
            try:
                return _conclude(store, setup, space, runner, result, out, view, baseline)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"the winners are kept; go on with: {winners_kept}") from None


def _measure_rates(store: Store, sweep_id: int, runner: Runner, view: View) -> None:
    """Measure the machine's peak rates, once for each environment, where no data sheet has them."""
    sweep = store.sweeps.get(sweep_id)
    assert sweep.environment_id is not None, "workers are up"
    if is_cuda(sweep.target) or store.catalog.rates(sweep.environment_id):
        return
    view.step("measuring how fast this machine copies, multiplies and adds")
    if rates := runner.rates():
        store.catalog.set_rates(sweep.environment_id, rates)


def _say_what_is_not_reused(
    store: Store, sweep_id: int, setup: Setup, space: SearchSpace, runner: Runner, say: Callable[[str], None]
) -> None:
    sweep = store.sweeps.get(sweep_id)
    earlier = store.measurements.all_of(sweep.definition_id, sweep.space_id, space.config_hash(space.default))
    contents = {w["uuid"]: setup.problem.content(w["uuid"]) for w in setup.problem.workloads}
    reasons = why_made_anew(earlier, runner.environment(), setup.method, contents)
    if reasons:
        say(f"figures of earlier sweeps are measured anew, since they were made in another way: {'; '.join(reasons)}")


def _parts(regimes: Sequence[Regime], size_axis: str | None) -> str:
    """How sizes are divided into regimes, as text."""
    if size_axis is None:
        return "no size axis: one config for all sizes"
    return f"{len(regimes)} regime{'' if len(regimes) == 1 else 's'} of {size_axis}"


def _prove(setup: Setup, say: Callable[[str], None]) -> None:
    """Let a family of kernels prove that it interprets the definition correctly.

    Raises:
        UsageError: It does not, so none of its kernels could be right.
    """
    family = setup.family()
    proof = family.prove(setup.problem.definition)
    if proof.agrees is False:
        raise UsageError(f"space {family.name!r} misreads {setup.problem.name!r}: {proof.detail}; nothing was started")
    if proof.agrees is None:
        say(f"space {family.name} could not prove that it reads {setup.problem.name} rightly: {proof.detail}")


def _say_what_load_there_was(result: SweepResult, say: Callable[[str], None]) -> None:
    if result.made_anew:
        say(f"{result.made_anew} figures of earlier sweeps were measured again: other processes had been busy")
    if result.beside_load:
        say(
            f"{len(result.beside_load)} figures were taken beside other load, up to {max(result.beside_load)}; the "
            "next sweep measures them again"
        )


def _plan(store: Store, setup: Setup, space: SearchSpace, regimes: tuple[Regime, ...], runner: Runner) -> SweepPlan:
    """What the sweep is to do; the model expects even routing of workloads that were not looked at yet."""
    s = setup.settings
    hardware = runner.environment().hardware
    about = (store, space, setup.problem.name, hardware)
    sizes = setup.sizes(space.size_axis)
    by_regime = {r.name: [sizes[uuid] for uuid in r.workloads] for r in regimes}
    return SweepPlan(
        definition=setup.problem.definition,
        space=space,
        regimes=regimes,
        method=setup.method,
        settings=s,
        warm_start=related_sweeps.suggested(*about, by_regime) if s.warm_start else {},
        prior=related_sweeps.prior(*about, by_regime) if s.warm_start else {},
        expect=expectations(space, regimes, _like(setup), hardware),
    )


def _like(setup: Setup) -> dict[str, WorkloadFeatures]:
    """What each workload is like, as far as it was looked at."""
    known = {uuid: prepared.figures for uuid, prepared in setup.prepared.items()}
    return {w["uuid"]: features(w["axes"], known.get(w["uuid"], {})) for w in setup.problem.workloads}


def _conclude(
    store: Store,
    setup: Setup,
    space: SearchSpace,
    runner: Runner,
    result: SweepResult,
    out: Path | None,
    view: View,
    baseline: Variant | None,
) -> SweepReport:
    """Mark the sweep as done and export its winners."""
    by_regime = {r.name: Objective(r.workloads, r.weights).geomean_us(result.reference) for r in result.regimes}
    reference = {k: v for k, v in by_regime.items() if v is not None}
    hardware = runner.environment().hardware
    summary = {
        "reference_us": reference,
        "reference_by_workload_us": {w: m.median_us for w, m in result.reference.items()},
        "failures": dict(result.failures),
        "trials": result.trials,
        "evaluator": result.usage,
        "timed_eagerly": list(result.timed_eagerly),
        "finals": {
            name: {
                "mode": f.mode,
                "settled": f.ranking.settled,
                "reason": f.ranking.reason,
                "rounds": f.rounds,
                "dropped": dict(f.dropped),
                "refused": dict(f.ranking.refused),
            }
            for name, f in result.finals.items()
        },
    }
    summary["crossings"] = [c.document() for c in result.crossings]
    summary["inputs"] = [
        {"workload": w["uuid"], "axes": w["axes"], "profile": profile_of(w), "figures": dict(found.figures)}
        for w in setup.problem.workloads
        if (found := setup.prepared.get(w["uuid"])) is not None and found.figures
    ]
    summary["expected"] = of_winners(space, store.winners.of(result.sweep_id), _like(setup), hardware)
    if not result.winners:
        summary |= failure("no config passed", "; ".join(result.reasons.lines()))
    beside: BenchResult | None = None
    if baseline is not None and result.winners:
        table = winners_table(store.winners.of(result.sweep_id), space, result.sweep_id)
        tuned = solution_variant(setup.problem.name, space, table, "tuned")
        try:
            beside = measure(
                runner, setup, [baseline, tuned], BASELINE_ROUNDS, setup.settings.seed, view,
                checkpoint=lambda: store.sweeps.heartbeat(result.sweep_id),
            )  # fmt: skip
            summary["baseline"] = beside.document()
        except WorkerError as error:  # the winners are known, and have to be kept
            view.say(f"the baseline could not be measured: {error}")
            summary["baseline_failure"] = str(error)
    store.sweeps.finish(result.sweep_id, SweepState.DONE if result.winners else SweepState.FAILED, summary)
    if beside is not None and beside.interrupted:
        raise KeyboardInterrupt
    exported, failed = None, None
    if out is not None and result.winners:
        try:
            exported = export_winners(store, result.sweep_id, setup, space, runner, out, view=view)
        except Exception as error:  # whatever went wrong, the winners must reach the user
            failed = error
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
        default_by_regime={
            r.name: space.at(whole_of(r, setup.regimes(space.size_axis)).sizes.values()).default for r in result.regimes
        },
        winners=result.winners,
        crossings=result.crossings,
        refused={name: f.ranking.refused for name, f in result.finals.items()},
        reference_us=reference,
        beside_baseline=beside,
        example_axes=" ".join(f"--axes {k}={v}" for k, v in first.items()),
        left_out=setup.problem.left_out,
        reasons=tuple(result.reasons.lines()),
        stopped_early=result.reasons.is_pointless_to_go_on and not setup.settings.keep_going,
        export=exported,
        export_failure=failed,
        out=out,
        export_command=export_command(result.sweep_id, setup.settings, out),
        exit_code=errors.EXIT_OK if result.winners else errors.EXIT_NOTHING_FOUND,
    )
