"""Resolves settings to what they name: dataset, definition, workloads, target, method, and the workers of a sweep."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from db.records import SweepRecord
from db.store import Store
from search_spaces import SearchSpace, SpaceFamily
from search_spaces.inputs.generator import RECORDED
from search_spaces.source_files import selects_without_a_size
from search_spaces.targets import accelerators_of, is_cuda, target_named
from tuner.errors import NothingFoundError, UnusableEnvironmentError, UsageError
from tuner.settings import GRAPH_MODES, SweepSettings
from tuner.sweeps.regimes import Regime, split
from workers.devices.libraries import not_installed
from workers.errors import WorkerError
from workers.fib.adapter import definition_model
from workers.fib.dataset import Dataset, Document, Problem, profile_of
from workers.fib.made_workloads import mixed, weights
from workers.judge.outputs.rules import Asked, Rule, for_official_run, rules_for, unjudgeable
from workers.records import AUTO, PREPARE_S, Deadlines, Method, Prepared, Tolerance
from workers.runner import Runner

_log = logging.getLogger(__name__)

GPU_MIN_SAMPLES = 10


@dataclass(frozen=True)
class Setup:
    """What a command measures with, resolved from its settings."""

    settings: SweepSettings
    dataset: Dataset
    problem: Problem
    target: str
    rules: tuple[Rule, ...] = ()
    """How each output is judged."""
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    """What is known of the workloads, once :func:`judgeable` has asked."""

    def sizes(self, axis: str | None) -> dict[str, int | None]:
        """Workload uuid -> value of the axis; None for each where there is no axis."""
        return {w["uuid"]: w["axes"][axis] if axis is not None else None for w in self.problem.workloads}

    def regimes(self, axis: str | None) -> tuple[Regime, ...]:
        """The size ranges of the workloads, with what each workload counts.

        Raises:
            UsageError: The bounds do not rise, or there is no workload.
        """
        counts = weights(self.problem.workloads, self.settings.profiles)
        profiles = {w["uuid"]: profile_of(w) for w in self.problem.workloads}
        return tuple(
            replace(r, weights={w: counts[w] for w in r.workloads}, profiles={w: profiles[w] for w in r.workloads})
            for r in split(self.sizes(axis), self.settings.regimes)
        )

    def family(self) -> SpaceFamily:
        """The family that is named, else the one that solves the definition on the target.

        Raises:
            SpaceError: There is none, or it does not fit.
        """
        from search_spaces.registry import family_for

        return family_for(self.problem.definition, self.target, self.settings.space)

    def space(self) -> SearchSpace:
        """The family's space for the definition, with the size axis that the settings name.

        Raises:
            SpaceError: There is no family, it does not fit, or it goes by another axis than the named one.
            UsageError: The named axis is not one that a Solution of the space could dispatch by.
        """
        space = self.family().space(self.problem.definition, self.target)
        tell_missing(space)
        axis = self.settings.size_axis
        if axis is None:
            axis = space.size_axis
        variable = [n for n, spec in self.problem.definition["axes"].items() if spec["type"] == "var"]
        if axis != space.size_axis and axis not in variable:
            listed = ", ".join(variable) or "none"
            raise UsageError(f"size axis {axis!r} is not a variable axis of {self.problem.name}; those are {listed}")
        # Over workloads of one size the table has one row, so a kernel need not pass a size.
        if axis is not None and selects_without_a_size(space.sources) and len(set(self.sizes(axis).values())) > 1:
            raise UsageError(
                f"size axis {axis!r}: space {space.name!r} calls select() without a size, so its Solution would take "
                f"the config of the smallest size for all; write select(SIZE), or name no size axis"
            )
        if axis is None or axis == space.size_axis:
            return space
        if len(space.generated_files) > 1:
            raise UsageError(f"size axis {axis!r}: a Solution in {space.language} holds one config for all sizes")
        return space.by_axis(axis)

    def checked_space(self) -> SearchSpace:
        """The space, known to have a valid default at the sizes of each regime.

        Raises:
            SpaceError, UsageError: As for :meth:`space` and :meth:`regimes`, a default is not valid, or Triton has no
                device for its kernels here.
        """
        space = self.space()
        if space.language == "triton" and self.target == "cpu" and os.environ.get("TRITON_INTERPRET", "0") == "0":
            raise UsageError("Triton kernels run on a CPU in Triton's interpreter alone; set TRITON_INTERPRET=1")
        for regime in self.regimes(space.size_axis):
            space.at(regime.sizes.values())
        return space

    def timed_as(self, space: SearchSpace) -> Setup:
        """This setup with the mode that the space asks for, unless the settings name one."""
        if self.settings.mode is not None or space.mode == AUTO or not is_cuda(self.target):
            return self
        return replace(self, settings=self.settings.model_copy(update={"mode": GRAPH_MODES[space.mode]}))

    def with_generator(self) -> Setup:
        """The setup with what the space has to say about inputs, whatever profiles are asked for."""
        if self.problem.generator is not None:
            return self
        generator = self.family().input_generator(self.problem.definition)
        return replace(self, problem=replace(self.problem, generator=generator))

    @property
    def deadlines(self) -> Deadlines:
        """Of the phases of a candidate."""
        return Deadlines(self.settings.compile_s, self.settings.check_s, self.settings.measure_s)

    @property
    def official_rule(self) -> Tolerance:
        """What stock flashinfer-bench is told to accept."""
        return for_official_run(self.rules, max((p.scale for p in self.prepared.values()), default=1.0))

    @property
    def method(self) -> Method:
        """How measurements are taken."""
        s = self.settings
        modes = target_named(self.target).modes
        mode = s.mode or AUTO
        return Method(
            mode=modes[0] if mode == AUTO and len(modes) == 1 else mode,
            # GPU samples are cheap next to what surrounds them, and six are needed for 95 % at all.
            min_samples=min(GPU_MIN_SAMPLES, s.max_samples) if is_cuda(self.target) else Method.min_samples,
            max_samples=s.max_samples,
            target_rel_ci=s.target_rel_ci,
            budget_s=s.sample_budget_s,
            rules="; ".join(f"{rule.output} {rule}" for rule in self.rules),
        )


def tell_missing(space: SearchSpace) -> None:
    """Say which dependencies of a space are not installed here. Whether a kernel can do without, its build shows."""
    missing = not_installed(space.dependencies, space.sources)
    if missing:
        _log.warning(f"space {space.name!r} has dependencies that this machine lacks: {missing}")


def resolve(settings: SweepSettings, dataset: Dataset | None = None) -> Setup:
    """Find dataset, definition, workloads and target; nothing is started.

    Args:
        settings: What is named.
        dataset: The dataset, if it has been read already.

    Raises:
        UsageError, DatasetError: Something named does not exist, or the choice is not clear.
        NothingFoundError: The definition's outputs cannot be judged.
    """
    dataset = dataset or open_dataset(settings.dataset)
    name = settings.definition or _only_definition(dataset, settings.space)
    definition = dataset.definition(name)
    chosen = _chosen(settings, name, dataset.workloads(name))
    why_not = unjudgeable(definition)
    if why_not is not None:
        raise NothingFoundError(why_not)
    asked = Asked(settings.rtol, settings.atol, settings.required_matched_ratio, settings.judge)
    try:
        rules = rules_for(definition, asked)
    except ValueError as error:
        raise UsageError(str(error)) from None
    problem = replace(dataset.problem(name, chosen), asked=asked)
    target = _target(settings)
    allowed = target_named(target).modes
    if settings.mode not in (None, AUTO, *allowed):
        listed = ", ".join((AUTO, *allowed))
        raise UsageError(f"setting mode={settings.mode!r} cannot be timed on {target}; allowed: {listed}")
    return _mixed(Setup(settings, dataset, problem, target, rules))


def _chosen(settings: SweepSettings, definition: str, workloads: Sequence[Document]) -> list[str] | None:
    """Uuids of the workloads that the settings name by uuid and size; None for all.

    Raises:
        UsageError: There is none, or none of a uuid or size that is named.
    """
    if not settings.workloads and not settings.axes:
        return None
    for prefix in settings.workloads:
        if not any(str(w["uuid"]).startswith(prefix) for w in workloads):
            raise UsageError(f"no workload of {definition} starts with {prefix}; it has {len(workloads)}")
    chosen = [w for w in workloads if not settings.workloads or str(w["uuid"]).startswith(settings.workloads)]
    sizes: dict[str, set[int]] = {}
    for name, _, number in (pair.partition("=") for pair in settings.axes):
        sizes.setdefault(name, set()).add(int(number))
    for name, wanted in sizes.items():
        there = sorted({w["axes"][name] for w in chosen if name in w["axes"]})
        chosen = [w for w in chosen if w["axes"].get(name) in wanted]
        if not chosen:
            have = f"sizes of {name} are {', '.join(map(str, there))}" if there else f"there is no axis {name!r}"
            raise UsageError(f"no workload of {definition} has {', '.join(settings.axes)}; {have}")
    return [str(w["uuid"]) for w in chosen]


def _mixed(setup: Setup) -> Setup:
    """The setup with the workloads of other profiles and sizes that the settings ask for."""
    s = setup.settings
    if set(s.profiles) == {RECORDED} and s.sizes == "listed":
        return setup
    space = setup.space()
    generator = setup.family().input_generator(setup.problem.definition)
    return replace(setup, problem=mixed(setup.problem, s.profiles, s.sizes, space.size_axis, generator))


def _target(settings: SweepSettings) -> str:
    """The target that is given, else the accelerator's, else this machine's."""
    if settings.target is None and settings.accelerators:
        from tuner.sweeps.per_accelerator import target_for

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
    from workers.devices.environment import gpu_target

    return gpu_target() or "cpu"


def _only_definition(dataset: Dataset, space: str | None) -> str:
    """The definition a sweep means when none is named: the space's own, or the dataset's only MoE."""
    if space is not None:
        from search_spaces.registry import family

        named = family(space)  # reading a folder takes a while and may log a warning
        reasons = {name: named.why_not(definition) for name, definition in dataset.definitions.items()}
        fitting = [name for name, why_not in reasons.items() if why_not is None]
        if len(reasons) == 1 and not fitting:
            ((name, why_not),) = reasons.items()
            raise UsageError(f"space {named.name!r} cannot solve {name!r}: {why_not}")
    else:
        fitting = [n for n, d in dataset.definitions.items() if d["op_type"] == "moe"]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(fitting or dataset.definitions)[:8])
    raise UsageError(f"--definition is needed, {len(fitting)} of the dataset's fit; some are {listed}")


def startable(setup: Setup) -> None:
    """Refuse what no workers can be started for, which this machine knows by itself.

    Raises:
        UnusableEnvironmentError, UsageError: As for :func:`open_runner`.
    """
    from workers.devices.environment import gpu_name

    s = setup.settings
    if len(s.accelerators) > 1:
        raise UsageError(f"one kind of machine at a time can be measured on, not {', '.join(s.accelerators)}")
    if is_cuda(setup.target) and s.ray_address is None and local_target() != setup.target:
        raise UnusableEnvironmentError(
            f"target {setup.target} needs one of {', '.join(accelerators_of(setup.target))} and this machine has "
            f"{gpu_name() or 'no GPU'}; give --ray-address of a cluster that has one, or --target {local_target()}"
        )


@contextmanager
def open_runner(
    setup: Setup, say: Callable[[str], None] = lambda _: None, imports: tuple[str, ...] = ()
) -> Iterator[Runner]:
    """The workers for a problem; they are ended on exit in any case.

    Args:
        setup: What is measured.
        say: Told when the workers start, which takes a while; not where they cannot.
        imports: Modules that the kernels import, whose versions are part of the environment.

    Raises:
        UnusableEnvironmentError: There is no machine for the target.
        UsageError: Several accelerators: that takes a sweep on each, see :mod:`tuner.sweeps.per_accelerator`.
    """
    from workers.cluster.ray_runner import RayRunner

    startable(setup)
    s = setup.settings
    say(f"starting workers for {setup.problem.name} on {setup.target}")
    runner = RayRunner(
        setup.problem,
        setup.target,
        deadlines=setup.deadlines,
        ray_address=s.ray_address,
        accelerator=s.accelerators[0] if s.accelerators else None,
        builders=s.builders,
        evaluators=s.evaluators,
        cache_dir=s.cache_dir,
        imports=imports,
        say=say,
    )
    try:
        yield runner
    except WorkerError:
        definition_model(setup.problem.definition)  # what flashinfer-bench says to it, if that is what was wrong
        raise
    finally:
        runner.close()


def preparing(setup: Setup) -> str:
    """What a command does before :func:`judgeable` answers, for those who watch."""
    count = len(setup.problem.workloads)
    return f"making inputs and reference outputs of {count} workloads, each of which may take {PREPARE_S:g} s"


def judgeable(setup: Setup, runner: Runner, say: Callable[[str], None] = lambda _: None) -> Setup:
    """The setup without the workloads that cannot be judged; each is named once, with what else is worth knowing.

    Raises:
        NothingFoundError: None is left.
    """
    prepared = runner.workloads()
    left_out = {u: p.unjudgeable for u, p in prepared.items() if p.unjudgeable is not None}
    kept = tuple(w for w in setup.problem.workloads if w["uuid"] not in left_out)
    if not kept:
        uuid, why = next(iter(left_out.items()))
        raise NothingFoundError(
            f"none of the {len(left_out)} workloads of {setup.problem.name} can be judged; {uuid}: {why}"
        )
    lines = [f"workload {uuid} cannot be judged: {why}" for uuid, why in left_out.items()]
    for line in lines:
        say(f"left out: {line}")
    notes: dict[str, list[str]] = {}
    for workload in kept:
        for note in prepared[workload["uuid"]].notes if workload["uuid"] in prepared else ():
            notes.setdefault(note, []).append(workload["uuid"])
    for note, uuids in notes.items():
        where = "every workload" if len(uuids) == len(kept) else ", ".join(uuids)
        say(f"{note} (on {where})")
    problem = replace(setup.problem, workloads=kept, left_out=(*setup.problem.left_out, *lines))
    return replace(setup, problem=problem, prepared=prepared)


def settings_of(store: Store, sweep_id: int, given: SweepSettings) -> SweepSettings:
    """The settings a sweep was started with, on this machine's database, cache and cluster; with dataset and space from
    where they are now, if that is given."""
    sweep = store.sweeps.get(sweep_id)
    stored = {**sweep.settings, "definition": sweep.definition, "target": sweep.target}
    stored.pop("host", None)
    here = {"db": given.db, "cache_dir": given.cache_dir, "ray_address": given.ray_address}
    moved = {key: value for key in ("dataset", "space") if (value := getattr(given, key)) is not None}
    return SweepSettings(**{**stored, **here, **moved})


def same_space(sweep: SweepRecord, space: SearchSpace) -> SearchSpace:
    """The space that a sweep searched, under the name that its folder had then.

    Raises:
        UsageError: It has changed since.
    """
    named = replace(space, name=sweep.space)
    if named.fingerprint != sweep.space_fingerprint:
        raise UsageError(
            f"sweep {sweep.id} searched another version of space {named.name} ({sweep.space_fingerprint}, now "
            f"{named.fingerprint}); bring that version back, or start a new sweep, which reuses what still holds"
        )
    return named


CHANGEABLE = frozenset((
    "db", "cache_dir", "ray_address", "dataset", "space", "max_trials", "budget_s", "builders", "evaluators", "reuse",
    "keep_going", "finalists", "final_rounds", "final_s", "final_share", "baseline",
))  # fmt: skip
"""Settings that a sweep may go on with another value of; the others decide what its figures mean."""


def resumed_settings(store: Store, sweep_id: int, given: SweepSettings) -> SweepSettings:
    """The settings of a resumed sweep: its own, changed by what is given anew.

    Raises:
        UsageError: Something is given anew that cannot change within a sweep.
    """
    own = settings_of(store, sweep_id, given)
    changed = {key: getattr(given, key) for key in given.model_fields_set if getattr(given, key) != getattr(own, key)}
    for key in sorted(set(changed) - CHANGEABLE):
        raise UsageError(
            f"sweep {sweep_id} was started with {key}={getattr(own, key)!r}; {changed[key]!r} would make its figures "
            "mean something else, so start a new sweep, it reuses what still holds"
        )
    return own.model_copy(update=changed)
