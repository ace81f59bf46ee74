"""How busy other processes keep the cores while something is timed."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WINDOW_S = 0.5
"""The kernel counts in steps of 10 ms: over less time the share of a core would be noise."""

_STAT = Path("/proc/stat")
_KEPT = 256
_OTHERS = (0, 2, 5, 6, 7)
"""Columns of /proc/stat that count: user, system, irq, softirq, steal. Not niced work, which gives way at once and is
what the builders of a sweep do."""


@dataclass(frozen=True)
class _Reading:
    """Seconds since boot, by our clock, in use of our cores, and in use of them by this process."""

    at_s: float
    busy_s: float
    own_s: float


class OtherLoad:
    """Reads how much of this process's cores others used."""

    def __init__(self) -> None:
        self._past: deque[_Reading] = deque(maxlen=_KEPT)
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")

    def watch(self) -> Callable[[], dict[str, float]]:
        """From now on; what it returns tells the cores that others used since, on average, as ``other_cores``,
        and how many there are.

        The answer covers at least the last half second, if this object has been asked before; it is empty where the
        system does not tell.
        """
        first = self._read()
        if first is None:
            return dict
        self._past.append(first)
        return lambda: self._since(first)

    def _since(self, first: _Reading) -> dict[str, float]:
        now = self._read()
        if now is None:
            return {}
        old = [r for r in self._past if now.at_s - r.at_s >= WINDOW_S]
        since = old[-1] if old and old[-1].at_s < first.at_s else first
        wall_s = max(now.at_s - since.at_s, self._tick_s)
        # Each core's counter may be a step off at either end.
        others_s = (now.busy_s - since.busy_s) - (now.own_s - since.own_s) - 2 * self._tick_s
        return {"other_cores": round(max(0.0, others_s / wall_s), 2), "cores": len(os.sched_getaffinity(0))}

    def _read(self) -> _Reading | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
            lines = (line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu"))
            ticks = sum(sum(int(fields[1 + c]) for c in _OTHERS) for fields in lines if fields[0] in names)
            return _Reading(time.monotonic(), ticks * self._tick_s, time.process_time())
        return None
