"""Jobs on Ray actors: which worker does which job, and what happens if an actor dies or an artifact is missing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from workers.cluster import actors
from workers.errors import ArtifactMissingError, ClusterError, WorkerError, one_line
from workers.records import BuildResult, Comparison, Evaluation, EvaluationJob, Status, Variant
from workers.runner import Outcome

_ATTEMPTS = 3
"""A job that has lost this many workers comes back as WORKER_LOST; until then it is given to another worker. Two
workers may die under the same job by chance, which must not cost a trial."""

_MAX_DEATHS = 8
"""Deaths of one worker in a row after which the machine is considered broken."""

START_LIMIT_S = 300.0
"""Seconds that starting a worker may take."""


@dataclass(eq=False)
class Job:
    """A submitted job.

    Args:
        payload: A Variant, an EvaluationJob or a ComparisonJob.
        losses: Number of workers that died on it.
        waiting: The job that needs this build, if the runner submitted it itself.
        missing: Builds that this job waits for.
        was_rebuilt: Whether its artifacts were missing once already.
    """

    payload: Any
    losses: int = 0
    waiting: Job | None = None
    missing: int = 0
    was_rebuilt: bool = False


@dataclass
class Worker:
    """An actor, and how to make it again."""

    make: Callable[[], Any]
    actor: Any = None
    jobs: list[Job] = field(default_factory=list)
    """Jobs in flight, in the order in which the actor does them."""
    deaths: int = 0
    """Deaths since it last finished a job."""
    missing_since: float | None = None
    """When a dead actor was replaced; None once its successor has answered."""
    has_answered: bool = False
    """Whether this actor has finished a call, so that it is known to have started."""


@dataclass(frozen=True)
class JobCall:
    """The call behind a Ray reference: a job on an actor, or, without a job, a new actor's first answer."""

    pool: Pool
    worker: Worker
    actor: Any
    job: Job | None
    packed: Any = None


@dataclass
class Pool:
    """Workers of one kind, their queue, and how many jobs each may have."""

    workers: list[Worker] = field(default_factory=list)
    queue: deque[Job] = field(default_factory=deque)
    depth: int = 1


