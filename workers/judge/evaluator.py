"""Judges built variants in a sandbox that keeps workloads resident and is replaced once it is damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.targets import is_cuda, target_named
from workers.build.artifact_cache import ArtifactCache
from workers.build.private_copies import PrivateCopies
from workers.build.triton_jit import kernel_cache
from workers.devices import environment
from workers.devices.device import CaptureError
from workers.devices.environment import memory_bytes
from workers.errors import ArtifactMissingError, DatasetError, WorkerError
from workers.fib.dataset import Problem
from workers.judge.judgement import Judgement, Staged
from workers.records import (
    AUTO,
    PREPARE_S,
    BuiltVariant,
    Comparison,
    ComparisonJob,
    Deadlines,
    Environment,
    Evaluation,
    EvaluationJob,
    Measurement,
    Prepared,
    Status,
)
from workers.sandbox.fork_server import ForkRequest
from workers.sandbox.messages import ChildError, ChildRaisedError, Phase, PhaseKind
from workers.sandbox.process import ChildProcess

RECYCLE_AFTER = {"cpu": 64}
RECYCLE_GPU_AFTER = 512
"""Number of variants after which the process is replaced, since modules and libraries never unload completely. On a GPU
a new process has to make its workloads again, which takes seconds."""

_QUIET_JOBS = 8
"""Number of jobs that must end well after a process was damaged before variants are called ahead again: if one of them
kills the process, the present job has to run again."""

_DATA_SHARE = 0.7
"""Share of main memory that a candidate's process may take on the CPU target."""

_LOG_CHARS = 4000


