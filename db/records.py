"""What goes into the store and comes out of it: the records of :mod:`workers.records`, and what is kept beside them.

Moments (``*_at``) are Unix time in seconds, durations seconds, latencies microseconds. An ``id`` of 0 means that the
record has not been stored yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from workers.records import BuildResult, Environment, Measurement, Method

Json = Mapping[str, Any]

LOG_LIMIT = 8000
"""Characters of a build log, a message or a reason that are kept; the end says what went wrong."""


def canonical(value: Any) -> str:
    """The JSON text of a value that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def method_hash(method: Method) -> str:
    """Canonical hash of how a measurement is taken: 16 hex digits. Measurements of one hash may be compared."""
    return hashlib.sha256(canonical(asdict(method)).encode()).hexdigest()[:16]


class SweepState(StrEnum):
    """Where a sweep stands. RUNNING without a fresh heartbeat means that its process died; it can be resumed."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class SweepRecord:
    """A budgeted run of trials.

    Args:
        definition_id: From ``register_definition``.
        space_id: From ``register_space``.
        environment_id: From ``register_environment``: where it was started. A measurement names its own.
        seed: Of the search.
        settings: The effective settings, with the workload uuids and the regimes.
        budget_s: Limit of wall time, None for none.
        max_trials: Limit of trials, None for none.
        host: Where the sweep process ran when the sweep was created.
        owner: The process that holds the sweep, None if none does. Given on creation, it is a claim from birth.
        state: A :class:`SweepState`.
        summary: What ``finish_sweep`` was given.
        ticket: What whoever started the sweep's process recognises the sweep by, unique; None if nobody waits for it.
        stop_requested_at: When the owner was asked to stop, None if it was not.
        heartbeat_at: When the owner was last heard of, by the database's clock.

    The rest is filled by the store when a sweep is read: ``id``, the moments, and the names behind the ids.
    """

    definition_id: int
    space_id: int
    environment_id: int
    seed: int = 0
    settings: Json = field(default_factory=dict)
    budget_s: float | None = None
    max_trials: int | None = None
    host: str = ""
    owner: str | None = None
    id: int = 0
    state: str = SweepState.RUNNING
    summary: Json = field(default_factory=dict)
    started_at: float = 0.0
    finished_at: float | None = None
    heartbeat_at: float | None = None
    ticket: str | None = None
    stop_requested_at: float | None = None
    definition: str = ""
    space: str = ""
    target: str = ""
    space_fingerprint: str = ""
    hardware: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredBuild(BuildResult):
    """A build as it is kept: by one toolchain (a string with the versions that matter) at one time.

    ``key`` is the variant's config hash. Of the ``figures``, :data:`RESOURCES` have columns of their own.
    """

    toolchain: str
    built_at: float = 0.0
    id: int = 0

    @classmethod
    def of(cls, build: BuildResult, **kept: Any) -> Self:
        """The build with what is kept beside it."""
        return cls(**_values(build), **kept)


RESOURCES = ("registers", "spill_bytes", "smem_bytes")
"""The static figures of a build that have columns."""


@dataclass(frozen=True, kw_only=True)
class StoredMeasurement(Measurement):
    """A measurement as it is kept: samples as float32, none after retention has dropped them.

    Args:
        environment: Fingerprint of a registered environment.
        config_hash: The variant; only needed for a comparison, where each record names its own.
    """

    environment: str
    config_hash: str = ""
    measured_at: float = 0.0
    id: int = 0

    @classmethod
    def of(cls, measurement: Measurement, **kept: Any) -> Self:
        """The measurement with what is kept beside it."""
        return cls(**_values(measurement), **kept)


@dataclass(frozen=True)
class EarlierMeasurement:
    """A measurement with all that decides whether it may be reused: ``content`` is its workload's."""

    measurement: StoredMeasurement
    environment: Environment
    content: str


FIGURES = tuple(f.name for f in fields(Measurement) if f.type == "float | None")
"""The figures of a measurement: each has a column of its name."""


