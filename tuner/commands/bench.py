"""``tuner bench``: given Solutions side by side, interleaved, so that their differences are paired."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from db.store import Store
from search_spaces.registry import space_for
from tuner import errors
from tuner.cli.output import microseconds
from tuner.errors import UsageError
from tuner.results.export import dispatch_table, newest_finished
from tuner.settings import SweepSettings
from tuner.sweeps.setup import Setup, open_runner, resolve, settings_of
from tuner.sweeps.statistics import Ratio, compare
from tuner.sweeps.variants import solution_variant
from workers.fib import adapter as fib
from workers.fib.dataset import unknown
from workers.records import ComparisonJob, Evaluation, Status, Variant
from workers.runner import Runner

SPECIAL = ("best", "default", "reference")
SKIPPED = "skipped: "
"""How the message of an exception begins by which a Solution says that this machine cannot run it."""


@dataclass(frozen=True)
class BenchResult:
    """Interleaved measurements of several Solutions; the first one is what the others are compared with."""

    definition: str
    hardware: str
    names: tuple[str, ...]
    axes: Mapping[str, str]
    evaluations: Mapping[str, Evaluation]

    @property
    def exit_code(self) -> int:
        """3 if nothing passed."""
        return errors.EXIT_OK if any(e.status is Status.PASSED for e in self.evaluations.values()) else 3

    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """For each workload, its axes and what each Solution took."""
        for workload, axes in self.axes.items():
            cells = []
            for name in self.names:
                evaluation = self.evaluations[name]
                found = next((m for m in evaluation.measurements if m.workload == workload), None)
                if found is None or found.median_us is None:
                    cells.append("skipped" if skipped(evaluation) else evaluation.status.value)
                else:
                    interval = f"[{microseconds(found.low_us)}, {microseconds(found.high_us)}]"
                    cells.append(f"{microseconds(found.median_us)} {interval}")
            yield axes, cells

    def against_first(self) -> dict[str, Ratio]:
        """Time of each other Solution over the first one's, with its interval."""
        rounds = {
            n: {m.workload: m.samples_us for m in e.measurements}
            for n, e in self.evaluations.items()
            if e.status is Status.PASSED
        }
        first = self.names[0]
        if first not in rounds:
            return {}
        return {n: compare(rounds[n], rounds[first]) for n in self.names[1:] if n in rounds}

    def verdicts(self) -> Iterator[str]:
        """One line for each Solution but the first, and why those that were not measured were not."""
        for name, r in self.against_first().items():
            interval = f"[{r.low:.3f}, {r.high:.3f}]"
            yield f"{name} takes {r.ratio:.3f} {interval} times as long as {self.names[0]} ({r.verdict})"
        for name, evaluation in self.evaluations.items():
            why = skipped(evaluation)
            if why:
                yield f"{name} is skipped: {why}"
            elif evaluation.status is not Status.PASSED:
                first_line = next(iter(evaluation.message.splitlines()), "")
                yield f"{name} is left out: {evaluation.status.value} {first_line}".rstrip()

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        return {
            "definition": self.definition,
            "hardware": self.hardware,
            "solutions": {
                n: {
                    "status": e.status.value,
                    "message": e.message,
                    "skipped": skipped(e),
                    "workloads": {
                        m.workload: {"axes": self.axes[m.workload], "median_us": m.median_us, "low_us": m.low_us,
                                     "high_us": m.high_us, "samples_us": list(m.samples_us)}
                        for m in e.measurements
                    },
                }
                for n, e in self.evaluations.items()
            },
            "ratio_to_first": {n: {**asdict(r), "verdict": r.verdict} for n, r in self.against_first().items()},
        }  # fmt: skip


def skipped(evaluation: Evaluation) -> str | None:
    """Why a Solution says that it cannot run on this machine, None for one that ran or that failed."""
    if evaluation.status is Status.PASSED or SKIPPED not in evaluation.message:
        return None
    return evaluation.message.partition(SKIPPED)[2].splitlines()[0].strip()


