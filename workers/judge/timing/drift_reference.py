"""The drift reference: a fixed computation that is timed now and then, to see how fast the device is at the moment."""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any

from workers.devices.device import Device

EVERY_S = 2.0
"""Seconds between two timings, each of which takes about 3 ms on an H200."""

_KEPT = 5


class DriftReference:
    """The time of the drift reference, smoothed over several timings: a single one is noisier than the drift."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._looks: deque[float] = deque(maxlen=_KEPT)
        self._looked_at = -float("inf")

    def conditions(self) -> dict[str, Any]:
        """``anchor_us`` for a measurement that begins now, timed again if the last timing is old. Empty if the device
        has no drift reference."""
        now = time.monotonic()
        if now - self._looked_at >= EVERY_S:
            self._looked_at = now
            took_us = self._device.drift_reference_us()
            if took_us is not None:
                self._looks.append(took_us)
        return {"anchor_us": round(statistics.median(self._looks), 3)} if self._looks else {}
