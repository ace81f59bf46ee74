"""What the evaluator needs from the device that candidates run on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

Run = Callable[[], Any]
"""One call of a candidate on fixed arguments."""

CANDIDATE, CHECK, COLD, ANCHOR = "candidate", "check", "cold", "anchor"
"""What the device can be busy with: candidates, our checks of them, making the cache cold, the anchor."""


class Sample(ABC):
    """A timed call that was started. ``late`` tells that the device had to wait for the host inside the timed part,
    in a mode where it must not."""

    late: bool = False

    @abstractmethod
    def us(self) -> float:
        """Microseconds that it took; waits for its end."""


class Device(ABC):
    """One device, used by one thread of one process.

    ``name`` is torch's name for it, ``model`` the processor's marketing name. A device error that cannot be recovered
    from makes :meth:`is_healthy` false; the process then has to be replaced.
    """

    name: str
    model: str
    modes: tuple[str, ...]
    """Execution modes (:class:`workers.records.Method`) that it can time."""
    runs_ahead: bool = False
    """Whether it works on what was submitted while the host does something else."""
    retakes: int = 0
    """How often a measurement that was throttled or drifted is taken again."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything submitted; asynchronous errors show up here."""

    @abstractmethod
    def prepare(self, run: Run, mode: str) -> Run:
        """What is timed in a mode: ``run`` itself, or a captured graph of it.

        Raises:
            CaptureError: A graph of it cannot be captured; the process has to be replaced.
        """

    @abstractmethod
    def ready(self, mode: str, cold_cache: bool) -> None:
        """Bring the device into the state that a sample starts from, with other data in the cache if
        ``cold_cache``. Does not wait."""

    @abstractmethod
    def submit(self, run: Run, mode: str, kind: str = CANDIDATE) -> Sample:
        """Start one timed call of a prepared run; :meth:`ready` was the last thing asked for. Does not wait, where the
        device can run by itself."""

    def time_us(self, run: Run, mode: str, cold_cache: bool) -> float:
        """Microseconds of one call of a prepared run, with the cache flushed before if ``cold_cache``."""
        self.ready(mode, cold_cache)
        return self.submit(run, mode).us()

    @abstractmethod
    def span(self, kind: str) -> AbstractContextManager[None]:
        """What is submitted inside counts as ``kind`` in :meth:`usage`."""

    @abstractmethod
    def usage(self) -> dict[str, float]:
        """Seconds that the device was busy with each kind of work since the last call; waits for all of it."""

    @abstractmethod
    def conditions(self) -> Mapping[str, Any]:
        """Clocks (MHz), temperature (C) and the like, as far as they can be read now."""

    def watch_load(self) -> Callable[[], Mapping[str, Any]]:
        """From now on; what it returns tells what others used of the device and the cores meanwhile: ``other_cores``,
        ``other_gpu_percent``, as far as they can be read."""
        return dict

    def is_throttled(self, conditions: Mapping[str, Any]) -> bool:
        """Whether these conditions make a measurement worthless: it should be taken again."""
        return False

    def anchor_us(self) -> float | None:
        """Microseconds that a fixed piece of work takes now, None where there is none."""
        return None

    @abstractmethod
    def is_healthy(self) -> bool:
        """Whether the device still works in this process."""

    @abstractmethod
    def memory_budget_bytes(self) -> int:
        """Memory that resident workloads may take."""

    def release(self) -> None:
        """Give memory that is kept for reuse back to the device."""
        return None

    def tidy(self) -> None:
        """The same if memory is nearly used up: not everybody's allocations can take from what is kept."""
        return None


class CaptureError(RuntimeError):
    """A candidate's calls cannot be captured in a graph."""

    MARK = "cannot be captured in a CUDA graph"
    """In every message."""
