"""Starts or joins a Ray cluster, and decides which of its machines build and which evaluate."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.targets import accelerators_of, is_cuda
from workers.cluster import driver_start, local
from workers.devices.environment import cores
from workers.errors import ClusterError, one_line
from workers.records import Environment

EVALUATOR_SLOT = "tuner_evaluator"
"""Custom resource of a machine: how many evaluators of the cpu target it may run."""

MOST_BUILDERS = 32
"""Most builders of a sweep by default: the more proposals are in flight, the less each can learn from the others."""

_KNOCK_LIMIT_S = 10.0

_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class Cluster:
    """A joined cluster. ``folder`` is set for a local one, which ends with :meth:`close`."""

    cpus: int
    gpus: int
    evaluator_slots: int
    nodes: int
    folder: local.Folder | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether this process started it."""
        return self.folder is not None

    def close(self) -> None:
        """Leave the cluster; a local one is stopped and its files are deleted."""
        import ray

        ray.shutdown()
        if self.folder is not None:
            self.folder.close()
            local.forget_token()


def join(address: str | None, gpus: int | None = None) -> Cluster:
    """Join the cluster at an address, or start one on this machine.

    Args:
        address: ``host:port``, ``ray://...`` or ``auto``; None for a local cluster.
        gpus: Number of GPUs that a local cluster offers; None for all.

    Raises:
        ClusterError: It cannot be reached or started.
    """
    import ray

    # Ray announces that a local cluster has an access token and that it uses it; both are intended, so not shown.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        raise ClusterError("this process is already connected to a Ray cluster; one runner at a time")
    with driver_start.starting():
        return _start(gpus) if address is None else _connect(address)


def _start(gpus: int | None) -> Cluster:
    import ray

    folder = local.Folder()
    try:
        with local.environment():
            local.forget_token()
            ray.init(
                # On one core still two: an evaluator mostly waits for its candidate, so a builder fits beside it.
                num_cpus=max(2, cores()),
                num_gpus=gpus,
                resources={EVALUATOR_SLOT: 1},
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
                job_config=_job_config(),
                **local.options(folder.path),
            )
    except Exception as error:
        folder.close()
        if isinstance(error, ClusterError):
            raise
        raise ClusterError(f"a local Ray cluster cannot be started: {one_line(error)}") from error
    return _cluster(folder)


def _job_config() -> Any:
    """Of a driver whose working folder is its own.

    Ray puts that folder before all others on the path of its workers, where any file in it, a random.py say, would
    stand in for a module; it does not where a job brings a working folder.
    """
    from ray.job_config import JobConfig

    class OwnFolder(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return OwnFolder()


def _connect(address: str) -> Cluster:
    import ray

    import search_spaces
    import workers

    _knock(address)
    packages = [str(Path(str(m.__file__)).parent) for m in (workers, search_spaces)]
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            job_config=_job_config(),
            runtime_env={"py_modules": packages},
        )
    except Exception as error:
        raise ClusterError(f"Ray cluster {address!r} cannot be reached: {one_line(error)}") from error
    return _cluster(None)


