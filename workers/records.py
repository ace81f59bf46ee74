"""The records that travel between the sweep and the workers. Frozen, picklable, plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a build, a check or a measurement ended. The names up to TIMEOUT are flashinfer-bench's."""

    PASSED = "PASSED"
    INCORRECT_SHAPE = "INCORRECT_SHAPE"
    INCORRECT_NUMERICAL = "INCORRECT_NUMERICAL"
    INCORRECT_DTYPE = "INCORRECT_DTYPE"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    COMPILE_ERROR = "COMPILE_ERROR"
    TIMEOUT = "TIMEOUT"
    BUILT = "BUILT"
    REJECTED = "REJECTED"
    """Built, but its static figures (spills, shared memory) say it is hopeless."""
    CRASHED = "CRASHED"
    """The process that ran it died: segmentation fault, sticky device error, out of memory."""
    INPUTS_MODIFIED = "INPUTS_MODIFIED"
    NOT_REPEATABLE = "NOT_REPEATABLE"
    """Right the first time, not the second."""
    STALE_OUTPUT = "STALE_OUTPUT"
    """Right on values that it has seen, wrong on others at the same addresses: it remembers outputs."""
    UNFINISHED = "UNFINISHED"
    """Its work was not done when its call had returned, or is only done when somebody looks at its outputs."""
    TAMPERED = "TAMPERED"
    """It replaced parts of the evaluator, or of what the evaluator is made of."""
    PROCESS_CHANGED = "PROCESS_CHANGED"
    """It changed something of the process that cannot be put back, so that the next candidate would run differently."""
    DEGENERATE_REFERENCE = "DEGENERATE_REFERENCE"
    """The reference output is zero, constant or not finite: nothing can be judged by it."""
    RACED_OUT = "RACED_OUT"
    """Correct so far and stopped, since it can no longer beat the incumbent."""
    WORKER_LOST = "WORKER_LOST"
    """The machinery failed, not the candidate: tried again on another worker."""


OF_THE_MACHINE = frozenset((Status.WORKER_LOST, Status.TIMEOUT, Status.CRASHED))
"""Failures that a machine may be the reason of: one that was overloaded, out of memory or lost. The same config may
pass on another day."""


@dataclass(frozen=True)
class Deadlines:
    """The longest that each phase may take, in seconds of wall time."""

    compile_s: float = 300.0
    check_s: float = 60.0
    measure_s: float = 60.0


@dataclass(frozen=True)
class Tolerance:
    """flashinfer-bench's rule: an element fails only if it exceeds both; a share of elements must pass.

    ``by_scale``: ``atol`` is in units of the mean magnitude of the reference's row (see workers/judge/truth.py).
    """

    rtol: float = 1e-2
    atol: float = 1e-2
    required_matched_ratio: float = 1.0
    by_scale: bool = False


METHOD_REVISION = 3
"""Raised by whoever changes what a figure means: the timer, the flush, the check. Figures of another revision are not
reused; those of a database from before there were revisions count as 0."""


@dataclass(frozen=True)
class Method:
    """How a measurement is taken. Measurements of different methods are never mixed.

    Args:
        mode: ``host`` on CPU; ``eager`` or ``cuda_graph`` on a GPU.
        warmup_s: Seconds of runs before the first sample.
        min_samples: Samples that are always taken.
        max_samples: Samples at which it stops whatever the spread.
        target_rel_ci: It stops early once the 95 % interval of the median is within this share of the median.
        budget_s: Seconds after which no further sample starts.
        cold_cache: Whether the last-level cache is flushed before each sample.
        interleaved: Taken round by round against other variants (ComparisonJob), not on its own.
        rules: By what outputs were accepted, as text.
        revision: Of timer, flush and check.
    """

    mode: str = "host"
    warmup_s: float = 0.02
    min_samples: int = 5
    max_samples: int = 100
    target_rel_ci: float = 0.02
    budget_s: float = 1.0
    cold_cache: bool = True
    interleaved: bool = False
    rules: str = ""
    revision: int = METHOD_REVISION


