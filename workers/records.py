"""The records that pass between the sweep and the workers: frozen, picklable, plain values."""

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
    """Built, but refused by its static figures (spills, shared memory)."""
    CRASHED = "CRASHED"
    """Its process died: segmentation fault, sticky device error, out of memory."""
    INPUTS_MODIFIED = "INPUTS_MODIFIED"
    NOT_REPEATABLE = "NOT_REPEATABLE"
    """Right the first time, wrong later."""
    STALE_OUTPUT = "STALE_OUTPUT"
    """Right on values that it has seen, wrong on others at the same addresses: it returns remembered outputs."""
    UNFINISHED = "UNFINISHED"
    """Its work was not finished when its call returned, or is done only when its outputs are read."""
    TAMPERED = "TAMPERED"
    """It replaced functions of the evaluator, or of libraries that the evaluator uses."""
    PROCESS_CHANGED = "PROCESS_CHANGED"
    """It changed the process in a way that cannot be undone, so that the next candidate would run differently."""
    DEGENERATE_REFERENCE = "DEGENERATE_REFERENCE"
    """The reference output is zero, constant or not finite: nothing can be judged by it."""
    RACED_OUT = "RACED_OUT"
    """Correct so far and stopped, since it can no longer beat the incumbent."""
    SKIPPED = "SKIPPED"
    """It says itself that it cannot run on this machine."""
    WORKER_LOST = "WORKER_LOST"
    """The machinery failed, not the candidate, on several workers in turn."""

    @property
    def is_failure(self) -> bool:
        """Whether it is none of the good ends."""
        return self not in (Status.PASSED, Status.BUILT, Status.RACED_OUT)


OF_THE_MACHINE = frozenset((Status.WORKER_LOST, Status.TIMEOUT, Status.CRASHED))
"""Failures that the machine may have caused (overload, no memory, lost): the same config may pass another time."""


PREPARE_S = 900.0
"""Seconds that making the inputs of a workload and running the reference on them may take; the largest public MoE
workload takes minutes on a CPU."""


@dataclass(frozen=True)
class Deadlines:
    """The longest that each phase may take, in seconds of wall time."""

    compile_s: float = 300.0
    check_s: float = 60.0
    measure_s: float = 60.0


@dataclass(frozen=True)
class Tolerance:
    """flashinfer-bench's rule: an element fails only if it exceeds both; a share of elements must pass.

    ``by_scale``: whether ``atol`` is in units of the mean magnitude of the reference's row (judge/outputs/truth.py).
    """

    rtol: float = 1e-2
    atol: float = 1e-2
    required_matched_ratio: float = 1.0
    by_scale: bool = False


AUTO = "auto"
"""The mode of a job whose variants are timed in whatever mode each works in: as a captured graph, else eagerly. A
measurement never has it: its method says how it was taken."""

METHOD_REVISION = 7
"""To be raised with every change of what a figure means: of the timer, the flush or a check. Figures of another
revision are not reused. Those stored before there were revisions count as 0."""


@dataclass(frozen=True)
class Asked:
    """How a user wants outputs to be judged: output name -> value; the empty name stands for all float outputs."""

    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    required_matched_ratio: Mapping[str, float] = field(default_factory=dict)
    judge: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """How a measurement is taken. Measurements of different methods are never mixed.

    Args:
        mode: ``host`` on CPU; ``eager`` or ``cuda_graph`` on a GPU; ``auto`` only in a job.
        warmup_s: Seconds of runs before the first sample.
        min_samples: Samples that are always taken.
        max_samples: Samples at which it stops in any case.
        target_rel_ci: It stops early once the 95 % interval of the median is within this share of the median.
        budget_s: Seconds after which no further sample starts.
        cold_cache: Whether the last-level cache is flushed before each sample.
        interleaved: Whether it is taken round by round with other variants (ComparisonJob).
        rules: The rules by which outputs were accepted, as text.
        revision: Revision of timer, flush and check.
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


PYTHON_LANGUAGES = ("python", "triton", "tilelang")
"""flashinfer-bench's languages that are imported instead of compiled ahead."""


