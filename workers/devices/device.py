"""The interface of a device that candidates run on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

Run = Callable[[], Any]
"""One call of a candidate on fixed arguments."""

CANDIDATE, CHECK, COLD, DRIFT_REFERENCE = "candidate", "check", "cold", "anchor"
"""Kinds of work on the device: candidates, checks of them, making the cache cold, the drift reference (in records under
its first name)."""


class Sample(ABC):
    """A timed call that was started. ``late`` means that the device waited for the host inside the timed part, in a
    mode in which it must not."""

    late: bool = False

    @abstractmethod
    def us(self) -> float:
        """Microseconds that the call took; waits for its end."""


class Device(ABC):
    """One device, used by one thread of one process.

    ``name`` is torch's name for it, ``model`` the processor's marketing name. After a device error that cannot be
    recovered from, :meth:`is_healthy` is false and the process has to be replaced.
    """

    name: str
    model: str
    modes: tuple[str, ...]
    """Modes (:class:`workers.records.Method`) that it can time."""
    graph_mode: str | None = None
    """The mode in which calls are captured in a graph, None for a device without graphs."""
    runs_ahead: bool = False
    """Whether the device works on its own while the host does something else."""
    retakes: int = 0
    """How often a throttled or drifting measurement is taken again."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything submitted; asynchronous errors are raised here."""

    def mark(self) -> Callable[[], None]:
        """Remember what is submitted now: the function that is returned waits for that, and for nothing after it."""
        return lambda: None

    @abstractmethod
    def prepare(self, run: Run, mode: str) -> Run:
        """What is timed in a mode: ``run`` itself, or a captured graph of it.

        Raises:
            CaptureError: It cannot be captured as a graph.
        """

    @abstractmethod
    def ready(self, mode: str, cold_cache: bool) -> None:
        """Bring the device into the state in which a sample starts, with other data in the cache if ``cold_cache``.
        Does not wait."""

    @abstractmethod
    def submit(self, run: Run, mode: str, kind: str = CANDIDATE) -> Sample:
        """Start one timed call of a prepared run, right after :meth:`ready`. Does not wait if the device works on its
        own."""

    def hold(self, mode: str) -> None:
        """Keep the device busy until the host has submitted what comes next. Only work that waits for it is held."""
        return None

    def time_us(self, run: Run, mode: str, cold_cache: bool) -> float:
        """Microseconds of one call of a prepared run, after a flush of the cache if ``cold_cache``."""
        self.ready(mode, cold_cache)
        return self.submit(run, mode).us()

    @abstractmethod
    def span(self, kind: str) -> AbstractContextManager[None]:
        """Count work submitted within this context as ``kind`` in :meth:`usage`."""

    @abstractmethod
    def usage(self) -> dict[str, float]:
        """Seconds that the device was busy with each kind of work since the last call; waits for all of it."""

    @abstractmethod
    def conditions(self) -> Mapping[str, Any]:
        """Clocks (MHz), temperature (C) and the like, as far as they can be read."""

    def watch_load(self) -> Callable[[], Mapping[str, Any]]:
        """Start to watch other load. The function that is returned says what others have used of the device and the
        cores since: ``other_cores`` and ``other_gpu_percent``, as far as they can be read."""
        return dict

    def rates(self) -> Mapping[str, float]:
        """What the device does at most, measured: ``copy_bytes_per_us`` (read and written), and
        ``multiply_add_flop_per_us``. Empty where a data sheet says it."""
        return {}

    def is_throttled(self, conditions: Mapping[str, Any]) -> bool:
        """Whether a measurement under these conditions should be taken again."""
        return False

    def drift_reference_us(self) -> float | None:
        """Microseconds that the drift reference takes now, None if the device has none."""
        return None

    @abstractmethod
    def is_healthy(self) -> bool:
        """Whether the device still works in this process."""

    @abstractmethod
    def memory_budget_bytes(self) -> int:
        """Memory that resident workloads may take."""

    def release(self) -> None:
        """Return memory that is kept for reuse to the device."""
        return None

    def tidy(self) -> None:
        """Like :meth:`release`, but only if memory is nearly used up: other allocators cannot use what is kept."""
        return None


class CaptureError(RuntimeError):
    """A candidate's calls cannot be captured in a graph.

    Args:
        why: What was in the way.
        is_undone: Whether the process is as it was before. If not, it has to be replaced.
    """

    CURE = "; mode auto or eager times it without a graph"

    def __init__(self, why: object, is_undone: bool = False) -> None:
        super().__init__(f"it cannot be captured in a CUDA graph: {why}")
        self.is_undone = is_undone
