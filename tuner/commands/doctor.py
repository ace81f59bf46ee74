"""``tuner doctor``: whether everything that a sweep needs is there, and if not, what to do."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from db.errors import StoreError
from tuner.settings import SweepSettings
from workers.build.artifact_cache import default_cache_dir
from workers.errors import WorkerError

FREE_BYTES_WANTED = 2 << 30


@dataclass(frozen=True)
class Check:
    """The result of one check. ``needed`` says whether a sweep on this machine depends on it."""

    name: str
    ok: bool
    message: str
    needed: bool = True

    def document(self) -> dict[str, Any]:
        """The JSON document of the check."""
        return asdict(self)


def examine(settings: SweepSettings) -> list[Check]:
    """All checks, in the order in which a sweep would fail. Writes nothing but an empty database."""
    return [
        _python(),
        *(_package(name) for name in ("torch", "flashinfer-bench", "numba", "ray", "optuna", "sqlalchemy")),
        *(_package(name, needed=False) for name in ("nvidia-cutlass-dsl", "apache-tvm-ffi", "nvidia-ml-py", "psycopg")),
        _gpu(),
        _guard("dataset", lambda: _dataset(settings.dataset)),
        _guard("database", lambda: _database(settings.db)),
        _cache(settings.cache_dir or default_cache_dir()),
        _ray(settings.ray_address),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info[:2] in ((3, 11), (3, 12)), f"{version}; 3.11 and 3.12 are tested")


def _package(name: str, needed: bool = True) -> Check:
    try:
        return Check(name, True, metadata.version(name), needed)
    except metadata.PackageNotFoundError:
        extra = "" if needed else " (only for GPU targets or PostgreSQL: pip install 'tuner[gpu,postgres]')"
        return Check(name, False, f"not installed{extra}", needed)


def _gpu() -> Check:
    from workers.devices.environment import gpu_target

    target = gpu_target() if importlib.util.find_spec("pynvml") else None
    message = f"target {target}" if target else "no H100, H200 or B200 here; sweeps use the cpu target"
    return Check("gpu", target is not None, message, needed=False)


def _guard(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (StoreError, WorkerError) as error:
        return Check(name, False, str(error))


def _dataset(folder: Path | None) -> str:
    from tuner.sweeps.setup import open_dataset

    dataset = open_dataset(folder)
    return f"{len(dataset.definitions)} definitions in {'the packaged dataset' if folder is None else folder}"


def _database(url: str) -> str:
    from db.store import Store

    store = Store.open(url)
    try:
        return f"schema {store.schema_version()}"
    finally:
        store.close()


def _cache(folder: Path) -> Check:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(existing, os.W_OK)
    free = shutil.disk_usage(existing).free
    message = f"{folder}: {free >> 30} GiB free" if writable else f"{folder}: not writable; set TUNER_CACHE_DIR"
    return Check("artifact cache", writable and free > FREE_BYTES_WANTED, message)


def _ray(address: str | None) -> Check:
    if address is None:
        return Check("ray cluster", True, "a local one is started for each sweep", needed=False)
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        nodes = [n for n in ray.nodes() if n["Alive"]]
        ray.shutdown()
    except Exception as error:  # Ray raises a different class for each way of being unreachable
        return Check("ray cluster", False, f"{address} cannot be reached: {' '.join(str(error).split())[:200]}")
    return Check("ray cluster", True, f"{address}: {len(nodes)} nodes")