@dataclass(frozen=True)
class Variant:
    """A variant: the content of a Solution, to be built and judged.

    Args:
        key: Unique name within a sweep: the config's hash, or a Solution's name in ``tuner bench``.
        definition: Name of the definition it solves.
        sources: Path -> text of all files.
        entry_point: ``file::function``.
        language: flashinfer-bench's language.
        target: One of :data:`search_spaces.targets.NAMES`.
        dependencies: Package names.
        destination_passing: Whether outputs are the last arguments.
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

    @property
    def is_native(self) -> bool:
        """Whether it is a library that flashinfer-bench compiles and loads (C++, CUDA), not a Python package."""
        return self.language not in PYTHON_LANGUAGES

    def built(self, artifact: str) -> BuiltVariant:
        """This variant with the digest of its artifact."""
        return BuiltVariant(**{f.name: getattr(self, f.name) for f in fields(self)}, artifact=artifact)


@dataclass(frozen=True, kw_only=True)
class BuiltVariant(Variant):
    """A variant that can be loaded: ``artifact`` is the digest from its BuildResult."""

    artifact: str

    def to_evaluate(self) -> BuiltVariant:
        """The part that an evaluator needs: without sources, but those by which flashinfer-bench finds a library."""
        return self if self.is_native else replace(self, sources={})


@dataclass(frozen=True)
class BuildResult:
    """One build.

    ``figures`` are static figures as far as the toolchain reports them: ``registers``, ``spill_bytes``, ``smem_bytes``,
    and others of the family. ``artifact`` is the digest under which the cache holds the built folder.
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

    ``samples_us`` are microseconds per run in the order taken; ``low_us`` and ``high_us`` are the 95 % interval of the
    median. ``conditions`` holds what was read beside the samples (clocks in MHz, temperature in C, power, throttle
    reasons).
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
    """The measurements of a variant on the workloads of a job, up to a failure or until it was raced out."""

    key: str
    status: Status
    measurements: tuple[Measurement, ...] = ()
    evaluate_s: float = 0.0
    message: str = ""
    environment: str = ""
    """Fingerprint of the environment it ran in."""
    usage: Mapping[str, float] = field(default_factory=dict)
    """How the evaluator's time was used: ``candidate_s``, ``check_s``, ``cold_s`` and ``anchor_s`` by the device's
    clock; by wall time ``phase_load_s``, ``phase_check_s`` and so on in each phase, ``evaluate_s`` for the job, and
    ``idle_s`` between the previous job and this one. The device's seconds leave out what a process did before it
    died."""


@dataclass(frozen=True)
class EvaluationJob:
    """Check and time one built variant.

    Args:
        variant: The variant.
        workloads: Workload uuids in the order to run.
        method: The method.
        stop_above_us: Workload uuid -> median above which the other workloads are not run (racing). A workload without
            an entry never ends the job.
        check: False if this variant was already checked on these workloads in this environment.
    """

    variant: BuiltVariant
    workloads: tuple[str, ...]
    method: Method
    stop_above_us: Mapping[str, float] = field(default_factory=dict)
    check: bool = True


@dataclass(frozen=True)
class ComparisonJob:
    """Measure several built variants interleaved on the same evaluator: round after round, order shuffled by seed.

    Every variant gets ``rounds`` samples of each workload, in one process at the same clocks, so differences are
    paired. In mode ``auto`` it gets them eagerly, and as a graph as well where it can be captured: two measurements of
    the workload.
    ``keep_loaded``: whether another job with these variants follows, for which they stay loaded.
    """

    variants: tuple[BuiltVariant, ...]
    workloads: tuple[str, ...]
    method: Method
    rounds: int
    seed: int = 0
    keep_loaded: bool = False


@dataclass(frozen=True)
class Comparison:
    """The result of a ComparisonJob: one Evaluation per variant; sample i of each belongs to round i. ``usage`` is as
    in Evaluation, for all of them."""

    evaluations: tuple[Evaluation, ...]
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What a workload is like, for whoever starts a sweep.

    Args:
        unjudgeable: Why nothing can be judged by it, None if it can.
        notes: What is worth knowing, a line each.
        judged_by: Output -> rule.
        scale: Largest mean magnitude of a row of a float output.
        plainly: Whether stock flashinfer-bench judges it as we do: all outputs are floats, finite and written.
        figures: What its inputs do, by name, where the space's generator can say.
    """

    unjudgeable: str | None = None
    notes: tuple[str, ...] = ()
    judged_by: Mapping[str, str] = field(default_factory=dict)
    scale: float = 0.0
    plainly: bool = True
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Hardware and software that something ran on. ``fingerprint`` is the hash of all other fields."""

    hardware: str
    """The GPU's or CPU's marketing name, as users give it to ``--hardware``."""
    target: str
    compute_capability: str = ""
    units: int = 0
    """SMs of a GPU, logical cores of a CPU."""
    memory_bytes: int = 0
    driver: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of python, torch, cuda, nvidia-cutlass-dsl, flashinfer-bench and numba where they matter, and of what
    else the kernel imports; a digest of the files of modules that no package provides."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that decide how fast libraries compute: numbers of threads, TF32, allocators."""
    fingerprint: str = ""
