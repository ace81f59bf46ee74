"""Export: a sweep's winners as one flashinfer-bench Solution, written only if it passes on every workload.

Our own workers judge it first. On a GPU stock flashinfer-bench then has the last word, through its own command line,
and its traces are the ones that are kept; it needs CUDA, so for the ``cpu`` target our workers' verdict stands alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from db.records import ExportRecord, WinnerRecord
from db.store import Store
from search_spaces import Config, SearchSpace
from search_spaces.source_files import why_unfit
from search_spaces.targets import is_cuda
from tuner.database import open_existing
from tuner.errors import NothingFoundError, TunerError, UnusableEnvironmentError, UsageError
from tuner.format import microseconds, workload_text
from tuner.progress import Steps
from tuner.results.dispatch import NEAREST_LIMIT, dispatch_table
from tuner.results.trace_folder import TraceFolder
from tuner.sweeps.failures import telling_line
from tuner.sweeps.setup import Setup, judgeable, open_runner, preparing, resolve, same_space, settings_of
from tuner.sweeps.variants import solution_variant
from workers.devices.environment import hardware_named
from workers.fib import adapter as fib
from workers.fib.dataset import Document, profile_of
from workers.fib.official_run import StockJob
from workers.records import Environment, Evaluation, EvaluationJob, Measurement, Status, Variant
from workers.runner import Runner


class ExportRefusedError(TunerError):
    """The Solution does not pass; nothing was written."""

    exit_code = 3


@dataclass(frozen=True)
class Export:
    """What was written, and what the verification said: workload uuid -> status and latency."""

    name: str
    path: Path
    traces: Path
    digest: str
    export_id: int
    verification: dict[str, dict[str, Any]]

    @property
    def verdict(self) -> str:
        """One phrase for people."""
        passed = sum(v["status"] == Status.PASSED for v in self.verification.values())
        return f"PASSED on {passed} of {len(self.verification)} workloads"

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        return {**asdict(self), "path": str(self.path), "traces": str(self.traces)}


def export_winners(
    store: Store,
    sweep_id: int,
    setup: Setup,
    space: SearchSpace,
    runner: Runner,
    out: Path,
    *,
    name: str | None = None,
    author: str = "tuner",
    view: Steps | None = None,
) -> Export:
    """Verify and write the Solution of a finished sweep.

    Args:
        out: A flashinfer-trace folder, made if missing; the definition and its workloads are copied into it if it lacks
            them, so that stock flashinfer-bench can load and run it.

    Raises:
        NothingFoundError: The sweep has no winner.
        UsageError: The folder holds another definition or workload of the same name, or the space has another size axis
            than it had in the sweep.
        ExportRefusedError: A workload does not pass.
        UnusableEnvironmentError: The folder cannot be written into.
    """
    folder = TraceFolder(out, setup.dataset, setup.problem)
    folder.check()
    winners = store.winners.of(sweep_id)
    table = winners_table(winners, space, sweep_id)
    sources = space.render(table)
    digest = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]
    environment = runner.environment()
    name = name or f"tuner_{space.name}_{_slug(environment.hardware)}_{digest}"
    variant = solution_variant(setup.problem.name, space, table, name)
    view = view or Steps()
    evaluation = _verify(runner, variant, setup, view)
    description = _description(space, sweep_id, environment.hardware, winners)
    model = fib.solution(variant, name, f"{description} Accepted by: {setup.method.rules}.", author)
    verification: dict[str, dict[str, Any]] = {
        m.workload: {
            "status": m.status.value,
            "median_us": m.median_us,
            "judged_by": m.conditions.get(fib.JUDGED_BY, {}),
        }
        for m in evaluation.measurements
    }
    reference = dict(store.sweeps.get(sweep_id).summary.get("reference_by_workload_us", {}))
    traces = _own_traces(setup, name, evaluation, environment, reference)
    if is_cuda(setup.target):
        documents = {d["workload"]["uuid"]: d for d in _stock_traces(runner, setup, model, view)}
        for uuid, document in documents.items():
            fib.note_rules(document, verification[uuid]["judged_by"])
            latency_ms = document["evaluation"]["performance"]["latency_ms"]
            verification[uuid]["flashinfer_bench_us"] = latency_ms * 1e3
        # Our own where flashinfer-bench cannot judge: infinities in the reference, selected indices and the like.
        own = {trace.workload.uuid: trace for trace in traces}
        traces = [fib.trace_model(documents[uuid]) if uuid in documents else own[uuid] for uuid in own]
    op_type = setup.problem.definition["op_type"]
    path, trace_path = _write(folder, model, traces, op_type)
    record = ExportRecord(
        sweep_id=sweep_id,
        solution=name,
        digest=digest,
        made_from={w.regime: {"max_size": w.max_size, "config_hash": w.config_hash} for w in winners},
        verification=verification,
        content=path.read_text(encoding="utf-8"),
        path=str(path),
    )
    return Export(name, path, trace_path, digest, store.exports.record(record), verification)


def winners_table(
    winners: Sequence[WinnerRecord], space: SearchSpace, sweep_id: int
) -> list[tuple[int | None, Config]]:
    """The dispatch table of a sweep's winners.

    Raises:
        NothingFoundError: There is none.
        UsageError: The space now dispatches by another axis than the winners were chosen by.
    """
    if not winners:
        raise NothingFoundError(f"sweep {sweep_id} has no winner to export")
    by = winners[0].size_axis
    if by is not None and by != space.size_axis:
        raise UsageError(
            f"sweep {sweep_id} chose its winners by {by}, space {space.name!r} now dispatches by "
            f"{space.size_axis or 'none'}; sweep again, or set its size_axis back"
        )
    passes = all(w.default_median_us is not None for w in winners)
    return dispatch_table(winners, space.default_table if passes else None)


def _verify(runner: Runner, variant: Variant, setup: Setup, view: Steps) -> Evaluation:
    """Build the very sources that are exported and judge them as any variant, one workload after the other.

    Raises:
        ExportRefusedError: It does not build, or does not pass on one of the workloads.
    """
    limits = setup.deadlines
    view.step("building the Solution", limits.compile_s)
    build = runner.built([variant], view.tick)[variant.key]
    if build.artifact is None:
        raise ExportRefusedError(f"the Solution does not build ({build.status}): {telling_line(build.log)}")
    job = EvaluationJob(variant.built(build.artifact), (), setup.method)
    measurements: list[Measurement] = []
    for number, workload in enumerate(setup.problem.workloads, 1):
        shown = workload_text(workload["axes"], profile_of(workload))
        where = f"workload {number} of {len(setup.problem.workloads)} ({shown})"
        view.step(f"checking and timing the Solution on {where}", limits.check_s + limits.measure_s)
        evaluation = runner.evaluated(replace(job, workloads=(workload["uuid"],)), view.tick)
        if evaluation.status is not Status.PASSED:
            why = telling_line(evaluation.message)
            raise ExportRefusedError(f"the Solution does not pass on {where} ({evaluation.status}): {why}")
        measurements += evaluation.measurements
        view.say(f"{where}: PASSED {microseconds(evaluation.measurements[0].median_us)}")
    return replace(evaluation, measurements=tuple(measurements))


def _own_traces(
    setup: Setup, name: str, evaluation: Evaluation, environment: Environment, reference: Mapping[str, float]
) -> list[Any]:
    """What our workers measured on the dataset's workloads, as flashinfer-bench's traces."""
    listed = {w["uuid"] for w in setup.problem.listed}
    return [
        fib.trace(
            setup.problem.name, setup.problem.workload(m.workload), name, m, environment.hardware,
            dict(environment.versions), reference.get(m.workload),
        )
        for m in evaluation.measurements if m.workload in listed
    ]  # fmt: skip


def _stock_traces(runner: Runner, setup: Setup, model: Any, view: Steps) -> list[Document]:
    """Stock flashinfer-bench's traces of the Solution, each of them PASSED: on all workloads but those that it cannot
    judge and on which it says no more than that numbers differ.

    Raises:
        ExportRefusedError: It does not pass on one, or flashinfer-bench did not get that far.
    """
    document = json.loads(model.model_dump_json(exclude_none=True))
    job = StockJob((document,), setup.official_rule)
    view.step(f"stock flashinfer-bench runs the Solution on {len(setup.problem.workloads)} workloads", job.timeout_s)
    run = runner.stock(job)
    statuses = run.statuses(model.name)
    wanted = [w["uuid"] for w in setup.problem.listed]
    ours = {uuid for uuid, found in setup.prepared.items() if not found.plainly}
    # Where the reference does not keep to its definition's dtype or shape, a Solution that does is wrong to stock.
    as_they_see_it = (Status.INCORRECT_NUMERICAL, Status.INCORRECT_DTYPE, Status.INCORRECT_SHAPE)
    excused = {uuid for uuid in ours if statuses.get(uuid) in as_they_see_it}
    failed = [
        f"{uuid} {statuses.get(uuid, 'not run')}"
        for uuid in wanted
        if statuses.get(uuid) != Status.PASSED and uuid not in excused
    ]
    if failed:
        why = f"{len(failed)} of {len(wanted)} workloads: {', '.join(failed[:3])}"
        log = " ".join(run.log.split())[-300:]
        raise ExportRefusedError(f"stock flashinfer-bench does not pass the Solution on {why}; its log ends: {log}")
    return [trace for trace in run.traces if trace["workload"]["uuid"] not in excused]


def _slug(hardware: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", hardware.lower()).strip("_")


def _description(space: SearchSpace, sweep_id: int, hardware: str, winners: Sequence[WinnerRecord]) -> str:
    figures = ", ".join(f"{w.regime}: {w.median_us:.1f} us" for w in winners)
    text = f"Space {space.name}, sweep {sweep_id}, on {hardware}. Geometric mean latency per regime: {figures}."
    if winners[0].size_axis is None:
        return text
    return (
        f"{text} By {winners[0].size_axis}; sizes over {NEAREST_LIMIT:g} times away from a measured one: the default."
    )


def _write(folder: TraceFolder, model: Any, traces: list[Any], op_type: str) -> tuple[Path, Path]:
    """Write beside the target first and move into place, so that nothing half-written is ever seen."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tuner-", dir=folder.path) as scratch:
            written = fib.write_solution(Path(scratch), model, op_type)
            path = folder.path / written.relative_to(scratch)
            folder.complete()
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(written, path)
        return path, fib.append_traces(folder.path, traces, op_type)
    except OSError as error:
        raise UnusableEnvironmentError(
            f"the Solution cannot be written into {folder.path}: {error.strerror or error}"
        ) from None