def _values(record: Any) -> dict[str, Any]:
    """A record's fields by name, as they are."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """What figures need of a finished trial; see :class:`TrialRecord`."""

    id: int
    number: int
    regime: str
    state: str
    objective: float | None
    config: Json


@dataclass(frozen=True)
class FailureCount:
    """How many trials of a sweep ended in the same state for the same reason, and the number of the first one."""

    state: str
    reason: str
    trials: int
    first: int


@dataclass(frozen=True)
class TrialRecord:
    """One config evaluated in one regime, finished.

    Args:
        sweep_id: Whose trial it is.
        number: Unique within the sweep, counted by the sweep.
        config: The config.
        config_hash: Its canonical hash.
        regime: Name of the regime, "" where there is only one.
        state: The one terminal state, a worker status such as PASSED, RACED_OUT, COMPILE_ERROR.
        objective: What the search minimises, None without a result.
        reason: Why it ended, one line for people.
        origin: Where the config came from: ``default``, ``warm_start``, the sampler's name.
        build: None if nothing was built.
        measurements: All that the trial rests on. One with an ``id`` is a stored one that was reused.
    """

    sweep_id: int
    number: int
    config: Json
    config_hash: str
    regime: str
    state: str
    objective: float | None = None
    reason: str = ""
    origin: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0
    build: StoredBuild | None = None
    measurements: tuple[StoredMeasurement, ...] = ()
    id: int = 0


@dataclass(frozen=True)
class WinnerWorkload:
    """A winner on one workload, from the comparison of the finalists; ``axes`` is filled when read."""

    workload: str
    median_us: float
    low_us: float
    high_us: float
    default_median_us: float | None = None
    axes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WinnerRecord:
    """The best config of a sweep for one regime.

    Args:
        regime: Name of the regime, "" where there is only one.
        config_hash: A variant that has a trial in the sweep.
        median_us: Over the regime's workloads, by the sweep's objective; ``low_us`` and ``high_us`` bound it at 95 %.
        default_median_us: The default config's figure from the same comparison, None if the default failed.
        workloads: What it rests on.
        size_axis: The axis whose value decides the regime, None if the regime holds every size.
        min_size: Smallest size of the regime (inclusive), None for no bound.
        max_size: Largest size of the regime (inclusive), None for no bound.
        config: Filled when read.
    """

    regime: str
    config_hash: str
    median_us: float
    low_us: float
    high_us: float
    default_median_us: float | None = None
    default_low_us: float | None = None
    default_high_us: float | None = None
    workloads: tuple[WinnerWorkload, ...] = ()
    size_axis: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    config: Json = field(default_factory=dict)


@dataclass(frozen=True)
class BestRow:
    """A winner with everything that a lookup has to name.

    ``export_id`` and ``solution`` are those of the newest export made from the sweep, None if there is none.
    """

    sweep_id: int
    definition: str
    space: str
    target: str
    space_fingerprint: str
    finished_at: float
    winner: WinnerRecord
    environment: Environment
    export_id: int | None = None
    solution: str | None = None


@dataclass(frozen=True)
class RelatedConfig:
    """A winner of another sweep of the same space family, to start a search from."""

    config: Json
    definition: str
    hardware: str
    target: str
    regime: str
    median_us: float
    sweep_id: int


@dataclass(frozen=True)
class ExportRecord:
    """An exported Solution.

    Args:
        sweep_id: What it was made from.
        solution: The Solution's name.
        digest: Of its sources.
        made_from: Per regime, the bounds and the config hash.
        verification: What flashinfer-bench said about it, per workload.
        content: The Solution's JSON text, as written.
        path: Where it was written.
        definition: Filled when read.
    """

    sweep_id: int
    solution: str
    digest: str
    made_from: Json = field(default_factory=dict)
    verification: Json = field(default_factory=dict)
    content: str = ""
    path: str = ""
    exported_at: float = 0.0
    definition: str = ""
    id: int = 0


@dataclass(frozen=True)
class TokenRecord:
    """A token of the HTTP service, without its secret.

    Args:
        key: Its public part.
        secret_hash: Of its secret part.
        scopes: What it allows.
        name: For people.
        expires_at: When it ends by itself, None for never.
        revoked_at: When somebody ended it.
    """

    key: str
    secret_hash: str
    scopes: tuple[str, ...]
    name: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    id: int = 0
