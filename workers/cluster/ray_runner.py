"""The runner on Ray: starts builder and evaluator actors, gives them jobs, answers what is asked of them."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from search_spaces.targets import accelerators_of, is_cuda
from workers.build.artifact_cache import ArtifactCache, default_cache_dir
from workers.cluster import actors
from workers.cluster.blob_transfer import pack
from workers.cluster.builder_actor import BuilderActor
from workers.cluster.jobs import START_LIMIT_S, JobCall, Jobs, Pool, Worker, cause
from workers.cluster.machines import (
    MOST_BUILDERS,
    Cluster,
    alike,
    builder_options,
    evaluator_options,
    join,
)
from workers.devices.environment import gpu_name, variables
from workers.errors import ClusterError, WorkerError, one_line
from workers.fib.dataset import Problem
from workers.fib.official_run import StockJob, StockRun
from workers.records import (
    ComparisonJob,
    Deadlines,
    Environment,
    EvaluationJob,
    Prepared,
    Variant,
)
from workers.runner import Outcome, Runner

_GPU_DEPTH = 3
"""Jobs in flight on a GPU's evaluator: one that runs, one whose variant is loaded at its end, and one for the time that
the sweep needs for a proposal. On the cpu target there is one, since the sweep shares the cores."""

_ENDS_MEANWHILE = 0.2
"""Part of the builders that end a build while the sweep makes a proposal that takes half a second; 15 on the machine of
an H200 end five a second (docs/results/search-physics.md)."""

_CLOSE_S = 2.0
"""Seconds that idle workers get to end by themselves."""
_PUMP_S = 0.2
"""Seconds between looks at builders while workloads are made."""
_LOOK_S = 5.0
"""Seconds between checks, during a long wait, whether the workers still have machines."""
_NICE = {"cpu": 19}
"""Niceness of compilation. On the cpu target it shares cores with what is being timed, and must yield at once."""


class RayRunner(Runner):
    """Workers on a Ray cluster: the one at ``ray_address``, else a local one that ends with :meth:`close`.

    Args:
        problem: Definition and workloads.
        target: One of :data:`search_spaces.targets.NAMES`.
        deadlines: Deadline of each phase of a candidate.
        ray_address: Address of a running cluster.
        accelerator: Ray accelerator type of the machines that evaluate; needed if several kinds fit the target.
        builders: Number of builders; None for as many as fit beside the evaluators.
        evaluators: Number of evaluators; None for one per GPU, or one per machine for the cpu target.
        cache_dir: Artifact cache; None for the user's cache folder.
        imports: Modules that variants import: their versions are part of the environment, and builders load their
            compiler at once.
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
        self._closed = False
        if ray_address is None and is_cuda(target) and gpu_name() is None:
            raise ClusterError(f"target {target} needs an NVIDIA GPU and this machine has none; give a Ray address")
        self._cluster = join(ray_address)
        try:
            self._jobs = self._start(self._cluster, builders, evaluators)
        except BaseException:
            self._cluster.close()
            raise
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        if say is not None:
            self._watcher = threading.Thread(target=self._watch_waiting, args=(say,), daemon=True, name="waiting")
            self._watcher.start()
        self.builders = len(self._jobs.builds.workers)
        self.evaluators = len(self._jobs.evaluations.workers)
        if is_cuda(target):
            self.in_line = 1 + self.evaluators * (_GPU_DEPTH - 1) + math.ceil(self.builders * _ENDS_MEANWHILE)

    @property
    def patience_s(self) -> float:
        """Seconds that all builders or all evaluators may be without a machine."""
        return self._jobs.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._jobs.patience_s = seconds

    def environment(self) -> Environment:
        """The environment in which evaluations run; waits until the evaluators have started.

        Raises:
            ClusterError: An evaluator did not start, or their environments differ.
        """
        import ray

        try:
            found: list[Environment] = ray.get(self._environments, timeout=START_LIMIT_S)
        except ray.exceptions.GetTimeoutError as error:
            raise ClusterError(f"no evaluator for {self._target} came up in {START_LIMIT_S:g} s") from error
        except ray.exceptions.RayTaskError as error:
            raise cause(error) from error
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
            while not ray.wait([ref], timeout=_PUMP_S)[0]:
                self._finish_ended()  # builders go on with what was submitted meanwhile
            try:
                answer: dict[str, Prepared] = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from error
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
            return dict(ray.get(self._jobs.evaluations.workers[0].actor.rates.remote(), timeout=START_LIMIT_S))
        except ray.exceptions.RayTaskError as error:
            raise cause(error) from error
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {}  # it is replaced when jobs are sent; the next sweep measures them

    def submit_build(self, variant: Variant) -> None:
        """Queue a build."""
        self._submit(self._jobs.builds, variant)

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Queue an evaluation."""
        self._submit(self._jobs.evaluations, job)

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Queue a comparison."""
        self._submit(self._jobs.evaluations, job)

    def withdraw(self, keys: Collection[str]) -> set[str]:
        """Take back what is still queued, see :meth:`workers.runner.Runner.withdraw`."""
        return self._jobs.withdraw(keys)

    def stock(self, job: StockJob) -> StockRun:
        """Run stock flashinfer-bench on the first evaluator's machine, whose device is freed for it.

        Raises:
            WorkerError: The machinery failed.
        """
        import ray

        actor = self._jobs.evaluations.workers[0].actor
        try:
            found: StockRun = ray.get(actor.stock.remote(job), timeout=job.timeout_s + START_LIMIT_S)
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
        while not self._jobs.ready:
            self._jobs.check_there()
            self._jobs.dispatch()
            left = max(0.0, deadline - time.monotonic())
            if not self._jobs.calls:
                break
            done, _ = ray.wait(list(self._jobs.calls), num_returns=1, timeout=min(left, _LOOK_S))
            if not done:
                if left > _LOOK_S:
                    continue
                break
            self._finish_ended()  # and all others that have ended by now
        self._jobs.dispatch()
        ready, self._jobs.ready = self._jobs.ready, []
        return ready

    def arrived(self) -> list[Outcome]:
        """Outcomes of all jobs that have ended; their workers get the next ones."""
        self._finish_ended()
        return self.wait(0.0) if self._jobs.ready else []

    def _finish_ended(self) -> None:
        import ray

        calls = list(self._jobs.calls)
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if calls else ([], [])
        for ref in done:
            # The death of a worker also settles its other references.
            if ref in self._jobs.calls:
                self._jobs.finish(ref)
        self._jobs.dispatch()

    def close(self) -> None:
        """End all workers and leave the cluster; a local cluster ends."""
        if self._closed:
            return
        self._closed = True
        self._ended.set()
        import ray

        workers = [w for pool in (self._jobs.builds, self._jobs.evaluations) for w in pool.workers]
        # A worker that is busy or still starts cannot answer. Killing it closes the socket of its fork server, which
        # ends the rest.
        done, _ = (
            ray.wait(list(self._jobs.calls), num_returns=len(self._jobs.calls), timeout=0)
            if self._jobs.calls
            else ([], [])
        )
        busy = {id(call.actor) for ref, call in self._jobs.calls.items() if ref not in done}
        idle = [worker.actor for worker in workers if worker.has_answered and id(worker.actor) not in busy]
        try:
            if idle:
                asked = [actor.close.remote() for actor in idle]
                ray.wait(asked, num_returns=len(idle), timeout=_CLOSE_S)
        finally:
            for worker in workers:
                actors.kill_quietly(worker.actor)
            if self._watcher is not None:
                self._watcher.join(timeout=2 * _LOOK_S)  # it must not ask a cluster that is gone
            self._jobs.forget()
            self._cluster.close()

    def processes(self) -> list[dict[str, int | None]]:
        """Process IDs of all workers, builders first; for tests and diagnosis."""
        import ray

        workers = [*self._jobs.builds.workers, *self._jobs.evaluations.workers]
        return list(ray.get([w.actor.processes.remote() for w in workers], timeout=START_LIMIT_S))

    def _start(self, cluster: Cluster, builders: int | None, evaluators: int | None) -> Jobs:
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
        evaluator, builder = ray.remote(actors.EvaluatorActor), ray.remote(BuilderActor)
        nice = _NICE.get(self._target, 5)
        pack_artifacts = cluster.nodes > 1
        common = (problem, self._target, self._cache_dir, self._deadlines)

        here = (self._imports, variables())
        depth = _GPU_DEPTH if is_cuda(self._target) else 1

        def evaluator_of(options: dict[str, Any]) -> Callable[[], Any]:
            # One thread for each job in flight, and one for questions.
            return lambda: evaluator.options(**options, max_concurrency=depth + 2).remote(*common, files, *here)

        def builder_of(options: dict[str, Any]) -> Callable[[], Any]:
            return lambda: builder.options(**options).remote(*common, nice, pack_artifacts, self._imports)

        evaluations = Pool([Worker(evaluator_of(options)) for options in slots], depth=depth)
        places = builder_options(cluster, builders, MOST_BUILDERS)
        jobs = Jobs(Pool([Worker(builder_of(options)) for options in places]), evaluations, pack_artifacts)
        for worker in (*evaluations.workers, *jobs.builds.workers):
            worker.actor = worker.make()
        # First, since actors answer in order and warming up takes seconds.
        self._environments = [worker.actor.environment.remote() for worker in evaluations.workers]
        self._warmed = [worker.actor.warm.remote() for worker in evaluations.workers]
        for ref, worker in zip(self._warmed, evaluations.workers, strict=True):
            jobs.calls[ref] = JobCall(evaluations, worker, worker.actor, None)
        for worker in jobs.builds.workers:
            jobs.calls[worker.actor.processes.remote()] = JobCall(jobs.builds, worker, worker.actor, None)
        return jobs

    def _submit(self, pool: Pool, payload: Any) -> None:
        if self._closed:
            raise WorkerError("the runner is closed")
        self._jobs.submit(pool, payload)
        self._finish_ended()  # who submits may do so for seconds, and builders that have come up would wait

    def _watch_waiting(self, say: Callable[[str], None]) -> None:
        """Ask the evaluators now and then whether they wait for their devices, and say so once for each holder."""
        import ray

        while not self._ended.wait(_LOOK_S):
            asked = [worker.actor.waiting_for.remote() for worker in self._jobs.evaluations.workers]
            for ref in asked:
                # An actor that is busy starting, or gone, is somebody else's concern.
                with contextlib.suppress(Exception):
                    text = ray.get(ref, timeout=_LOOK_S)
                    if text is not None and text not in self._said:
                        self._said.add(text)
                        say(f"waiting for the device: {text}; sweeps take turns on it")
