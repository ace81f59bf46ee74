"""Which stored measurements a sweep leaves out for other load, and why others are measured again.

What must agree for one to be found at all is in :meth:`db.queries.measurements.Measurements.known`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from db.records import EarlierMeasurement, StoredMeasurement
from workers.records import AUTO, Environment, Measurement, Method, Status

MOST_OTHER_CORES = 0.25
"""Share of the cores (at least half a core) that others may use before a figure is doubtful."""

MOST_OTHER_GPU_PERCENT = 5.0


@dataclass(frozen=True, order=True)
class LoadBeside:
    """What other processes used of a machine."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


def other_load(measured: Measurement) -> LoadBeside | None:
    """What others used of the device or the cores meanwhile; None if it was little enough."""
    names = ("other_cores", "cores", "other_gpu_percent")
    used, cores, percent = (float(measured.conditions.get(name, 0.0)) for name in names)
    # A captured graph runs without the host.
    if measured.method.mode != "cuda_graph" and used > max(0.5, MOST_OTHER_CORES * cores):
        return LoadBeside(used, "cores")
    return LoadBeside(percent, "% of the GPU") if percent > MOST_OTHER_GPU_PERCENT else None


def usable(records: Iterable[StoredMeasurement], workloads: Sequence[str]) -> tuple[dict[str, StoredMeasurement], int]:
    """Of measurements taken by the sweep's method, those that can be reused, by workload; and the number of those that
    cannot, since they were taken beside other load."""
    passed = [r for r in records if r.workload in workloads and r.status is Status.PASSED]
    quiet = {r.workload: r for r in passed if other_load(r) is None}
    return quiet, len(passed) - len(quiet)


def why_made_anew(
    earlier: Sequence[EarlierMeasurement], here: Environment, method: Method, contents: Mapping[str, str]
) -> list[str]:
    """How the newest measurement of each workload differs from what the sweep would measure now; empty if it does not.

    Args:
        earlier: Measurements of one variant, newest first.
        here: The environment of the sweep.
        method: The method of the sweep.
        contents: Workload uuid -> digest of its content.
    """
    reasons: dict[str, None] = {}
    seen = set()
    for known in earlier:
        uuid = known.measurement.workload
        same_hardware = (known.environment.hardware, known.environment.target) == (here.hardware, here.target)
        if uuid in seen or uuid not in contents or not same_hardware:
            continue
        seen.add(uuid)
        reasons |= dict.fromkeys(_differences(known, here, method))
        if known.content != contents[uuid]:
            reasons["the inputs of workload " + uuid] = None
    return list(reasons)


def _differences(known: EarlierMeasurement, here: Environment, method: Method) -> list[str]:
    then = known.environment
    found = [f"{n} was {a}, is {b}" for n, a, b in _changed(then.versions, here.versions)]
    found += [f"{n} was {a}, is {b}" for n, a, b in _changed(then.variables, here.variables)]
    for name in ("driver", "units", "memory_bytes", "compute_capability"):
        if getattr(then, name) != getattr(here, name):
            found.append(f"{name} was {getattr(then, name)}, is {getattr(here, name)}")
    old, new = asdict(known.measurement.method), asdict(method)
    if new["mode"] == AUTO:
        new["mode"] = old["mode"]
    if old["interleaved"] == new["interleaved"]:
        names = {"revision": "the method's revision", "rules": "the rules for outputs"}
        found += [f"{names.get(n, n)} was {a}, is {b}" for n, a, b in _changed(old, new)]
    load = other_load(known.measurement)
    if load is not None:
        found.append(f"other processes had a load of {load}")
    if not found and then.fingerprint != here.fingerprint:
        found.append("the environment was not told apart by libraries and variables")
    return found


def _changed(before: Mapping[str, object], now: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """Names of what differs, with the old and the new value."""
    keys = sorted({*before, *now}, key=str)
    return [(k, _word(before.get(k)), _word(now.get(k))) for k in keys if before.get(k) != now.get(k)]


def _word(value: object) -> object:
    return "not set" if value is None or value == "" else value
