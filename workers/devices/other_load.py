"""Measures how much other processes use the cores while something is timed."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WINDOW_S = 0.5
"""Shortest time to watch. The kernel counts in steps of 10 ms, so over less time the result would be noise."""

_EVERY_S = 0.1
"""Seconds for which a reading is used again. One takes a third of a millisecond, a measurement on a GPU some thirty."""

_STAT = Path("/proc/stat")
_KEPT = 256
_OTHERS = (0, 2, 5, 6, 7)
"""Columns of /proc/stat that count: user, system, irq, softirq, steal. Not niced work, which yields at once, such as a
sweep's builds."""


@dataclass(frozen=True)
class _Reading:
    """Seconds by the clock, seconds in which our cores were used, and those in which this process used them."""

    at_s: float
    busy_s: float
    own_s: float


class OtherLoad:
    """Measures how much others use the cores of this process."""

    def __init__(self) -> None:
        self._past: deque[_Reading] = deque(maxlen=_KEPT)
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        # A candidate may narrow the process to some of them, and all readings have to be of the same ones.
        self._cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self._recent()

    def watch(self) -> Callable[[], dict[str, float]]:
        """Start to watch. The function that is returned gives the mean number of cores that others have used since, as
        ``other_cores``, and the number of cores.

        The answer covers at least the last half second, if this object is that old. It is empty if the system does not
        report it.
        """
        first = self._recent()
        if first is None:
            return dict
        return lambda: self._since(first)

    def _since(self, first: _Reading) -> dict[str, float]:
        now = self._recent()
        if now is None:
            return {}
        old = [r for r in self._past if now.at_s - r.at_s >= WINDOW_S]
        since = old[-1] if old and old[-1].at_s < first.at_s else first
        wall_s = max(now.at_s - since.at_s, self._tick_s)
        # Each core's counter may be off by one step at either end.
        others_s = (now.busy_s - since.busy_s) - (now.own_s - since.own_s) - 2 * self._tick_s
        return {"other_cores": round(max(0.0, others_s / wall_s), 2), "cores": len(self._cores)}

    def _recent(self) -> _Reading | None:
        """The last reading, or a new one."""
        if self._past and time.monotonic() - self._past[-1].at_s < _EVERY_S:
            return self._past[-1]
        now = self._read()
        if now is not None:
            self._past.append(now)
        return now

    def _read(self) -> _Reading | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = (line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu"))
            ticks = sum(sum(int(fields[1 + c]) for c in _OTHERS) for fields in lines if fields[0] in self._cores)
            # Where we are niced ourselves, as workers of somebody's Ray cluster are, no column has our time.
            own_s = time.process_time() if os.getpriority(os.PRIO_PROCESS, 0) <= 0 else 0.0
            return _Reading(time.monotonic(), ticks * self._tick_s, own_s)
        return None
