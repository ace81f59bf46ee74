"""The records that the store takes and returns, some of them around those of :mod:`workers.records`.

Points in time (``*_at``) are Unix time in seconds, durations seconds, latencies microseconds. An ``id`` of 0 means that
the record has not been stored yet.
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
"""Most characters of a build log, a message or a reason that are stored: its end, which says what went wrong."""


def canonical(value: Any) -> str:
    """The JSON text of a value, independent of the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def method_hash(method: Method) -> str:
    """Hash of a method, as 16 hex digits. Measurements with the same hash may be compared."""
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
        environment_id: From ``register_environment``: where it was started, None before its workers were up. Each
            measurement names its own.
        seed: Seed of the search.
        settings: The effective settings, with the workload uuids and the regimes.
        budget_s: Limit of wall time, None for none.
        max_trials: Limit of trials, None for none.
        host: Where the sweep process ran when the sweep was created.
        owner: The process that holds the sweep, None if none does. If given on creation, the sweep is claimed at once.
        state: A :class:`SweepState`.
        summary: The summary given at its end.
        ticket: Unique text by which the server that started the process recognises the sweep; None without a server.
        stop_requested_at: When the owner was asked to stop, None if it was not.
        heartbeat_at: Time of the owner's last sign of life, by the database's clock.

    The store fills the other fields when a sweep is read: ``id``, the points in time, and the names behind the IDs;
    ``hardware`` is "" where the environment is not known.
    """

    definition_id: int
    space_id: int
    environment_id: int | None = None
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
    """A build as it is stored, with its time and its toolchain (a string of the versions that matter).

    ``key`` is the variant's config hash. The ``figures`` in :data:`RESOURCES` have columns of their own.
    """

    toolchain: str
    built_at: float = 0.0
    id: int = 0

    @classmethod
    def of(cls, build: BuildResult, **kept: Any) -> Self:
        """A stored build from a build result."""
        return cls(**_values(build), **kept)


RESOURCES = ("registers", "spill_bytes", "smem_bytes")
"""The static figures of a build that have columns."""


@dataclass(frozen=True, kw_only=True)
class StoredMeasurement(Measurement):
    """A measurement as it is stored: samples as float32, or none once ``prune`` has dropped them.

    Args:
        environment: Fingerprint of a registered environment.
        config_hash: The variant; needed only in a comparison, which has records of several variants.
        profile: What the workload's inputs look like; filled when read, "" before.
    """

    environment: str
    config_hash: str = ""
    measured_at: float = 0.0
    id: int = 0
    profile: str = ""

    @classmethod
    def of(cls, measurement: Measurement, **kept: Any) -> Self:
        """A stored measurement from a measurement."""
        return cls(**_values(measurement), **kept)


@dataclass(frozen=True)
class EarlierMeasurement:
    """A measurement with all that decides whether it may be reused; ``content`` is the digest of its workload."""

    measurement: StoredMeasurement
    environment: Environment
    content: str


FIGURES = tuple(f.name for f in fields(Measurement) if f.type == "float | None")
"""The fields of a measurement that have columns of the same name."""


def _values(record: Any) -> dict[str, Any]:
    """The fields of a record by name, not copied."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """The part of a finished trial that plots need; see :class:`TrialRecord`."""

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
        sweep_id: The sweep of the trial.
        number: Number within the sweep.
        config: The config.
        config_hash: Its canonical hash.
        regime: Name of the regime, "" where there is only one.
        state: How it ended, a status such as PASSED, RACED_OUT, COMPILE_ERROR.
        objective: What the search minimises, None without a result.
        reason: Why it ended so, in one line.
        origin: Where the config came from: ``default``, ``warm_start``, the sampler's name.
        build: None if nothing was built.
        measurements: All measurements of the trial. One with an ``id`` was stored before and is reused.
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
    """A winner on one workload, from the comparison of the finalists; ``axes`` and ``profile`` are filled when read and
    empty before, so that a record that was never read does not pass for one of the dataset's own workloads."""

    workload: str
    median_us: float
    low_us: float
    high_us: float
    default_median_us: float | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    profile: str = ""


@dataclass(frozen=True)
class WinnerRecord:
    """The best config of a sweep for one regime.

    Args:
        regime: Name of the regime, "" where there is only one.
        config_hash: A variant that has a trial in the sweep.
        median_us: Figure over the regime's workloads, by the sweep's objective; ``low_us`` and ``high_us`` are its 95 %
            interval.
        default_median_us: The default config's figure from the same comparison, None if the default failed.
        workloads: Its figures on each workload.
        size_axis: The axis whose value decides the regime, None if the regime holds every size.
        min_size: Smallest size of the regime (inclusive), None for no bound.
        max_size: Largest size of the regime (inclusive), None for no bound.
        config: Filled when read.
        profile: "" for the winner over all workloads, else the profile that it is the winner for.
        unfit_sizes: Ranges of the size axis, ends included, where a constraint of the space forbids the config; the
            last may end with None, for all larger sizes.
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
    profile: str = ""
    unfit_sizes: tuple[tuple[int, int | None], ...] = ()


@dataclass(frozen=True)
class BestRow:
    """A winner with everything that a lookup reports.

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
    min_size: int | None
    max_size: int | None
    median_us: float
    sweep_id: int


@dataclass(frozen=True)
class ExportRecord:
    """An exported Solution.

    Args:
        sweep_id: The sweep that it was made from.
        solution: The Solution's name.
        digest: Digest of its sources.
        made_from: Bounds and config hash of each regime.
        verification: Result of the verification on each workload.
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
        key: The public part.
        secret_hash: Hash of the secret part.
        scopes: What it allows.
        name: Who it is for.
        expires_at: When it expires, None for never.
        revoked_at: When it was revoked, None if it was not.
    """

    key: str
    secret_hash: str
    scopes: tuple[str, ...]
    name: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    id: int = 0
