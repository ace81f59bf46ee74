"""Errors of the machinery. A candidate's failure is never one of these: it is a Status in a record."""

from __future__ import annotations

import re

_ESCAPE_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_OF_RAY_ALONE = re.compile(r"\s*(class_name|actor_id|pid|namespace|name|ip|job_id|node_id)\s*[:=]")
LONGEST = 300
"""Characters of an error that is told in another one."""


def one_line(error: BaseException) -> str:
    """An error of a library in one line: no escape codes, no ids of Ray's, of a traceback only how it ends."""
    lines = [line.rstrip() for line in _ESCAPE_CODES.sub("", str(error)).splitlines() if line.strip()]
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


class DeviceLostError(Exception):
    """Raised in a sandbox: the device does not recover from what a candidate did."""


class ProcessChangedError(Exception):
    """In a killable process: a candidate changed something of it that cannot be put back. The message names it."""


class CacheFullError(WorkerError):
    """The disk of the artifact cache is full, so a failure says nothing about the candidate."""


class ChildError(Exception):
    """A sandbox did not answer a call. ``phase`` is where it was, ``log`` what it had printed."""

    def __init__(self, message: str, phase: str, log: str = "") -> None:
        super().__init__(message)
        self.phase = phase
        self.log = log


class PhaseTimeoutError(ChildError):
    """A phase passed its deadline and the process was killed."""


class ChildDiedError(ChildError):
    """The process died: a signal, a call of exit, out of memory."""


class ChildRaisedError(ChildError):
    """The handler raised; the process can still be used. The message is the last line of the traceback."""
