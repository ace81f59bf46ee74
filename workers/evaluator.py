"""Judges built variants in a killable process that keeps workloads resident and is replaced when it was spoiled."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workers import loader
from workers.cache import ArtifactCache
from workers.dataset import Problem
from workers.environment import describe, memory_bytes
from workers.errors import (
    ArtifactMissingError,
    ChildDiedError,
    ChildError,
    ChildRaisedError,
    DatasetError,
    PhaseTimeoutError,
    WorkerError,
)
from workers.judge import Judgement
from workers.process import ChildProcess
from workers.records import (
    Comparison,
    ComparisonJob,
    Deadlines,
    Environment,
    Evaluation,
    EvaluationJob,
    Measurement,
    Status,
    Variant,
)
from workers.zygote import ForkRequest

RECYCLE_AFTER = 64
"""Variants after which the process is replaced, whatever they did: modules and libraries never unload completely."""

_PREPARE_LIMIT_S = 900.0
"""For making inputs and running a reference; the largest public MoE workload on a CPU needs minutes."""

_DATA_SHARE = 0.7
"""Share of main memory that a candidate's process may take on the CPU target."""

_LOG_CHARS = 4000


class VariantEvaluator:
    """Evaluates one job at a time. Used by one thread.

    Args:
        problem: Definition and workloads.
        target: ``cpu`` or the GPU's.
        cache_dir: Of the artifact cache.
        deadlines: For load and check, and for measuring.
        preload: Modules that candidates need, imported once.
    """

    def __init__(
        self,
        problem: Problem,
        target: str,
        cache_dir: str,
        deadlines: Deadlines,
        preload: Sequence[str] = (),
    ) -> None:
        self._problem = problem
        self._target = target
        self._cache = ArtifactCache(cache_dir)
        self._store = self._cache.stage()
        self._limits_s = {
            "load": deadlines.check_s,
            "prepare": _PREPARE_LIMIT_S,
            "check": deadlines.check_s,
            "measure": deadlines.measure_s,
        }
        limit = int(memory_bytes() * _DATA_SHARE) if target == "cpu" else None
        request = ForkRequest("workers.judge:Judge", (problem, target, str(self._store)), data_limit_bytes=limit)
        compilers = ("numba",) if target == "cpu" else ()
        modules = ("torch", *compilers, "flashinfer_bench.bench", "workers.judge", *preload)
        self._process = ChildProcess(request, preload=modules)
        self._environment: Environment | None = None
        self._prepared: set[str] = set()
        self._judged = 0
        self._phase = ""

    def start(self) -> None:
        """Begin the imports."""
        self._process.start()

    def warm(self) -> None:
        """Make the problem's workloads resident, before there is a variant to judge.

        Raises:
            DatasetError: A workload cannot be made, or its reference fails.
        """
        self._prepare([str(w["uuid"]) for w in self._problem.workloads])

    def environment(self) -> Environment:
        """Where this evaluator runs.

        Raises:
            WorkerError: The target needs a GPU and there is none.
        """
        if self._environment is None:
            self._environment = describe(self._target)
        return self._environment

    def evaluate(self, job: EvaluationJob, packed: bytes | None = None) -> Evaluation:
        """Judge a variant. What it does wrong is in the Evaluation.

        Args:
            job: What to do.
            packed: The artifact, where builders have another file system.

        Raises:
            ArtifactMissingError: The artifact is not in the cache and was not given.
            WorkerError: The machinery failed.
        """
        began = time.perf_counter()
        folder = self._folder(job.artifact, packed)
        self._prepare(job.workloads)
        measurements: list[Measurement] = []
        self._judged += 1
        try:
            judgement, log = self._call(
                "judge", job, str(folder), loader.package_name(job.artifact), phase="load", on_event=measurements.append
            )
            if judgement.status not in (Status.PASSED, Status.RACED_OUT):
                judgement = replace(judgement, message=f"{judgement.message}\n{log[-_LOG_CHARS:]}".strip())
        except ChildError as failure:
            judgement, measurement = self._blame(failure, job)
            if measurement:
                measurements.append(measurement)
        if judgement.replace or self._judged >= RECYCLE_AFTER:
            self._replace()
        return Evaluation(
            job.variant.key,
            judgement.status,
            tuple(measurements),
            time.perf_counter() - began,
            judgement.message,
            self.environment().fingerprint,
        )

    def compare(self, job: ComparisonJob, packed: Mapping[str, bytes] | None = None) -> Comparison:
        """Measure variants interleaved. One that fails gets its status, and the others start again without it.

        Raises:
            ArtifactMissingError: An artifact is not in the cache and was not given.
            WorkerError: The machinery failed.
        """
        packed = packed or {}
        folders = {
            variant.key: (str(self._folder(artifact, packed.get(artifact))), loader.package_name(artifact))
            for variant, artifact in job.variants
        }
        self._prepare(job.workloads)
        failed: dict[str, Evaluation] = {}
        taken: dict[str, list[Measurement]] = {}
        began = time.perf_counter()
        left = list(job.variants)
        while left:
            taken = {variant.key: [] for variant, _ in left}
            culprit = self._compare(replace(job, variants=tuple(left)), folders, taken)
            if culprit is None:
                break
            failed[culprit.key] = culprit
            left = [(v, a) for v, a in left if v.key != culprit.key]
        self._judged += len(job.variants)
        if self._judged >= RECYCLE_AFTER:
            self._replace()
        seconds = time.perf_counter() - began
        return Comparison(tuple(failed.get(v.key) or self._compared(v, taken[v.key], seconds) for v, _ in job.variants))

    def processes(self) -> dict[str, int | None]:
        """Process ids of the template and the child."""
        return {"template": self._process.template_pid, "child": self._process.pid}

    def close(self) -> None:
        """End the process and drop the stored references."""
        self._process.close()
        self._cache.discard(self._store)

    def _compare(
        self, job: ComparisonJob, folders: Mapping[str, tuple[str, str]], taken: dict[str, list[Measurement]]
    ) -> Evaluation | None:
        """One attempt; the Evaluation of the variant that ended it, None if all went through."""

        def keep(event: tuple[str, Measurement]) -> None:
            taken[event[0]].append(event[1])

        limits_s = {**self._limits_s, "compare": self._limits_s["measure"] * len(job.variants)}
        with tempfile.NamedTemporaryFile(dir=self._store) as turns:
            try:
                self._call("compare", job, folders, turns.name, phase="load", on_event=keep, limits_s=limits_s)
            except ChildError as failure:
                key = Path(turns.name).read_bytes().partition(b"\n")[0].decode()
                self._replace()
                if key not in taken:
                    raise WorkerError(f"a comparison failed before any variant's turn: {failure}") from failure
                fingerprint = self.environment().fingerprint
                return Evaluation(key, _status_of(failure), (), 0.0, _text(failure), fingerprint)
        return None

    def _compared(self, variant: Variant, measurements: list[Measurement], seconds: float) -> Evaluation:
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
        entry = self._cache.get(digest)
        if entry is None and packed is not None:
            entry = self._cache.unpack(digest, packed)
        if entry is None:
            raise ArtifactMissingError(
                f"artifact {digest} is not in the cache {self._cache.root}; build the variant again"
            )
        return entry.folder

    def _prepare(self, uuids: Sequence[str]) -> None:
        """Have reference outputs stored, computed in a process that no candidate has been in."""
        missing = [uuid for uuid in uuids if uuid not in self._prepared]
        if missing and self._judged:
            self._replace()
        for uuid in missing:
            try:
                self._call("prepare", uuid, phase="prepare")
            except ChildRaisedError as failure:
                raise DatasetError(str(failure).partition(": ")[2] or str(failure)) from failure
            except ChildError as failure:
                raise WorkerError(f"workload {uuid} cannot be prepared: {failure}\n{failure.log}") from failure
            self._prepared.add(uuid)

    def _call(
        self, method: str, *args: Any, phase: str, limits_s: Mapping[str, float] | None = None, **more: Any
    ) -> Any:
        self._phase = phase

        def follow(phase: str) -> None:
            self._phase = phase

        return self._process.call(
            method, *args, limits_s=limits_s or self._limits_s, phase=phase, on_phase=follow, **more
        )

    def _replace(self) -> None:
        self._process.kill()
        self._judged = 0

    def _blame(self, failure: ChildError, job: EvaluationJob) -> tuple[Judgement, Measurement | None]:
        """The candidate's status when its process did not answer."""
        kind, _, uuid = self._phase.partition(" ")
        if isinstance(failure, ChildRaisedError):
            # The judge turns a candidate's exceptions into statuses, so this is ours, or a candidate before this one
            # has broken the process in a way that nobody noticed.
            self._replace()
            return Judgement(Status.WORKER_LOST, f"evaluator failed in phase {self._phase!r}: {_text(failure)}"), None
        self._judged = 0
        status = _status_of(failure)
        message = _text(failure)
        if kind == "load":
            return Judgement(status, message), None
        return Judgement(status, message), Measurement(uuid, status, message=message, method=job.method)


def _status_of(failure: ChildError) -> Status:
    if isinstance(failure, PhaseTimeoutError):
        return Status.TIMEOUT
    return Status.CRASHED if isinstance(failure, ChildDiedError) else Status.RUNTIME_ERROR


def _text(failure: ChildError) -> str:
    """What happened, and the end of what was printed."""
    return f"{failure}\n{failure.log[-_LOG_CHARS:]}".strip()
