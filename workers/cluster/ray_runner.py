"""The runner on Ray: builder and evaluator actors with one or a few jobs in flight; dead actors are replaced."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.build.artifact_cache import ArtifactCache, default_cache_dir
from workers.cluster import actors
from workers.cluster.blob_transfer import pack
from workers.cluster.machines import (
    MOST_BUILDERS,
    Cluster,
    alike,
    builder_options,
    evaluator_options,
    join,
)
from workers.devices.environment import gpu_name, variables
from workers.devices.targets import accelerators_of, is_cuda
from workers.errors import ArtifactMissingError, ClusterError, WorkerError, one_line
from workers.fib.dataset import Problem
from workers.fib.official_run import StockJob, StockRun
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Deadlines,
    Environment,
    Evaluation,
    EvaluationJob,
    Prepared,
    Status,
    Variant,
)
from workers.runner import Outcome, Runner

_ATTEMPTS = 3
"""A job that has lost this many workers comes back as WORKER_LOST; until then it is given to another worker. Two
workers may die under the same job by chance, which must not cost a trial."""

_GPU_DEPTH = 3
"""Jobs in flight on a GPU's evaluator: one that runs, one whose variant is loaded at its end, and one for the time that
the sweep needs for a proposal. On the cpu target there is one, since the sweep shares the cores."""

_MAX_DEATHS = 8
"""Deaths of one worker in a row after which the machine is considered broken."""

_START_LIMIT_S = 300.0
_CLOSE_S = 2.0
"""Seconds that idle workers get to end by themselves."""
_LOOK_S = 5.0
"""Seconds between checks, during a long wait, whether the workers still have machines."""
_NICE = {"cpu": 19}
"""Niceness of compilation. On the cpu target it shares cores with what is being timed, and must yield at once."""


@dataclass(eq=False)
class _Job:
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
    waiting: _Job | None = None
    missing: int = 0
    was_rebuilt: bool = False


@dataclass
class _Worker:
    """An actor, and how to make it again."""

    make: Callable[[], Any]
    actor: Any = None
    jobs: list[_Job] = field(default_factory=list)
    """Jobs in flight, in the order in which the actor does them."""
    deaths: int = 0
    """Deaths since it last finished a job."""
    missing_since: float | None = None
    """When a dead actor was replaced; None once its successor has answered."""


@dataclass(frozen=True)
class _Call:
    """The call behind a Ray reference: a job on an actor, or, without a job, a new actor's first answer."""

    pool: _Pool
    worker: _Worker
    actor: Any
    job: _Job | None
    packed: Any = None


@dataclass
class _Pool:
    """Workers of one kind, their queue, and how many jobs each may have."""

    workers: list[_Worker] = field(default_factory=list)
    queue: deque[_Job] = field(default_factory=deque)
    depth: int = 1