def _knock(address: str) -> None:
    """Fail within seconds if nobody listens at an address; Ray itself tries for minutes.

    Raises:
        ClusterError: No connection.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_LIMIT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"Ray cluster {address!r} cannot be reached: {one_line(error)}") from error


def _cluster(folder: local.Folder | None) -> Cluster:
    import ray

    total: Mapping[str, float] = ray.cluster_resources()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
        evaluator_slots=int(total.get(EVALUATOR_SLOT, 0)),
        nodes=len(alive),
        folder=folder,
    )


def evaluator_options(target: str, cluster: Cluster, accelerator: str | None = None) -> list[dict[str, Any]]:
    """Ray actor options of every evaluator that the cluster can hold, empty if no machine fits the target.

    Args:
        target: Target of all variants.
        cluster: The cluster.
        accelerator: Only machines with this Ray accelerator type. For the cpu target, machines are given one by a
            custom resource ``accelerator_type:NAME``.

    Raises:
        ClusterError: No machine has that accelerator; or several kinds fit and none was named, since measurements of
            different hardware must never share a record.
    """
    if accelerator is None and (not is_cuda(target) or cluster.is_local):
        return _unnamed(target, cluster)
    places = _places(target, cluster)
    if accelerator is None:
        if len(places) > 1:
            kinds = ", ".join(sorted(places))
            raise ClusterError(f"the Ray cluster has {kinds} for target {target}; name one or more with --accelerators")
        return next(iter(places.values()), [])
    if accelerator not in places:
        known = ", ".join(sorted(places)) or "none"
        raise ClusterError(f"the Ray cluster has no {accelerator} for target {target}; it has {known}")
    return places[accelerator]


def _unnamed(target: str, cluster: Cluster) -> list[dict[str, Any]]:
    """Evaluators without an accelerator type: one per GPU; on the cpu target one per slot, or per machine."""
    if is_cuda(target):
        return [{"num_cpus": 0, "num_gpus": 1}] * cluster.gpus
    if cluster.evaluator_slots:
        return [{"num_cpus": 0, "resources": {EVALUATOR_SLOT: 1}}] * cluster.evaluator_slots
    return [{"num_cpus": 1, "scheduling_strategy": "SPREAD"}] * cluster.nodes


def _places(target: str, cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    """Accelerator type -> options of the evaluators that machines of this type hold."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _, resources in _nodes():
        kinds = [r.removeprefix(_ACCELERATOR) for r in resources if r.startswith(_ACCELERATOR)]
        for kind in kinds:
            if is_cuda(target) and kind not in accelerators_of(target):
                continue
            # A hundredth of the node's single accelerator_type unit for each: it says where to run and limits nothing.
            place: dict[str, float] = {f"{_ACCELERATOR}{kind}": 0.01}
            if not is_cuda(target):
                slots = int(resources.get(EVALUATOR_SLOT, 0))
                options = {"num_cpus": 0 if slots else 1, "resources": place | ({EVALUATOR_SLOT: 1} if slots else {})}
                found.setdefault(kind, []).extend([options] * max(1, slots))
            elif resources.get("GPU"):
                options = {"num_cpus": 0, "num_gpus": 1, "resources": place}
                found.setdefault(kind, []).extend([options] * int(resources["GPU"]))
    return found


def alike(environments: Sequence[Environment]) -> Environment:
    """The environment that all evaluators share.

    Raises:
        ClusterError: Their environments differ, so their measurements could not be compared; the message says how.
    """
    first = environments[0]
    for other in environments[1:]:
        if other.fingerprint != first.fingerprint:
            ours, theirs = asdict(first), asdict(other)
            field = next(f for f in ours if ours[f] != theirs[f])
            raise ClusterError(
                f"the evaluators differ in {field}: {ours[field]} and {theirs[field]}; measurements of both must not "
                "be mixed, so choose machines with --accelerators or --evaluators 1"
            )
    return first


def builder_options(cluster: Cluster, count: int | None, most: int) -> list[dict[str, Any]]:
    """Ray actor options of every builder.

    If there are machines without a GPU beside those with one, only they build, so that nothing disturbs the timing.
    Otherwise all machines build, and one core stays free for the evaluators' host side and the sweep.

    Args:
        cluster: The cluster.
        count: Number of builders, None for one on each core that may build.
        most: Upper limit if ``count`` is None.

    Raises:
        ClusterError: The cluster has fewer cores than so many builders need.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if count is not None and count > max(1, cluster.cpus):
        raise ClusterError(f"{count} builders are wanted; the cluster has room for {cluster.cpus}, one on each core")
    quiet = {} if cluster.is_local else {i: int(r.get("CPU", 0)) for i, r in _nodes() if not r.get("GPU")}
    homes = [node for node, cpus in quiet.items() for _ in range(cpus)]
    if not homes or len(quiet) == cluster.nodes:
        wanted = count or max(1, min(most, cluster.cpus - 1))
        return [{"num_cpus": 1, "scheduling_strategy": "SPREAD"}] * wanted
    wanted = count or min(most, len(homes))
    # Soft affinity: builders of a lost machine may restart elsewhere.
    places = [NodeAffinitySchedulingStrategy(homes[i % len(homes)], soft=True) for i in range(wanted)]
    return [{"num_cpus": 1, "scheduling_strategy": place} for place in places]


def survey(address: str, wanted: Sequence[tuple[str, str]]) -> int:
    """Number of builders that a cluster has room for.

    Args:
        address: Address of the cluster.
        wanted: Pairs of target and accelerator.

    Raises:
        ClusterError: It cannot be reached, or has no machine for one of the pairs.
    """
    cluster = join(address)
    try:
        for target, accelerator in wanted:
            evaluator_options(target, cluster, accelerator)
        return len(builder_options(cluster, None, MOST_BUILDERS))
    finally:
        cluster.close()


def _nodes() -> list[tuple[str, Mapping[str, float]]]:
    """ID and resources of each machine that is alive."""
    import ray

    return [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
