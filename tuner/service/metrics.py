"""The metrics under ``/metrics``: requests counted by this server's processes, sweeps counted in the database."""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from db.records import SweepState
from db.store import Store

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("tuner_http_requests", "Requests answered.", ["method", "route", "status"])
REQUEST_S = Histogram("tuner_http_request_seconds", "Time to answer.", ["route"], buckets=SECONDS)
LOOKUPS = Counter("tuner_best_config_lookups", "Best-config lookups by how they were found.", ["found"])
STREAMS = Gauge("tuner_event_streams", "Open event streams.", multiprocess_mode="livesum")
STARTED = Counter("tuner_sweeps_started", "Sweeps started over HTTP.", ["outcome"])


class Stored(Collector):
    """Gauges that are read from the database when Prometheus asks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        sweeps = GaugeMetricFamily("tuner_sweeps", "Sweeps in the database by state.", labels=["state"])
        counted = self._store.sweeps.states()
        for state in SweepState:
            sweeps.add_metric([state.value], counted.get(state.value, 0))
        yield sweeps


def exposition(store: Store) -> bytes:
    """The metrics of all processes of the server, as text for Prometheus.

    Raises:
        StoreError: The database does not answer.
    """
    own: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        own = CollectorRegistry()
        multiprocess.MultiProcessCollector(own)
    stored = CollectorRegistry(auto_describe=False)
    stored.register(Stored(store))
    return generate_latest(own) + generate_latest(stored)