class VariantEvaluator:
    """Evaluates one job at a time. Used by one thread.

    Args:
        problem: Definition and workloads.
        target: ``cpu`` or the target of a GPU.
        cache_dir: Folder of the artifact cache.
        deadlines: Deadlines of load and check, and of measuring.
        preload: Modules that candidates need, imported once.
        imports: Modules that variants import, for the environment.
        variables: Environment variables that decide how fast libraries compute; None for this process's own.
    """

    def __init__(
        self,
        problem: Problem,
        target: str,
        cache_dir: str,
        deadlines: Deadlines,
        preload: Sequence[str] = (),
        imports: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._problem = problem
        self._target = target
        self._cache = ArtifactCache(cache_dir)
        self._scratch = self._cache.stage()
        self._recycle_after = RECYCLE_AFTER.get(target, RECYCLE_GPU_AFTER)
        self._limits_s = {
            PhaseKind.LOAD: deadlines.check_s,
            PhaseKind.COMPILE: deadlines.compile_s,
            PhaseKind.PREPARE: PREPARE_S,
            PhaseKind.CHECK: deadlines.check_s,
            PhaseKind.INSPECT: deadlines.check_s,
            PhaseKind.MEASURE: deadlines.measure_s,
        }
        limit = None if is_cuda(target) else int(memory_bytes() * _DATA_SHARE)
        request = ForkRequest(
            "workers.judge.judge:Judge", (problem, target, str(self._cache.root / "references")), data_limit_bytes=limit
        )
        # What candidates import; on a GPU the loader of compiled kernels without a compiler.
        theirs = ("tvm_ffi",) if is_cuda(target) else ("numba",)
        modules = ("torch", *theirs, "flashinfer_bench.bench", "workers.judge.judge", *preload)
        self._imports = tuple(imports)
        self._variables = environment.variables() if variables is None else dict(variables)
        self._copies = PrivateCopies(self._scratch / "variants")
        self._kernels = self._scratch / "triton"
        kernels = {kernel_cache.VARIABLE: str(self._kernels)} if is_cuda(target) else {}
        self._process = ChildProcess(request, preload=modules, env={**self._variables, **kernels})
        self._environment: Environment | None = None
        self._prepared: dict[str, Prepared] = {}
        self._judged = 0
        self._phase = Phase(PhaseKind.PREPARE)
        self._idle_since: float | None = None
        self._quiet_jobs = _QUIET_JOBS
        self._phase_s: defaultdict[PhaseKind, float] = defaultdict(float)
        self._uncaptured: dict[str, str] = {}
        """Artifact -> why it cannot be captured in a graph."""

    def start(self) -> None:
        """Start importing modules."""
        self._process.start()

    def warm(self) -> dict[str, Prepared]:
        """Make the problem's workloads resident, before there is a variant to judge.

        Returns:
            Uuid -> what is known of the workload. One that cannot be made, or on which its reference fails, cannot be
            judged.
        """
        failed = {}
        for workload in self._problem.workloads:
            uuid = str(workload["uuid"])
            try:
                self._prepare([uuid])
            except DatasetError as error:
                failed[uuid] = Prepared(str(error), plainly=False)
        return {**self._prepared, **failed}

    def environment(self) -> Environment:
        """The environment of this evaluator.

        Raises:
            WorkerError: The target needs a GPU and there is none.
        """
        if self._environment is None:
            self._environment = environment.describe(self._target, self._imports, self._variables)
        return self._environment

    def rates(self) -> Mapping[str, float]:
        """What this device does at most, see :meth:`workers.devices.device.Device.rates`; measured in a process in
        which no candidate has run.

        Raises:
            WorkerError: The process failed.
        """
        if self._judged:
            self._replace()
        try:
            found, _ = self._call("rates", phase=Phase(PhaseKind.PREPARE))
        except ChildError as failure:
            raise WorkerError(f"the machine's rates cannot be measured: {_text(failure)}") from failure
        return dict(found)

    def stage(self, variant: BuiltVariant, packed: bytes | None = None, first: str = "") -> Staged:
        """A built variant's folder on this machine. May be called by another thread than the one that evaluates.

        Args:
            variant: The variant.
            packed: The artifact, if builders have another file system.
            first: Workload of the variant's first call.

        Raises:
            ArtifactMissingError: The artifact is not in the cache and was not given.
        """
        return Staged(variant, str(self._folder(variant.artifact, packed)), first)

    def evaluate(self, job: EvaluationJob, staged: Staged | None = None, ahead: Staged | None = None) -> Evaluation:
        """Judge a variant. Its failures are in the Evaluation.

        In mode ``auto`` all its measurements are of one mode, which their method names. One that cannot be captured in
        a graph is judged again eagerly, without limits of the race, which are those of graphs; the message says why.

        Args:
            job: The job.
            staged: Its variant, if :meth:`stage` was called already.
            ahead: The next job's variant, to be loaded at the end of this job.

        Raises:
            ArtifactMissingError: The artifact is not in the cache.
            WorkerError: The machinery failed.
        """
        began = time.perf_counter()
        idle_s = began - self._idle_since if self._idle_since is not None else 0.0
        staged = staged or self.stage(job.variant)
        self._prepare(job.workloads)
        self._judged += 1
        if ahead is not None and self._quiet_jobs < _QUIET_JOBS:
            ahead = replace(ahead, first="")
        self._quiet_jobs += 1
        if job.method.mode == AUTO:
            judgement, measurements = self._judge_as_it_works(job, staged, ahead)
        else:
            judgement, measurements = self._judge(job, staged, ahead)
            if judgement.uncaptured:
                first, *more = judgement.message.splitlines()
                judgement = replace(judgement, message="\n".join([first + CaptureError.CURE, *more]))
        if judgement.replace:
            self._quiet_jobs = 0
        if judgement.replace or self._judged >= self._recycle_after:
            self._replace()
        self._idle_since = time.perf_counter()
        evaluate_s = self._idle_since - began
        usage = self._usage(judgement.usage, evaluate_s, idle_s)
        return Evaluation(
            job.variant.key,
            judgement.status,
            tuple(measurements),
            evaluate_s,
            judgement.message,
            self.environment().fingerprint,
            usage,
        )

    def _judge_as_it_works(
        self, job: EvaluationJob, staged: Staged, ahead: Staged | None
    ) -> tuple[Judgement, list[Measurement]]:
        """Judge in the first of the target's modes that the variant can be timed in."""
        first, *others = target_named(self._target).modes
        why = self._uncaptured.get(job.variant.artifact, "")
        if not why:
            judgement, measurements = self._judge(_in_mode(job, first), staged, ahead)
            if not judgement.uncaptured:
                return judgement, measurements
            why = self._uncaptured[job.variant.artifact] = judgement.uncaptured
            if judgement.replace:
                self._replace()
        eagerly = replace(_in_mode(job, others[0]), stop_above_us={})
        judgement, measurements = self._judge(eagerly, staged, ahead)
        measurements = [replace(m, conditions={**m.conditions, "uncaptured": why}) for m in measurements]
        return replace(judgement, message=f"{judgement.message}\ntimed eagerly: {why}".strip()), measurements

    def _judge(self, job: EvaluationJob, staged: Staged, ahead: Staged | None) -> tuple[Judgement, list[Measurement]]:
        measurements: list[Measurement] = []
        self._start_process()
        staged, following, ahead = self._staged_here(staged), ahead, None
        with contextlib.suppress(ArtifactMissingError):  # that is told in its turn
            ahead = following and self._staged_here(following)
        try:
            judgement, log = self._call(
                "judge", job, staged, ahead, phase=Phase(PhaseKind.LOAD), on_event=measurements.append
            )
            if judgement.status.is_failure:
                judgement = replace(judgement, message=f"{judgement.message}\n{log[-_LOG_CHARS:]}".strip())
            if judgement.status is Status.TAMPERED:
                # What the process said of the workloads is not worth more than what it said of the whole.
                measurements = [replace(m, status=judgement.status, message=judgement.message) for m in measurements]
        except ChildError as failure:
            if ahead is not None and self._phase == Phase(PhaseKind.LOAD, ahead.variant.key):
                # The next variant's fault, which will be found in its turn; this one has done nothing wrong so far.
                self._replace()
                self._quiet_jobs = 0
                return self._judge(job, staged, None)
            judgement, measurement = self._blame(failure, job)
            if measurement:
                measurements.append(measurement)
        if judgement.status.is_failure:
            self._check_intact(job.variant.artifact)
        return judgement, measurements

    def _check_intact(self, artifact: str) -> None:
        """Before a candidate is blamed, check that its artifact is intact and that files can be written.

        Raises:
            ArtifactMissingError: The artifact was damaged or removed meanwhile.
            CacheFullError: The disk is full.
        """
        self._cache.check_room()
        if self._cache.get(artifact) is None:
            self._replace()
            raise ArtifactMissingError(f"artifact {artifact} was damaged while it was in use; build the variant again")

    def compare(self, job: ComparisonJob, packed: Mapping[str, bytes] | None = None) -> Comparison:
        """Measure variants interleaved. One that fails gets its status, and the others start again without it.

        Raises:
            ArtifactMissingError: An artifact is not in the cache and was not given.
            WorkerError: The machinery failed.
        """
        began = time.perf_counter()
        idle_s = began - self._idle_since if self._idle_since is not None else 0.0
        packed = packed or {}
        staged = {v.key: self.stage(v, packed.get(v.artifact)) for v in job.variants}
        self._prepare(job.workloads)
        failed: dict[str, Evaluation] = {}
        taken: dict[str, list[Measurement]] = {}
        busy_s: Mapping[str, float] = {}
        left = list(job.variants)
        while left:
            taken = {variant.key: [] for variant in left}
            known = set(self._uncaptured)
            culprit, busy_s = self._compare(replace(job, variants=tuple(left)), staged, taken)
            if Status.TAMPERED in [culprit and culprit.status, *(m.status for found in taken.values() for m in found)]:
                culprit = self._tamperer(replace(job, variants=tuple(left)), staged) or culprit
            if culprit is None:
                break
            artifact = {v.key: v.artifact for v in left}[culprit.key]
            if job.method.mode == AUTO and artifact in self._uncaptured and artifact not in known:
                continue  # its process had to end for that; capture is not tried again
            self._check_intact(artifact)
            failed[culprit.key] = culprit
            left = [v for v in left if v.key != culprit.key]
        self._judged += len(job.variants)
        if self._judged >= self._recycle_after:
            self._replace()
        self._idle_since = time.perf_counter()
        seconds = self._idle_since - began
        evaluations = tuple(failed.get(v.key) or self._compared(v, taken[v.key], seconds) for v in job.variants)
        return Comparison(evaluations, self._usage(busy_s, seconds, idle_s))

    def processes(self) -> dict[str, int | None]:
        """Process IDs of the fork server and the child."""
        return {"fork_server": self._process.fork_server_pid, "child": self._process.pid}

    def release(self) -> None:
        """End the process, which frees the device's memory; the next job starts another one."""
        self._replace()

    def close(self) -> None:
        """End the process."""
        self._process.close()
        self._cache.discard(self._scratch)

    def _compare(
        self, job: ComparisonJob, staged: Mapping[str, Staged], taken: dict[str, list[Measurement]]
    ) -> tuple[Evaluation | None, Mapping[str, float]]:
        """One attempt: the Evaluation of the variant that ended it, None if there was none; and how long the device was
        busy."""

        def keep(event: tuple[str, Measurement]) -> None:
            taken[event[0]].append(event[1])

        self._start_process()
        staged = {key: self._staged_here(item) for key, item in staged.items()}
        modes = len(target_named(self._target).modes) if job.method.mode == AUTO else 1
        seconds = self._limits_s[PhaseKind.MEASURE] * len(job.variants) * modes
        limits_s = {**self._limits_s, PhaseKind.COMPARE: seconds}
        uncaptured = {v.key: why for v in job.variants if (why := self._uncaptured.get(v.artifact))}
        phase = Phase(PhaseKind.LOAD)
        with tempfile.NamedTemporaryFile(dir=self._scratch) as turns:
            try:
                busy_s, _ = self._call(
                    "compare", job, staged, turns.name, uncaptured, phase=phase, on_event=keep, limits_s=limits_s
                )
            except ChildError as failure:
                key = Path(turns.name).read_bytes().partition(b"\n")[0].decode()
                self._replace()
                if key not in taken:
                    self._cache.check_room()
                    raise WorkerError(f"a comparison failed before any variant's turn: {failure}") from failure
                fingerprint = self.environment().fingerprint
                if isinstance(failure, ChildRaisedError) and failure.raised.no_graph:
                    artifact = next(v.artifact for v in job.variants if v.key == key)
                    self._uncaptured[artifact] = failure.raised.text
                return Evaluation(key, failure.status or Status.RUNTIME_ERROR, (), 0.0, _text(failure), fingerprint), {}
        for variant in job.variants:
            for measurement in taken[variant.key]:
                if "uncaptured" in measurement.conditions:
                    self._uncaptured[variant.artifact] = str(measurement.conditions["uncaptured"])
        return None, busy_s

    def _tamperer(self, job: ComparisonJob, staged: Mapping[str, Staged]) -> Evaluation | None:
        """After a part of the evaluator was replaced in a process that several variants share: the Evaluation of the
        one that does so when it runs alone, None if none does."""
        for variant in job.variants:
            self._replace()
            alone: dict[str, list[Measurement]] = {variant.key: []}
            culprit, _ = self._compare(replace(job, variants=(variant,)), staged, alone)
            found = culprit or self._compared(variant, alone[variant.key], 0.0)
            if found.status is Status.TAMPERED:
                break
        self._replace()
        return found if found.status is Status.TAMPERED else None

    def _compared(self, variant: BuiltVariant, measurements: list[Measurement], seconds: float) -> Evaluation:
        if not measurements:
            raise WorkerError(f"the comparison says nothing about {variant.key}")
        bad = next((m for m in measurements if m.status is not Status.PASSED), None)
        return Evaluation(
            variant.key,
            bad.status if bad else Status.PASSED,
            tuple(measurements),
            seconds,
            bad.message if bad else "",
            self.environment().fingerprint,
        )

    def _folder(self, digest: str, packed: bytes | None) -> Path:
        with contextlib.suppress(OSError):
            os.utime(self._scratch)  # what is not touched for a day is taken for a dead process's
        entry = self._cache.get(digest)
        if entry is None and packed is not None:
            entry = self._cache.unpack(digest, packed)
        if entry is None:
            raise ArtifactMissingError(
                f"artifact {digest} is not in the cache {self._cache.root}; build the variant again"
            )
        try:
            return self._copies.of(entry)
        except OSError:
            self._cache.check_room()
            raise

    def _staged_here(self, staged: Staged) -> Staged:
        """The same for the present process, if it was staged for an earlier one."""
        if self._copies.is_present(Path(staged.folder)):
            return staged
        return replace(staged, folder=str(self._folder(staged.variant.artifact, None)))

    def _prepare(self, uuids: Sequence[str]) -> None:
        """Have reference outputs computed and stored by a process in which no candidate has run."""
        missing = [uuid for uuid in uuids if uuid not in self._prepared]
        if missing and self._judged:
            self._replace()
        for uuid in missing:
            try:
                prepared, _ = self._call("prepare", uuid, phase=Phase(PhaseKind.PREPARE, uuid))
            except ChildRaisedError as failure:
                self._cache.check_room()
                raise DatasetError(failure.raised.text or failure.raised.kind) from failure
            except ChildError as failure:
                raise WorkerError(f"workload {uuid} cannot be prepared: {failure}\n{failure.log}") from failure
            self._prepared[uuid] = prepared

    def _call(
        self, method: str, *args: Any, phase: Phase, limits_s: Mapping[PhaseKind, float] | None = None, **more: Any
    ) -> Any:
        self._start_process()
        self._phase, since = phase, time.perf_counter()

        def follow(phase: Phase) -> None:
            nonlocal since
            now = time.perf_counter()
            self._phase_s[self._phase.kind] += now - since
            self._phase, since = phase, now

        try:
            return self._process.call(
                method, *args, limits_s=limits_s or self._limits_s, phase=phase, on_phase=follow, **more
            )
        finally:
            follow(self._phase)

    def _start_process(self) -> None:
        """Start a process if there is none, without what the one before has left: what was compiled or written before
        a deadline must not be there the next time, when the verdict would be another. Copies that were staged earlier
        are gone then."""
        if self._process.pid is not None:
            return
        shutil.rmtree(self._kernels, ignore_errors=True)
        self._copies.renew()
        # Opening a GPU takes a second or more, which must not count against a candidate's deadline.
        try:
            self._process.call("start", limits_s=self._limits_s, phase=Phase(PhaseKind.PREPARE))
        except ChildError as failure:
            raise WorkerError(f"the evaluator's process cannot start: {_text(failure)}") from failure

    def _usage(self, busy_s: Mapping[str, float], evaluate_s: float, idle_s: float) -> dict[str, float]:
        """How a job used the evaluator's time, see Evaluation."""
        device = {f"{kind}_s": seconds for kind, seconds in busy_s.items()}
        phases = {f"phase_{kind}_s": seconds for kind, seconds in self._phase_s.items()}
        self._phase_s.clear()
        return {**device, **phases, "evaluate_s": evaluate_s, "idle_s": idle_s}

    def _replace(self) -> None:
        self._process.kill()
        self._judged = 0

    def _blame(self, failure: ChildError, job: EvaluationJob) -> tuple[Judgement, Measurement | None]:
        """The candidate's status if its process did not answer."""
        if isinstance(failure, ChildRaisedError):
            # The judge turns a candidate's exceptions into statuses, so this one is ours, or an earlier candidate
            # has damaged the process unnoticed.
            self._replace()
            return Judgement(Status.WORKER_LOST, f"evaluator failed in phase '{self._phase}': {_text(failure)}"), None
        self._judged = self._quiet_jobs = 0
        status = failure.status or Status.RUNTIME_ERROR
        message = _text(failure)
        if self._phase.kind in (PhaseKind.LOAD, PhaseKind.INSPECT):
            return Judgement(status, message), None
        return Judgement(status, message), Measurement(self._phase.of, status, message=message, method=job.method)


def _in_mode(job: EvaluationJob, mode: str) -> EvaluationJob:
    return replace(job, method=replace(job.method, mode=mode))


def _text(failure: ChildError) -> str:
    """What happened, and the end of the output."""
    return f"{failure}\n{failure.log[-_LOG_CHARS:]}".strip()