@dataclass(frozen=True)
class Variant:
    """What is built and judged: a Solution's content.

    Args:
        key: Unique name within a sweep: the config's hash, or a Solution's name in ``tuner bench``.
        definition: Name of the definition it solves.
        sources: Path -> text, complete.
        entry_point: ``file::function``.
        language: flashinfer-bench's language.
        target: One of :data:`workers.devices.targets.NAMES`.
        dependencies: Package names.
        destination_passing: Outputs are the last arguments.
        binding: flashinfer-bench's binding for C++ and CUDA sources.
    """

    key: str
    definition: str
    sources: Mapping[str, str] = field(repr=False)
    entry_point: str
    language: str
    target: str
    dependencies: tuple[str, ...] = ()
    destination_passing: bool = True
    binding: str | None = None

    def built(self, artifact: str) -> BuiltVariant:
        """This variant with the digest of what its build left."""
        return BuiltVariant(**{f.name: getattr(self, f.name) for f in fields(self)}, artifact=artifact)


@dataclass(frozen=True, kw_only=True)
class BuiltVariant(Variant):
    """A variant that can be loaded: ``artifact`` is the digest from its BuildResult."""

    artifact: str

    def without_sources(self) -> BuiltVariant:
        """What an evaluator needs of it; sources are only for building it again."""
        return replace(self, sources={})


@dataclass(frozen=True)
class BuildResult:
    """One build.

    ``figures`` are static resources where the toolchain tells them: ``registers``, ``spill_bytes``, ``smem_bytes``, and
    whatever else the family reports. ``artifact`` is the digest under which the cache holds the built folder.
    """

    key: str
    status: Status
    build_s: float
    artifact: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    cached: bool = False


@dataclass(frozen=True)
class Measurement:
    """One variant on one workload.

    ``samples_us`` are microseconds per run in the order taken; ``low_us`` and ``high_us`` bound the median at 95 %.
    ``conditions`` holds what was read beside the samples (clocks in MHz, temperature in C, power, throttle reasons).
    """

    workload: str
    status: Status
    samples_us: tuple[float, ...] = ()
    median_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    matched_ratio: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    method: Method = field(default_factory=Method)


@dataclass(frozen=True)
class Evaluation:
    """A variant on the workloads of a job, up to the first failure or the point where it was raced out."""

    key: str
    status: Status
    measurements: tuple[Measurement, ...] = ()
    evaluate_s: float = 0.0
    message: str = ""
    environment: str = ""
    """Fingerprint of the environment it ran in."""
    usage: Mapping[str, float] = field(default_factory=dict)
    """Where the evaluator's time went: ``candidate_s``, ``check_s``, ``cold_s`` and ``anchor_s`` of the device by its
    own clock, ``phase_load_s``, ``phase_check_s`` and so on wall time in each phase, ``evaluate_s`` wall time of the
    job, ``idle_s`` wall time between the previous job and this one. What a process did before it died is not in the
    device's seconds."""


@dataclass(frozen=True)
class EvaluationJob:
    """Check and time one built variant.

    Args:
        variant: What to judge.
        workloads: Workload uuids in the order to run.
        method: How to time.
        stop_above_us: Workload uuid -> median above which the rest of the list is not worth running (racing); a
            workload without an entry never stops the job.
        check: False when this variant was already checked on these workloads in this environment.
    """

    variant: BuiltVariant
    workloads: tuple[str, ...]
    method: Method
    stop_above_us: Mapping[str, float] = field(default_factory=dict)
    check: bool = True


@dataclass(frozen=True)
class ComparisonJob:
    """Measure several built variants interleaved on the same evaluator: round after round, order shuffled by seed.

    Every variant gets ``rounds`` samples of each workload; one process, same clocks, so differences are paired.
    ``keep_loaded``: another job with these variants follows; they stay loaded for it.
    """

    variants: tuple[BuiltVariant, ...]
    workloads: tuple[str, ...]
    method: Method
    rounds: int
    seed: int = 0
    keep_loaded: bool = False


@dataclass(frozen=True)
class Comparison:
    """Result of a ComparisonJob: one Evaluation per variant; sample i of each belongs to round i. ``usage`` as in
    Evaluation, for all of them."""

    evaluations: tuple[Evaluation, ...]
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Where something ran. ``fingerprint`` is the hash of all other fields."""

    hardware: str
    """The GPU's or CPU's marketing name, as users give it to ``--hardware``."""
    target: str
    compute_capability: str = ""
    units: int = 0
    """SMs of a GPU, logical cores of a CPU."""
    memory_bytes: int = 0
    driver: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """python, torch, cuda, nvidia-cutlass-dsl, flashinfer-bench, numba where they matter, and what else the kernel
    imports: a version, for modules that no package brought a digest of their files."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that decide how fast libraries compute: numbers of threads, TF32, allocators."""
    fingerprint: str = ""
