"""What a sandbox and its owner tell each other as plain values, and the errors of a call into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workers.errors import FailureInSandbox
from workers.records import Status

Send = Callable[[str, Any], None]
"""The function with which a handler reports a phase or an event."""

_BY_NAME = {"Rejected": Status.REJECTED, "Skipped": Status.SKIPPED}


class PhaseKind(StrEnum):
    """What a sandbox is doing; each kind has a deadline."""

    COMPILE = "compile"
    LOAD = "load"
    PREPARE = "prepare"
    CHECK = "check"
    MEASURE = "measure"
    COMPARE = "compare"
    INSPECT = "inspect"


@dataclass(frozen=True)
class Phase:
    """A phase that has begun.

    Args:
        kind: What is done.
        of: Key of the variant that is loaded or inspected, uuid of the workload in the other phases of a judge.
    """

    kind: PhaseKind
    of: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.of}".rstrip()


@dataclass(frozen=True)
class Raised:
    """An exception that ended a call. The exception itself is not sent: it may hold anything, and unpickling it would
    need the candidate's modules.

    Args:
        kind: Name of its class.
        text: Its text.
        status: What it means for the candidate, if it is one of the errors that say so.
        no_graph: Whether it is the device's own word that the candidate cannot be captured in a graph.
    """

    kind: str
    text: str
    status: Status | None = None
    no_graph: bool = False

    def __str__(self) -> str:
        return self.text if self.status is Status.SKIPPED else f"{self.kind}: {self.text}"


def status_of(error: BaseException) -> Status | None:
    """The status that an exception stands for; None if it is an ordinary one.

    A Solution knows nothing of our classes, so what it wants to say with an exception it says by its class's name.
    """
    if isinstance(error, FailureInSandbox):
        return error.status
    return next((_BY_NAME[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in _BY_NAME), None)


class ChildError(Exception):
    """A sandbox did not answer a call. ``phase`` is where it was, ``log`` what it had printed; ``status`` is what this
    means for the candidate, None if that depends on the caller."""

    status: Status | None = None

    def __init__(self, message: str, phase: Phase, log: str = "") -> None:
        super().__init__(message)
        self.phase = phase
        self.log = log


class PhaseTimeoutError(ChildError):
    """A phase passed its deadline and the process was killed."""

    status = Status.TIMEOUT


class ChildDiedError(ChildError):
    """The process died: a signal, a call of exit, out of memory."""

    status = Status.CRASHED


class ChildRaisedError(ChildError):
    """The handler raised; the process can still be used. ``raised`` is the exception."""

    def __init__(self, raised: Raised, phase: Phase, log: str = "") -> None:
        super().__init__(str(raised), phase, log)
        self.raised = raised
        self.status = raised.status