class RayRunner(Runner):
    """Workers on a Ray cluster: the one at ``ray_address``, else a local one that ends with :meth:`close`.

    Args:
        problem: Definition and workloads.
        target: One of :data:`workers.devices.targets.NAMES`.
        deadlines: Deadline of each phase of a candidate.
        ray_address: Address of a running cluster.
        accelerator: Ray accelerator type of the machines that evaluate; needed if several kinds fit the target.
        builders: Number of builders; None for as many as fit beside the evaluators.
        evaluators: Number of evaluators; None for one per GPU, or one per machine for the cpu target.
        cache_dir: Artifact cache; None for the user's cache folder.
        imports: Modules that variants import, whose versions are part of the environment.
        say: Told, by a thread of its own, when evaluators wait for a device that another process measures on.

    Raises:
        ClusterError: The cluster cannot be reached, or has no machine for the target.
    """

    def __init__(
        self,
        problem: Problem,
        target: str,
        *,
        deadlines: Deadlines | None = None,
        ray_address: str | None = None,
        accelerator: str | None = None,
        builders: int | None = None,
        evaluators: int | None = None,
        cache_dir: str | Path | None = None,
        imports: tuple[str, ...] = (),
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._problem = problem
        self._target = target
        self._accelerator = accelerator
        self._deadlines = deadlines or Deadlines()
        self._cache_dir = str(Path(cache_dir or default_cache_dir()).expanduser())
        self._imports = imports
        if ray_address is None:
            ArtifactCache(self._cache_dir)  # told here in one line, and not by an actor that cannot start
        self._packed: dict[str, Any] = {}
        self._refs: dict[Any, _Call] = {}
        self._ready: list[Outcome] = []
        self._closed = False
        self.patience_s = _START_LIMIT_S
        """Seconds that all builders or all evaluators may be without a machine."""
        if ray_address is None and is_cuda(target) and gpu_name() is None:
            raise ClusterError(f"target {target} needs an NVIDIA GPU and this machine has none; give a Ray address")
        self._cluster = join(ray_address)
        self._pack = self._cluster.nodes > 1
        try:
            self._build_pool, self._evaluation_pool = self._start(self._cluster, builders, evaluators)
        except BaseException:
            self._cluster.close()
            raise
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        if say is not None:
            self._watcher = threading.Thread(target=self._watch_waiting, args=(say,), daemon=True, name="waiting")
            self._watcher.start()
        self.builders = len(self._build_pool.workers)
        self.evaluators = len(self._evaluation_pool.workers)

    def environment(self) -> Environment:
        """The environment in which evaluations run; waits until the evaluators have started.

        Raises:
            ClusterError: An evaluator did not start, or their environments differ.
        """
        import ray

        try:
            found: list[Environment] = ray.get(self._environments, timeout=_START_LIMIT_S)
        except ray.exceptions.GetTimeoutError as error:
            raise ClusterError(f"no evaluator for {self._target} came up in {_START_LIMIT_S:g} s") from error
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayActorError as error:
            raise ClusterError(f"the evaluator for {self._target} cannot start: {one_line(error)}") from error
        return alike(found)

    def workloads(self) -> Mapping[str, Prepared]:
        """What each workload is like; one is as the worst of the evaluators found it.

        Raises:
            WorkerError: The machinery failed.
        """
        import ray

        found: dict[str, Prepared] = {}
        for ref in self._warmed:
            try:
                answer: dict[str, Prepared] = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayActorError:
                continue  # it is replaced when jobs are sent
            found.update({u: p for u, p in answer.items() if u not in found or p.unjudgeable is not None})
        return found

    def rates(self) -> Mapping[str, float]:
        """The rates of the first evaluator's device.

        Raises:
            WorkerError: They cannot be measured.
        """
        import ray

        try:
            return dict(ray.get(self._evaluation_pool.workers[0].actor.rates.remote()))
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayActorError:
            return {}  # it is replaced when jobs are sent

    def submit_build(self, variant: Variant) -> None:
        """Queue a build."""
        self._submit(self._build_pool, variant)

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Queue an evaluation."""
        self._submit(self._evaluation_pool, job)

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Queue a comparison."""
        self._submit(self._evaluation_pool, job)

    def stock(self, job: StockJob) -> StockRun:
        """Run stock flashinfer-bench on the first evaluator's machine, whose device is freed for it.

        Raises:
            WorkerError: The machinery failed.
        """
        import ray

        actor = self._evaluation_pool.workers[0].actor
        try:
            found: StockRun = ray.get(actor.stock.remote(job), timeout=job.timeout_s + _START_LIMIT_S)
        except ray.exceptions.RayError as error:
            raise WorkerError(f"stock flashinfer-bench could not be run: {one_line(error)}") from error
        return found

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that are ready.

        Raises:
            WorkerError: The machinery failed in a way that another worker would not change (bad dataset, no device).
        """
        import ray

        deadline = time.monotonic() + timeout_s
        while not self._ready:
            self._check_there()
            self._dispatch()
            left = max(0.0, deadline - time.monotonic())
            if not self._refs:
                break
            done, _ = ray.wait(list(self._refs), num_returns=1, timeout=min(left, _LOOK_S))
            if not done:
                if left > _LOOK_S:
                    continue
                break
            # Take all others that have ended by now.
            done, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
            for ref in done:
                # The death of a worker also settles its other references.
                if ref in self._refs:
                    self._finish(ref)
        self._dispatch()
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        """End all workers and leave the cluster; a local cluster ends."""
        if self._closed:
            return
        self._closed = True
        self._ended.set()
        import ray

        alive = [w.actor for pool in (self._build_pool, self._evaluation_pool) for w in pool.workers]
        # A busy worker cannot answer. Killing it closes the socket of its fork server, which ends the rest.
        done, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0) if self._refs else ([], [])
        busy = {id(call.actor) for ref, call in self._refs.items() if ref not in done}
        idle = [actor for actor in alive if id(actor) not in busy]
        try:
            if idle:
                asked = [actor.close.remote() for actor in idle]
                ray.wait(asked, num_returns=len(idle), timeout=_CLOSE_S)
        finally:
            for actor in alive:
                actors.kill_quietly(actor)
            if self._watcher is not None:
                self._watcher.join(timeout=2 * _LOOK_S)  # it must not ask a cluster that is gone
            self._refs.clear()
            self._packed.clear()
            self._cluster.close()

    def processes(self) -> list[dict[str, int | None]]:
        """Process IDs of all workers, builders first; for tests and diagnosis."""
        import ray

        workers = [*self._build_pool.workers, *self._evaluation_pool.workers]
        return list(ray.get([w.actor.processes.remote() for w in workers], timeout=_START_LIMIT_S))

    def _start(self, cluster: Cluster, builders: int | None, evaluators: int | None) -> tuple[_Pool, _Pool]:
        import ray

        slots = evaluator_options(self._target, cluster, self._accelerator)
        if not slots:
            kinds = " or ".join(accelerators_of(self._target)) or "CPU"
            raise ClusterError(f"the Ray cluster has no machine for target {self._target} ({kinds}); it has {cluster}")
        slots = slots[: evaluators or len(slots)]
        if evaluators is not None and evaluators > len(slots):
            raise ClusterError(f"{evaluators} evaluators are wanted; the cluster has room for {len(slots)}")
        problem = ray.put(self._problem)
        files = None if cluster.is_local else ray.put(pack(self._problem))
        evaluator, builder = ray.remote(actors.EvaluatorActor), ray.remote(actors.BuilderActor)
        nice = _NICE.get(self._target, 5)
        common = (problem, self._target, self._cache_dir, self._deadlines)

        here = (self._imports, variables())
        depth = _GPU_DEPTH if is_cuda(self._target) else 1

        def evaluator_of(options: dict[str, Any]) -> Callable[[], Any]:
            # One thread for each job in flight, and one for questions.
            return lambda: evaluator.options(**options, max_concurrency=depth + 2).remote(*common, files, *here)

        def builder_of(options: dict[str, Any]) -> Callable[[], Any]:
            return lambda: builder.options(**options).remote(*common, nice, self._pack)

        evaluation_pool = _Pool([_Worker(evaluator_of(options)) for options in slots], depth=depth)
        places = builder_options(cluster, builders, MOST_BUILDERS)
        build_pool = _Pool([_Worker(builder_of(options)) for options in places])
        for worker in (*evaluation_pool.workers, *build_pool.workers):
            worker.actor = worker.make()
        # First, since actors answer in order and warming up takes seconds.
        self._environments = [worker.actor.environment.remote() for worker in evaluation_pool.workers]
        self._warmed = [worker.actor.warm.remote() for worker in evaluation_pool.workers]
        for ref, worker in zip(self._warmed, evaluation_pool.workers, strict=True):
            self._refs[ref] = _Call(evaluation_pool, worker, worker.actor, None)
        return build_pool, evaluation_pool

    def _watch_waiting(self, say: Callable[[str], None]) -> None:
        """Ask the evaluators now and then whether they wait for their devices, and say so once for each holder."""
        import ray

        while not self._ended.wait(_LOOK_S):
            asked = [worker.actor.waiting_for.remote() for worker in self._evaluation_pool.workers]
            for ref in asked:
                # An actor that is busy starting, or gone, is somebody else's concern.
                with contextlib.suppress(Exception):
                    text = ray.get(ref, timeout=_LOOK_S)
                    if text is not None and text not in self._said:
                        self._said.add(text)
                        say(f"waiting for the device: {text}; sweeps take turns on it")

    def _submit(self, pool: _Pool, payload: Any) -> None:
        if self._closed:
            raise WorkerError("the runner is closed")
        pool.queue.append(_Job(payload))
        self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting jobs to idle workers."""
        for pool in (self._build_pool, self._evaluation_pool):
            for level in range(pool.depth):
                for worker in pool.workers:
                    if len(worker.jobs) <= level and pool.queue:
                        worker.jobs.append(pool.queue.popleft())
                        self._send(pool, worker, worker.jobs[-1])

    def _send(self, pool: _Pool, worker: _Worker, job: _Job) -> None:
        payload, actor, packed = job.payload, worker.actor, None
        if isinstance(payload, Variant):
            ref, packed = actor.build.options(num_returns=2).remote(payload)
        elif isinstance(payload, EvaluationJob):
            slim = replace(payload, variant=payload.variant.without_sources())
            ref = actor.evaluate.remote(slim, self._packed.get(slim.variant.artifact))
        else:
            slim = replace(payload, variants=tuple(v.without_sources() for v in payload.variants))
            ref = actor.compare.remote(slim, *(self._packed.get(v.artifact) for v in slim.variants))
        self._refs[ref] = _Call(pool, worker, actor, job, packed)

    def _finish(self, ref: Any) -> None:
        """Handle a result, or the worker's death."""
        import ray

        call = self._refs.pop(ref)
        try:
            outcome = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            self._done_with(call)
            cause = _cause(error)
            if not isinstance(cause, ArtifactMissingError) or call.job is None or call.job.was_rebuilt:
                raise cause from error
            self._rebuild(call.job)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            self._bury(call, one_line(error))
        else:
            self._done_with(call)
            self._take(call, outcome)

    @staticmethod
    def _done_with(call: _Call) -> None:
        if call.job is not None:
            call.worker.jobs.remove(call.job)

    def _take(self, call: _Call, outcome: Any) -> None:
        """Handle a result."""
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
            self._go_on(call.job.waiting, outcome)
        else:
            self._ready.append(outcome)

    def _bury(self, call: _Call, why: str) -> None:
        """Replace a dead worker. The job that it was running goes to the head of the queue, or comes back as lost. Its
        other jobs go back to the queue unchanged."""
        import ray

        worker = call.worker
        had_not_begun = call.job is None
        for ref, other in list(self._refs.items()):
            if other.actor is call.actor:
                # Results from before the death are still valid.
                if ray.wait([ref], timeout=0)[0] and _is_good(ref):
                    self._finish(ref)
                else:
                    had_not_begun |= other.job is None
                    del self._refs[ref]
        worker.deaths += 1
        actors.kill_quietly(worker.actor)
        if worker.deaths > _MAX_DEATHS:
            raise ClusterError(f"a worker died {worker.deaths} times without finishing anything: {why}")
        worker.actor, worker.missing_since = worker.make(), time.monotonic()
        # A new actor may be placed on a node that is about to be found dead. A job that waits for it there is
        # not the one that killed it.
        self._refs[worker.actor.processes.remote()] = _Call(call.pool, worker, worker.actor, None)
        stranded, worker.jobs = worker.jobs, []
        suspects = 0 if had_not_begun else 1
        call.pool.queue.extendleft(reversed(stranded[suspects:]))
        for job in stranded[:suspects]:
            job.losses += 1
            if job.losses < _ATTEMPTS:
                call.pool.queue.appendleft(job)
            elif job.waiting is not None:
                self._go_on(job.waiting, _lost(job.payload, why))
            else:
                self._ready.append(_lost(job.payload, why))

    def _check_there(self) -> None:
        """Stop waiting for machines that do not come back.

        Raises:
            ClusterError: All workers of a kind have been without a machine for too long.
        """
        for kind, pool in (("builder", self._build_pool), ("evaluator", self._evaluation_pool)):
            since = [w.missing_since for w in pool.workers if w.missing_since is not None]
            if len(since) == len(pool.workers) and time.monotonic() - max(since) > self.patience_s:
                raise ClusterError(
                    f"the cluster has had no place for any {kind} for {self.patience_s:g} s; what was finished is kept"
                )

    def _rebuild(self, job: _Job) -> None:
        """Build what the cache does not hold (evicted, or built on another machine), then run the job."""
        payload = job.payload
        variants = [payload.variant] if isinstance(payload, EvaluationJob) else payload.variants
        job.was_rebuilt, job.missing = True, len(variants)
        self._build_pool.queue.extendleft(_Job(variant, waiting=job) for variant in variants)

    def _go_on(self, job: _Job, built: Any) -> None:
        """Handle the end of a build that a job waits for."""
        job.missing -= 1
        if built.artifact is not None:
            job.payload = _with_artifact(job.payload, built.key, built.artifact)
        if job.missing == 0:
            self._evaluation_pool.queue.appendleft(job)


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


def _cause(error: Any) -> WorkerError:
    """The worker's own exception, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, WorkerError):
        return cause
    return WorkerError(f"a worker failed: {one_line(cause or error)}")
