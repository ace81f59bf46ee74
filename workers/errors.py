"""Errors of the machinery. A candidate's failure is never one of these: it is a Status in a record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workers.records import Status

ESCAPE_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_OF_RAY_ALONE = re.compile(r"\s*(class_name|actor_id|pid|namespace|name|ip|job_id|node_id)\s*[:=]")
LONGEST = 300
"""Characters of an error that is told in another one."""


def one_line(error: BaseException) -> str:
    """An error of a library in one line: no escape codes, no ids of Ray's, of a traceback only how it ends."""
    lines = [line.rstrip() for line in ESCAPE_CODES.sub("", str(error)).splitlines() if line.strip()]
    if lines and (lines[0].startswith(("ray::", "Traceback")) or any("Traceback (most" in line for line in lines)):
        lines = lines[-1:]
    told = [line for line in lines if not _OF_RAY_ALONE.match(line)] or lines or [type(error).__name__]
    return " ".join(" ".join(told).split())[:LONGEST]


class WorkerError(RuntimeError):
    """The machinery cannot go on; the message is one line for the user."""


class DatasetError(WorkerError):
    """A flashinfer-trace folder, or something in it, cannot be used; the message names the file and the line."""


class ClusterError(WorkerError):
    """The Ray cluster cannot be reached, or has no machine that fits."""


class NoPlaceError(WorkerError):
    """A folder that is needed cannot be made or written; the message names the variable that moves it."""


class ArtifactMissingError(WorkerError):
    """The cache does not hold an artifact, or no longer: the variant has to be built again."""


class FailureInSandbox(Exception):  # noqa: N818 - which error it is, its status says
    """Raised in a sandbox; ``status`` is what it means for the candidate."""

    status = Status.RUNTIME_ERROR


class DeviceLostError(FailureInSandbox):
    """The device does not recover from what a candidate did."""

    status = Status.CRASHED


class ProcessChangedError(FailureInSandbox):
    """A candidate changed something of its process that cannot be put back. The message names it."""

    status = Status.PROCESS_CHANGED


class TamperedError(FailureInSandbox):
    """A part of the evaluator is not what it was. The message names it."""

    status = Status.TAMPERED


class CompileError(FailureInSandbox):
    """A candidate does not compile for its target; the first line says why."""

    status = Status.COMPILE_ERROR


class RejectedError(FailureInSandbox):
    """A kernel cannot be launched on the target; ``figures`` are the static ones, as far as they are known."""

    status = Status.REJECTED

    def __init__(self, message: str, figures: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.figures = dict(figures)


class CacheFullError(WorkerError):
    """The disk of the artifact cache is full, so a failure says nothing about the candidate."""