def export_solution(
    sweep: int | None = None,
    *,
    out: Path | str,
    definition: str | None = None,
    hardware: str | None = None,
    name: str | None = None,
    author: str = "tuner",
    dataset: Path | None = None,
    space: str | None = None,
    ray_address: str | None = None,
    db: str | None = None,
    view: Steps | None = None,
) -> Export:
    """Export a finished sweep: the given one, else the newest one that fits definition and hardware.

    Raises:
        NothingFoundError: No such sweep, or it has no winner.
        UsageError: The space has changed since, or the folder holds something else of the same name.
        ExportRefusedError: The Solution does not pass on this machine.
    """
    from tuner.settings import load

    if name is not None and (why := why_unfit(name)) is not None:
        raise UsageError(f"the Solution's name {name!r} {why}")
    given = load({"db": db, "dataset": dataset, "space": space, "ray_address": ray_address})
    with open_existing(db) as store:
        sweep_id = sweep if sweep is not None else newest_finished(store, definition, hardware)
        settings = settings_of(store, sweep_id, given)
        setup = resolve(settings)
        searched = same_space(store.sweeps.get(sweep_id), setup.space())
        winners_table(store.winners.of(sweep_id), searched, sweep_id)
        TraceFolder(Path(out), setup.dataset, setup.problem).check()
        view = view or Steps()
        with open_runner(setup, view.say) as runner:
            view.step(preparing(setup))
            setup = judgeable(setup, runner, view.say)
            return export_winners(
                store, sweep_id, setup, searched, runner, Path(out), name=name, author=author, view=view
            )


def newest_finished(
    store: Store, definition: str | None = None, hardware: str | None = None, target: str | None = None
) -> int:
    """ID of the newest finished sweep that fits; ``hardware`` as in :func:`tuner.api.best_config`.

    Raises:
        NothingFoundError: There is none.
    """
    model = hardware_named(hardware)
    for sweep in store.sweeps.newest(limit=1000, definition=definition):
        fits = model is None or sweep.hardware.lower() == model.lower()
        if sweep.state == "DONE" and fits and target in (None, sweep.target):
            return sweep.id
    by = f" and target {target}" if target is not None else ""
    where = f"{model or 'any hardware'}{by}"
    raise NothingFoundError(f"no finished sweep for {definition or 'any definition'} on {where}")
