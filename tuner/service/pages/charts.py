"""The plots of a sweep's page as JSON for Plotly's script; the same figures as in the report file."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

from db.store import Store
from tuner.results import roofline
from tuner.results.report import figures

KEPT = 64
"""Most sweeps whose figures a server process keeps."""


class Charts:
    """Draws a sweep's figures and keeps them until its trials change. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[int, tuple[Any, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def json(self, sweep_id: int) -> bytes:
        """Name -> figure as JSON; a figure is null while there is too little to show.

        Raises:
            NoSuchSweep: There is none.
        """
        sweep = self._store.sweeps.get(sweep_id)
        count = sum(self._store.trials.counts([sweep_id])[sweep_id].values())
        state = (count, sweep.state, sweep.finished_at)
        with self._lock:
            kept = self._kept.get(sweep_id)
        if kept is not None and kept[0] == state:
            return kept[1]
        trials = self._store.trials.points(sweep_id)
        winners = self._store.winners.of(sweep_id)
        drawn = figures.of_sweep(trials, winners, sweep.summary, roofline.of_sweep(self._store, sweep, winners))
        made = json.dumps(drawn, separators=(",", ":")).encode()
        with self._lock:
            self._kept[sweep_id] = (state, made)
            self._kept.move_to_end(sweep_id)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made