class Jobs:
    """The jobs of a runner: queued, in flight and finished. Used by one thread.

    Args:
        builds: The builders and their queue.
        evaluations: The evaluators and theirs.
        pack: Whether artifacts travel to evaluators, which have another file system.

    Attributes:
        calls: Ray references of the calls that are in flight.
        ready: Outcomes that were not fetched yet.
        patience_s: Seconds that all builders or all evaluators may be without a machine.
    """

    def __init__(self, builds: Pool, evaluations: Pool, pack: bool) -> None:
        self.builds = builds
        self.evaluations = evaluations
        self._pack = pack
        self._packed: dict[str, Any] = {}
        self.calls: dict[Any, JobCall] = {}
        self.ready: list[Outcome] = []
        self.patience_s = START_LIMIT_S

    def submit(self, pool: Pool, payload: Any) -> None:
        """Queue a job, and start it if a worker is idle."""
        pool.queue.append(Job(payload))
        self.dispatch()

    def withdraw(self, keys: Collection[str]) -> set[str]:
        """Drop queued builds and evaluations with these keys, but for builds that another job waits for."""
        dropped: set[str] = set()
        for pool in (self.builds, self.evaluations):
            for job in list(pool.queue):
                variant = job.payload.variant if isinstance(job.payload, EvaluationJob) else job.payload
                if isinstance(variant, Variant) and variant.key in keys and job.waiting is None:
                    pool.queue.remove(job)
                    dropped.add(variant.key)
        return dropped

    def forget(self) -> None:
        """Drop all calls and artifacts."""
        self.calls.clear()
        self._packed.clear()

    def dispatch(self) -> None:
        """Give waiting jobs to idle workers. Builders get none before they have answered: on a cluster that others use
        too, some may wait long for a core, and their jobs with them while other builders are idle."""
        for pool in (self.builds, self.evaluations):
            for level in range(pool.depth):
                for worker in pool.workers:
                    if pool is self.builds and not worker.has_answered:
                        continue
                    if len(worker.jobs) <= level and pool.queue:
                        worker.jobs.append(pool.queue.popleft())
                        self._send(pool, worker, worker.jobs[-1])

    def _send(self, pool: Pool, worker: Worker, job: Job) -> None:
        payload, actor, packed = job.payload, worker.actor, None
        if isinstance(payload, Variant):
            ref, packed = actor.build.options(num_returns=2).remote(payload)
        elif isinstance(payload, EvaluationJob):
            slim = replace(payload, variant=payload.variant.to_evaluate())
            ref = actor.evaluate.remote(slim, self._packed.get(slim.variant.artifact))
        else:
            slim = replace(payload, variants=tuple(v.to_evaluate() for v in payload.variants))
            ref = actor.compare.remote(slim, *(self._packed.get(v.artifact) for v in slim.variants))
        self.calls[ref] = JobCall(pool, worker, actor, job, packed)

    def finish(self, ref: Any) -> None:
        """Handle a result, or the worker's death."""
        import ray

        call = self.calls.pop(ref)
        try:
            outcome = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            self._done_with(call)
            own = cause(error)
            if not isinstance(own, ArtifactMissingError) or call.job is None or call.job.was_rebuilt:
                raise own from error
            self._rebuild(call.job)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            self._replace_dead(call, one_line(error))
        else:
            self._done_with(call)
            self._take(call, outcome)

    @staticmethod
    def _done_with(call: JobCall) -> None:
        if call.job is not None:
            call.worker.jobs.remove(call.job)

    def _take(self, call: JobCall, outcome: Any) -> None:
        """Handle a result."""
        call.worker.has_answered = True
        if call.job is None:
            call.worker.missing_since = None
            return
        call.worker.deaths = 0
        if isinstance(outcome, BuildResult) and outcome.artifact and self._pack:
            self._packed[outcome.artifact] = call.packed
        if isinstance(outcome, Evaluation) and outcome.status is Status.WORKER_LOST:
            call.job.losses += 1
            if call.job.losses < _ATTEMPTS:
                call.pool.queue.appendleft(call.job)
                return
        if call.job.waiting is not None:
            self._was_built(call.job.waiting, outcome)
        else:
            self.ready.append(outcome)

    def _replace_dead(self, call: JobCall, why: str) -> None:
        """Replace a dead worker. The job that it was running goes to the head of the queue, or comes back as lost. Its
        other jobs go back to the queue unchanged."""
        import ray

        worker = call.worker
        had_not_begun = call.job is None
        for ref, other in list(self.calls.items()):
            if other.actor is call.actor:
                # Results from before the death are still valid.
                if ray.wait([ref], timeout=0)[0] and _is_good(ref):
                    self.finish(ref)
                else:
                    had_not_begun |= other.job is None
                    del self.calls[ref]
        worker.deaths += 1
        actors.kill_quietly(worker.actor)
        if worker.deaths > _MAX_DEATHS:
            raise ClusterError(f"a worker died {worker.deaths} times without finishing anything: {why}")
        worker.actor, worker.missing_since, worker.has_answered = worker.make(), time.monotonic(), False
        # A new actor may be placed on a node that is about to be found dead. A job that waits for it there is
        # not the one that killed it.
        self.calls[worker.actor.processes.remote()] = JobCall(call.pool, worker, worker.actor, None)
        stranded, worker.jobs = worker.jobs, []
        suspects = 0 if had_not_begun else 1
        call.pool.queue.extendleft(reversed(stranded[suspects:]))
        for job in stranded[:suspects]:
            job.losses += 1
            if job.losses < _ATTEMPTS:
                call.pool.queue.appendleft(job)
            elif job.waiting is not None:
                self._was_built(job.waiting, _lost(job.payload, why))
            else:
                self.ready.append(_lost(job.payload, why))

    def check_there(self) -> None:
        """Stop waiting for machines that do not come back.

        Raises:
            ClusterError: All workers of a kind have been without a machine for too long.
        """
        for kind, pool in (("builder", self.builds), ("evaluator", self.evaluations)):
            since = [w.missing_since for w in pool.workers if w.missing_since is not None]
            if len(since) == len(pool.workers) and time.monotonic() - max(since) > self.patience_s:
                raise ClusterError(
                    f"the cluster has had no place for any {kind} for {self.patience_s:g} s; what was finished is kept"
                )

    def _rebuild(self, job: Job) -> None:
        """Build what the cache does not hold (evicted, or built on another machine), then run the job."""
        payload = job.payload
        variants = [payload.variant] if isinstance(payload, EvaluationJob) else payload.variants
        job.was_rebuilt, job.missing = True, len(variants)
        self.builds.queue.extendleft(Job(variant, waiting=job) for variant in variants)

    def _was_built(self, job: Job, built: Any) -> None:
        """Handle the end of a build that a job waits for."""
        job.missing -= 1
        if built.artifact is not None:
            job.payload = _with_artifact(job.payload, built.key, built.artifact)
        if job.missing == 0:
            self.evaluations.queue.appendleft(job)


def _is_good(ref: Any) -> bool:
    """Whether a finished call has a result."""
    import ray

    try:
        ray.get(ref)
    except ray.exceptions.RayError:
        return False
    return True


def _lost(payload: Any, why: str) -> Outcome:
    """The outcome of a job whose workers died."""
    message = f"the worker died {_ATTEMPTS} times: {why}"
    if isinstance(payload, Variant):
        return BuildResult(payload.key, Status.WORKER_LOST, 0.0, log=message)
    if isinstance(payload, EvaluationJob):
        return Evaluation(payload.variant.key, Status.WORKER_LOST, message=message)
    return Comparison(tuple(Evaluation(v.key, Status.WORKER_LOST, message=message) for v in payload.variants))


def _with_artifact(payload: Any, key: str, artifact: str) -> Any:
    """The job with the artifact of a rebuild, whose digest differs if the toolchain has changed."""
    if isinstance(payload, EvaluationJob):
        return replace(payload, variant=replace(payload.variant, artifact=artifact))
    variants = tuple(replace(v, artifact=artifact) if v.key == key else v for v in payload.variants)
    return replace(payload, variants=variants)


def cause(error: Any) -> WorkerError:
    """The worker's own exception, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, WorkerError):
        return cause
    return WorkerError(f"a worker failed: {one_line(cause or error)}")
