"""Between the workers' records and the store's: the one place where each becomes the other."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, fields, replace

from db.records import BuildRecord, EnvironmentRecord, MeasurementRecord, TrialRecord, method_hash
from search_spaces import Config, SearchSpace
from workers.records import BuildResult, Environment, Measurement, Method, Status, Variant

LOG_LIMIT = 8000
"""Characters of a build log or a message that are kept; the end says what went wrong."""


def host() -> str:
    """This machine's name."""
    return socket.gethostname()


def environment(seen: Environment) -> EnvironmentRecord:
    """A worker's environment for the store."""
    return EnvironmentRecord(
        fingerprint=seen.fingerprint,
        hardware=seen.hardware,
        target=seen.target,
        compute_capability=seen.compute_capability,
        units=seen.units,
        memory_bytes=seen.memory_bytes,
        driver=seen.driver,
        versions=dict(seen.versions),
    )


def toolchain(seen: EnvironmentRecord) -> str:
    """The versions that decide what a build is."""
    names = ("python", "numba", "torch", "cuda", "nvidia-cutlass-dsl", "apache-tvm-ffi")
    return " ".join(f"{n}={seen.versions[n]}" for n in names if n in seen.versions)


def method_id(method: Method) -> str:
    """The store's hash of a method."""
    return method_hash(asdict(method))


def variant(definition: str, space: SearchSpace, config: Config, config_hash: str) -> Variant:
    """What the workers build for a config."""
    return Variant(
        key=config_hash,
        definition=definition,
        sources=space.variant_sources(config),
        entry_point=space.entry_point,
        language=space.language,
        target=space.target,
        dependencies=space.dependencies,
        destination_passing=space.destination_passing,
        binding=space.binding,
    )


def measurement_record(measured: Measurement, environment_fingerprint: str) -> MeasurementRecord:
    """A worker's measurement for the store."""
    return MeasurementRecord(
        workload=measured.workload,
        environment=environment_fingerprint,
        method=asdict(measured.method),
        status=measured.status.value,
        samples_us=tuple(measured.samples_us),
        median_us=measured.median_us,
        low_us=measured.low_us,
        high_us=measured.high_us,
        max_abs_error=measured.max_abs_error,
        max_rel_error=measured.max_rel_error,
        matched_ratio=measured.matched_ratio,
        conditions=dict(measured.conditions),
        message=measured.message[-LOG_LIMIT:],
        measured_at=time.time(),
    )


def final_record(measured: Measurement, config_hash: str, environment_fingerprint: str) -> MeasurementRecord:
    """A final's measurement for the store; it names its variant, since a comparison has several."""
    return replace(measurement_record(measured, environment_fingerprint), config_hash=config_hash)


def measurement(record: MeasurementRecord) -> Measurement:
    """A stored measurement for the objective."""
    known = {f.name for f in fields(Method)}
    return Measurement(
        workload=record.workload,
        status=Status(record.status),
        samples_us=tuple(record.samples_us),
        median_us=record.median_us,
        low_us=record.low_us,
        high_us=record.high_us,
        max_abs_error=record.max_abs_error,
        max_rel_error=record.max_rel_error,
        matched_ratio=record.matched_ratio,
        conditions=dict(record.conditions),
        message=record.message,
        method=Method(**{k: v for k, v in record.method.items() if k in known}),
    )


def build_record(build: BuildResult, toolchain_text: str) -> BuildRecord:
    """A worker's build for the store."""
    return BuildRecord(
        toolchain=toolchain_text,
        status=build.status.value,
        build_s=build.build_s,
        artifact=build.artifact,
        figures=dict(build.figures),
        log=build.log[-LOG_LIMIT:],
        built_at=time.time(),
    )


def trial(
    *,
    sweep_id: int,
    number: int,
    regime: str,
    config: Config,
    config_hash: str,
    origin: str,
    status: Status,
    objective: float | None,
    message: str,
    started: float,
    build: BuildResult | None,
    known: tuple[MeasurementRecord, ...],
    fresh: tuple[Measurement, ...],
    environment: str,
    toolchain: str,
) -> TrialRecord:
    """A finished trial for the store."""
    return TrialRecord(
        sweep_id=sweep_id,
        number=number,
        config=dict(config),
        config_hash=config_hash,
        regime=regime,
        state=status.value,
        objective=objective,
        reason=message[-LOG_LIMIT:],
        origin=origin,
        started_at=started,
        finished_at=time.time(),
        build=None if build is None else build_record(build, toolchain),
        measurements=(*known, *(measurement_record(m, environment) for m in fresh)),
    )
