"""What can go wrong in the machinery. A candidate's failure is never one of these: it is a Status in a record."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """The machinery cannot go on; the message is one line for the user."""


class DatasetError(WorkerError):
    """A flashinfer-trace folder, or something in it, cannot be used; the message names the file and the line."""


class ClusterError(WorkerError):
    """The Ray cluster cannot be reached, or has no machine that fits."""


class ArtifactMissingError(WorkerError):
    """The cache does not hold an artifact (any more): the variant has to be built again."""


class DeviceLostError(Exception):
    """In a killable process: the device does not recover from what a candidate did."""


class CacheFullError(WorkerError):
    """The disk of the artifact cache is full; nothing that fails there says anything about a candidate."""


class ChildError(Exception):
    """A killable process did not deliver. ``phase`` is what it was at, ``log`` what it had printed."""

    def __init__(self, message: str, phase: str, log: str = "") -> None:
        super().__init__(message)
        self.phase = phase
        self.log = log


class PhaseTimeoutError(ChildError):
    """A phase ran past its limit and the process was killed."""


class ChildDiedError(ChildError):
    """The process ended by itself: a signal, an exit call, out of memory."""


class ChildRaisedError(ChildError):
    """The handler raised; the process is still usable. The message holds the traceback's last line."""