def run_bench(settings: SweepSettings, solutions: Sequence[str], rounds: int) -> BenchResult:
    """Measure Solutions of one definition side by side.

    Args:
        settings: Names definition, dataset, target, workloads and database.
        solutions: Names in the dataset's ``solutions/``, paths of Solution JSON files, or ``best`` and ``default`` of
            the newest finished sweep, or ``reference``.
        rounds: Samples of each Solution on each workload.

    Raises:
        UsageError: A Solution is unknown, or they solve different definitions.
    """
    if settings.definition is None:
        settings = settings.model_copy(update={"definition": _definition_of(settings, solutions)})
    setup = resolve(settings)
    variants = _variants(setup, solutions)
    with open_runner(setup) as runner:
        return measure(runner, setup, variants, rounds, settings.seed)


def measure(runner: Runner, setup: Setup, variants: Sequence[Variant], rounds: int, seed: int) -> BenchResult:
    """Build the variants, then measure those that built in one interleaved job."""
    builds = runner.built(variants)
    good = tuple(v.built(artifact) for v in variants if (artifact := builds[v.key].artifact) is not None)
    evaluations = {k: Evaluation(k, b.status, message=b.log) for k, b in builds.items()}
    if good:
        uuids = tuple(w["uuid"] for w in setup.problem.workloads)
        method = replace(setup.method, interleaved=True)
        compared = runner.compared(ComparisonJob(good, uuids, method, rounds, seed))
        evaluations.update({e.key: e for e in compared.evaluations})
    axes = {w["uuid"]: " ".join(f"{k}={v}" for k, v in w["axes"].items()) for w in setup.problem.workloads}
    names = tuple(v.key for v in variants)
    return BenchResult(setup.problem.name, runner.environment().hardware, names, axes, evaluations)


def _definition_of(settings: SweepSettings, solutions: Sequence[str]) -> str | None:
    """The definition that a Solution file names, or the newest sweep's."""
    for solution in solutions:
        if solution.endswith(".json") and Path(solution).is_file():
            return str(_read(Path(solution))["definition"])
    if {"best", "default"} & set(solutions):
        store = Store.open(settings.db)
        try:
            return store.sweeps.get(newest_finished(store)).definition
        finally:
            store.close()
    return None


def _variants(setup: Setup, solutions: Sequence[str]) -> list[Variant]:
    variants = [_variant(setup, name) for name in solutions]
    keys = [v.key for v in variants]
    if len(set(keys)) != len(keys):
        raise UsageError(f"a Solution is given twice: {', '.join(keys)}")
    for variant in variants:
        if variant.definition != setup.problem.name:
            raise UsageError(f"{variant.key} solves {variant.definition}, not {setup.problem.name}")
    return variants


def _variant(setup: Setup, name: str) -> Variant:
    if name == "reference":
        return fib.reference_variant(setup.problem.definition, setup.target)
    if name in ("best", "default"):
        return _tuned(setup, name)
    if name.endswith(".json"):
        return fib.variant_of(_read(Path(name)), setup.target)
    known = setup.dataset.solutions()
    if name not in known:
        raise UsageError(unknown("Solution", name, [*known, *SPECIAL]))
    return fib.variant_of(known[name], setup.target)


def _tuned(setup: Setup, which: str) -> Variant:
    """What the newest finished sweep of the definition calls best, or its space's default config."""
    store = Store.open(setup.settings.db)
    try:
        sweep_id = newest_finished(store, setup.problem.name)
        space = space_for(setup.problem.definition, setup.target, settings_of(store, sweep_id, setup.settings).space)
        winners = store.winners.of(sweep_id)
    finally:
        store.close()
    table = [(None, space.default)] if which == "default" or not winners else dispatch_table(winners)
    return solution_variant(setup.problem.name, space, table, which)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"Solution file {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"Solution file {path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"Solution file {path} must hold a JSON object")
    return document
