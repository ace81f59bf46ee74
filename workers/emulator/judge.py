"""Judges a variant on a machine without its GPU: builds it, executes its kernels' PTX, checks what each one leaves.

A verdict says right or wrong for the inputs tried. It says nothing about time, and it is not a measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.emulated_case import EmulatedCase, StageError

from .errors import DeadlockError, FaultError, UnknownInstructionError
from .host.launches import Host, HostError, build_with_ptx, opened
from .pipeline import KernelError, Module, fresh_memory, short_name, steps

SHRUNK_SMS = 8
"""SMs that persistent grids are made for: small inputs then give a CTA several tiles, as large ones do on a GPU."""


class EmulatedStatus(StrEnum):
    """How an emulated run ended. The names are apart from those of measured trials."""

    PASSED = "EMULATED_PASSED"
    WRONG = "EMULATED_WRONG_NUMBERS"
    FAULT = "EMULATED_FAULT"
    DEADLOCK = "EMULATED_DEADLOCK"
    UNKNOWN = "EMULATED_UNKNOWN_INSTRUCTION"
    NOT_BUILT = "EMULATED_NOT_BUILT"


@dataclass(frozen=True)
class EmulatedVerdict:
    """What one input showed.

    Args:
        status: How it ended.
        case: Name of the input.
        kernel: Kernel that failed, "" where none did.
        message: Instruction, or tensor element with both values.
        seconds: Of this machine's time; not of a GPU.
    """

    status: EmulatedStatus
    case: str = ""
    kernel: str = ""
    message: str = ""
    seconds: float = 0.0

    @property
    def is_passed(self) -> bool:
        """Whether every kernel left what it must."""
        return self.status is EmulatedStatus.PASSED

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        return {**asdict(self), "status": self.status.value, "seconds": round(self.seconds, 3)}


def stage(sources: Mapping[str, str], package: Path, sms: int | None = SHRUNK_SMS) -> None:
    """Write a Solution's sources as a package; with ``sms`` its persistent grids are made for this many SMs."""
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name, text in sources.items():
        target = package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    if sms is not None:
        _shrink(package / "config.py", sms)


def _shrink(path: Path, sms: int) -> None:
    scope: dict[str, Any] = {}
    text = path.read_text()
    exec(compile(text, str(path), "exec"), scope)
    changed = [(bound, {**config, "sms": sms} if "sms" in config else config) for bound, config in scope["TABLE"]]
    path.write_text(f"{text}\n\nTABLE = {changed!r}\n")


def run_case(host: Host, case: EmulatedCase, row: int | None = None, seed: int = 0) -> EmulatedVerdict:
    """Execute one call and check every kernel."""
    began = time.perf_counter()

    def ended(status: EmulatedStatus, kernel: str = "", message: str = "") -> EmulatedVerdict:
        return EmulatedVerdict(status, case.name, kernel, message, time.perf_counter() - began)

    try:
        call = host.call(case.size, row, case.offset, case.scaling)
        module = Module(host.package / "artifacts" / f"{call.function}.ptx")
        memory = fresh_memory(call, dict(case.inputs))
        before = {name: r.data.copy() for name, r in memory.by_name.items() if name in case.inputs}
        for launch in steps(module, call, memory, seed, case.beside, case.fed):
            kernel = short_name(launch.kernel)
            try:
                case.check(kernel, {name: r.data for name, r in memory.by_name.items()})
            except StageError as error:
                return ended(EmulatedStatus.WRONG, kernel, str(error))
        for name, data in before.items():
            if not np.array_equal(memory.by_name[name].data, data):
                return ended(EmulatedStatus.WRONG, "", f"the input {name} was changed")
    except KernelError as error:
        return ended(_status_of(error), error.kernel, error.message)
    except HostError as error:
        return ended(EmulatedStatus.NOT_BUILT, "", str(error))
    return ended(EmulatedStatus.PASSED)


def _status_of(error: KernelError) -> EmulatedStatus:
    cause = error.__cause__
    if isinstance(cause, DeadlockError):
        return EmulatedStatus.DEADLOCK
    if isinstance(cause, FaultError):
        return EmulatedStatus.FAULT
    assert isinstance(cause, UnknownInstructionError), cause
    return EmulatedStatus.UNKNOWN


def judge_sources(
    sources: Mapping[str, str],
    cases: Iterable[EmulatedCase],
    folder: Path,
    mock: Path,
    sms: int | None = SHRUNK_SMS,
    tell: Callable[[EmulatedVerdict], None] = lambda verdict: None,
) -> list[EmulatedVerdict]:
    """Build a Solution and run the cases; the first failure is the last verdict.

    Args:
        sources: Path -> text.
        cases: Inputs.
        folder: For the package; must not exist.
        mock: Library of ``compile_mock``.
        sms: See :func:`stage`.
        tell: Called with each verdict.
    """
    verdicts: list[EmulatedVerdict] = []
    began = time.perf_counter()
    try:
        stage(sources, folder, sms)
        build_with_ptx(folder)
        with opened(mock, folder) as host:
            for case in cases:
                verdicts.append(run_case(host, case))
                tell(verdicts[-1])
                if not verdicts[-1].is_passed:
                    break
    except HostError as error:
        seconds = time.perf_counter() - began
        verdicts.append(EmulatedVerdict(EmulatedStatus.NOT_BUILT, "", "", str(error), seconds))
        tell(verdicts[-1])
    return verdicts
