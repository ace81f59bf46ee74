"""What the evaluator needs from the device that candidates run on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

Run = Callable[[], Any]
"""One call of a candidate on fixed arguments."""


class Device(ABC):
    """One device, used by one thread of one process.

    ``name`` is torch's name for it. A device error that cannot be recovered from makes :meth:`is_healthy` false; the
    process then has to be replaced.
    """

    name: str
    modes: tuple[str, ...]
    """Execution modes (:class:`workers.records.Method`) that it can time."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything submitted; asynchronous errors show up here."""

    @abstractmethod
    def prepare(self, run: Run, mode: str) -> Run:
        """What is timed in a mode: ``run`` itself, or a captured graph of it."""

    @abstractmethod
    def flush_cache(self) -> None:
        """Replace the contents of the last-level cache."""

    @abstractmethod
    def time_us(self, run: Run, cold_cache: bool) -> float:
        """Microseconds of one call, with the cache flushed before if ``cold_cache``."""

    @abstractmethod
    def conditions(self) -> Mapping[str, Any]:
        """Clocks (MHz), temperature (C) and the like, as far as they can be read now."""

    @abstractmethod
    def is_healthy(self) -> bool:
        """Whether the device still works in this process."""

    @abstractmethod
    def memory_budget_bytes(self) -> int:
        """Memory that resident workloads may take."""


def open_device(target: str) -> Device:
    """The device for a target, in this process."""
    if target == "cpu":
        from workers.cpu import HostDevice

        return HostDevice()
    from workers.cuda import CudaDevice

    return CudaDevice()
